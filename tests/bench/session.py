"""An agent's turn in a long session, counting included, and the loop meanwhile: `make bench WHAT=session`.

The session has 200 turns, 100k tokens and about 500 KB; each further turn has been seen but for its last
messages. It goes to the guard and to the child directly, in turn. Loop lag is told from outside: /livez is
asked every 2 ms, and what counts is when the answer was due, so one late answer makes those behind it late.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from proxy.prompt.counter import TokenCounter
from proxy.request.completion import ChatPrompt
from proxy.request.messages import Message
from tests.bench import sides
from tests.bench.document import Table, publish
from tests.bench.fitting import session as drawn
from tests.bench.load import Order, Pings, body, model, quantile, read_streams, spread
from tests.figures import bar

TURNS, TOKENS = 200, 100_000
#: A short answer: what a turn costs is what is before it.
ANSWER = Order(chunks=4, stream=True)
PING_EVERY_US = 2_000
#: Turns of all agents together; one with a fast model makes one in some seconds.
TURNS_PER_S = 4


def prose(draw: random.Random) -> str:
    """Words of the model's vocabulary, with a space five characters long on average: a token each, nearly."""
    vocabulary = json.loads((model() / "tokenizer.json").read_text())["model"]["vocab"]
    words = [entry[1:] for entry in vocabulary if entry[0] == "Ġ" and entry[1:].isalpha() and len(entry) <= 6]
    return " ".join(draw.choices(words, k=400_000))


async def session_bodies(seed: int, further: int) -> tuple[list[bytes], int]:
    """The session's body, then one for each further turn; and the first one's tokens."""
    draw, tokens = random.Random(seed), TokenCounter()
    text = prose(draw)
    await tokens.start(model(), [])
    per_token = 200_000 / await tokens.count(ChatPrompt(tuple(drawn(draw, text, 100, 2000))))
    size = round(per_token * TOKENS / TURNS)
    messages = drawn(draw, text, TURNS, size)
    counted = await tokens.count(ChatPrompt(tuple(messages)))
    made = []
    for _ in range(further + 1):
        user: list[Message] = drawn(draw, text, 1, size)[:1]
        made.append(await body(ANSWER, [*messages, *user], tokens))
        messages += drawn(draw, text, 1, size)
    await tokens.stop()
    return made, counted


def turns(bodies: Sequence[bytes], guard: int, direct: int) -> tuple[list[float], list[float]]:
    """Milliseconds that the guard adds to each turn: to its first event, to its end."""
    first, last = [], []
    for number, content in enumerate(bodies):
        ways = [guard, direct] if number % 2 else [direct, guard]
        seen = {port: read_streams(port, content) for port in ways}
        first.append(seen[guard].first[0] - seen[direct].first[0])
        last.append(seen[guard].last[0] - seen[direct].last[0])
    return first, last


def lag(port: int, seconds: float, bodies: Iterator[bytes] | None = None) -> list[float]:
    """Milliseconds of /livez, idle or beside turns."""
    pings = Pings(port, every_us=PING_EVERY_US, count=round(seconds * 1e6 / PING_EVERY_US))
    due = time.monotonic()
    for content in bodies or ():
        read_streams(port, content)
        due += 1 / TURNS_PER_S
        time.sleep(max(0.0, due - time.monotonic()))
        if pings.over():
            break
    return pings.times()


def run(seed: int, number: int, seconds: float) -> bool:
    beside = round(seconds * TURNS_PER_S) + TURNS_PER_S
    bodies, tokens = asyncio.run(session_bodies(seed, number + beside))
    with (
        tempfile.TemporaryDirectory() as scratch,
        sides.child() as direct,
        sides.guard(Path(scratch)) as guard,
    ):
        read_streams(guard.port, bodies[0])  # never seen: the price of beginning
        first, last = turns(bodies[1 : number + 1], guard.port, direct.port)
        idle = lag(guard.port, seconds)
        busy = lag(guard.port, seconds, iter(bodies[number + 1 :]))
    rows = [
        ("added to the first event, ms", f"{statistics.median(first):.1f} ±{spread(first):.1f}"),
        ("added to the whole turn, p50, ms", f"{statistics.median(last):.1f} ±{spread(last):.1f}"),
        ("added to the whole turn, p99, ms", f"{quantile(last, 0.99):.1f}"),
        ("loop lag p99.9, idle, ms", f"{quantile(idle, 0.999):.2f}"),
        (f"loop lag p99.9, {TURNS_PER_S} such turns/s, ms", f"{quantile(busy, 0.999):.2f}"),
    ]
    size = f"{len(bodies[0]) / 1000:.0f} KB, {TURNS} turns, {tokens} tokens"
    publish("session", Table((size, ""), rows), f"{number} turns; {len(busy)} questions for the lag.")
    good = [
        bar("session_added_p50_ms", statistics.median(last), 15.0),
        bar("session_loop_lag_ms", quantile(busy, 0.999), quantile(idle, 0.999) + 10),
    ]
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.session")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=40, help="turns")
    parser.add_argument("--seconds", type=float, default=15.0, help="of measuring the loop, each time")
    arguments = parser.parse_args()
    return 0 if run(arguments.seed, arguments.number, arguments.seconds) else 1


if __name__ == "__main__":
    sys.exit(main())
