"""How a request's cost grows with its prompt, its messages, and those who wait: `make bench WHAT=curves`.

The cost is CPU of all processes but the child, from outside, with a child that does no work. Of each curve
the exponent is stated: the slope of cost over size in logarithms, fitted to the larger half of the sizes,
where what every request costs is small beside what grows. 1 is linear; noise makes it a little more or less.

The next turn of a session is compared with the last two sent again by turns, of which nothing is new: they
are parsed, rendered and passed on, so what a next turn costs beyond must not depend on the session's length.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from proxy.gate.admission import Admission
from proxy.gate.budget import Budget
from proxy.gate.queue import Ticket
from proxy.prompt.counter import TokenCounter
from proxy.request.completion import ChatPrompt
from proxy.request.messages import Message
from supervisor.memory_model.sequence import SequenceDemand
from tests.bench import sides
from tests.bench.document import Table, publish
from tests.bench.fitting import code
from tests.bench.load import Order, body, cpu_s, model, read_streams
from tests.bench.sides import Side
from tests.figures import bar

TOKENS = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 190_000)
MESSAGES = (2, 5, 20, 50, 200, 500, 2_000, 5_000)
WAITING = (1, 10, 100, 1_000, 10_000)
#: Tokens of a message where their number is what grows.
MESSAGE_TOKENS = 20
ANSWER = Order(chunks=4, stream=True)
#: Nothing worse than linear: the rest is noise, and caches of the processor that larger sizes outgrow.
LINEAR = 1.15
#: CPU is counted in ticks of 10 ms: as many requests are timed together as make it some ticks.
ENOUGH_S = 0.15

#: Next turns that are timed, and how much more than a repeated one each may cost; encoding 190,000 tokens
#: anew takes 50 times as long.
TURNS, NEW_MS = 24, 3.0

Bodies = tuple[list[bytes], list[bytes]]


class Writer:
    """Conversations of wanted sizes, no two alike."""

    def __init__(self, seed: int) -> None:
        self._draw = random.Random(seed)
        self._text = code()
        self._tokens = TokenCounter()
        self._per_token = 0.0

    async def start(self) -> None:
        await self._tokens.start(model(), [])
        whole = self._messages(100, 2000)
        self._per_token = 200_000 / await self._tokens.count(ChatPrompt(tuple(whole)))

    async def stop(self) -> None:
        await self._tokens.stop()

    def _messages(self, number: int, characters: int) -> list[Message]:
        starts = [self._draw.randrange(len(self._text) - characters) for _ in range(number)]
        return [
            {"role": ("user", "assistant")[place % 2], "content": self._text[start : start + characters]}
            for place, start in enumerate(starts)
        ]

    async def bodies(self, tokens: int, messages: int, number: int) -> Bodies:
        """So many of never seen prompts, and of the next turns of one of them."""
        size = max(1, round(tokens * self._per_token / messages))
        cold = [await body(ANSWER, self._messages(messages - 1, size), self._tokens) for _ in range(number)]
        session, turns = self._messages(messages - 1, size), []
        for _ in range(max(number, TURNS) + 2):
            turns.append(await body(ANSWER, session, self._tokens))
            session = [*session, *self._messages(2, 200)[::-1]]
        return cold, turns


def cost_ms(guard: Side, bodies: Sequence[bytes]) -> float:
    """CPU per request, in milliseconds."""
    before = cpu_s(guard.processes)
    for content in bodies:
        read_streams(guard.port, content)
    return (cpu_s(guard.processes) - before) / len(bodies) * 1000


def curve(
    guard: Side, writer: Writer, sizes: Sequence[tuple[int, int]]
) -> Iterator[tuple[float, float, float]]:
    """Milliseconds for each size in tokens and messages: a cold prompt, a next turn, the same once more."""
    for tokens, messages in sizes:
        number = max(2, min(60, round(ENOUGH_S / (0.002 + tokens * 1.5e-6))))
        cold, turns = asyncio.run(_written(writer, tokens, messages, number))
        # The first ends with a long message that is marked, and in the second is another: without its mark.
        first, second, *rest = turns
        fresh = cost_ms(guard, cold)
        for content in (first, second):
            read_streams(guard.port, content)
        yield fresh, cost_ms(guard, rest), cost_ms(guard, rest[-2:] * (len(rest) // 2))


async def _written(writer: Writer, tokens: int, messages: int, number: int) -> Bodies:
    await writer.start()
    try:
        return await writer.bodies(tokens, messages, number)
    finally:
        await writer.stop()


def waiting_us(number: int, rounds: int) -> float:
    """Arriving at the gate, and leaving it, while so many wait; the gate's own time."""
    gate = Admission(Budget(max_running=8), max_waiting=number + 8)
    now = 0.0
    for place in range(number + 8):
        gate.arrive(_ticket(place), now)
    taken = []
    for place in range(number + 8, number + 8 + rounds):
        began = time.perf_counter()
        gate.leave(str(place - 8 - number), now)  # one that runs: the first of the queue follows
        gate.arrive(_ticket(place), now)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken) * 1e6


def _ticket(place: int) -> Ticket:
    demand = SequenceDemand(1_000, 500)
    return Ticket(str(place), str(place % 7), float(place), 1e9, demand, demand, max_tokens=500)


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope in logarithms over the larger half of the sizes."""
    half = len(sizes) // 2
    x, y = [math.log(size) for size in sizes[half:]], [math.log(cost) for cost in costs[half:]]
    return statistics.linear_regression(x, y).slope


def run(seed: int, number: int) -> bool:
    writer = Writer(seed)
    with tempfile.TemporaryDirectory() as scratch, sides.guard(Path(scratch)) as guard:
        by_tokens = list(curve(guard, writer, [(tokens, 20) for tokens in TOKENS]))
        by_messages = list(curve(guard, writer, [(MESSAGE_TOKENS * count, count) for count in MESSAGES]))
    by_waiting = [waiting_us(count, number) for count in WAITING]
    rows, good = [], []

    def add(name: str, title: str, sizes: Sequence[int], costs: Sequence[float], digits: int) -> None:
        found = exponent(sizes, costs)
        shown = ", ".join(f"{size:,}: {cost:.{digits}f}" for size, cost in zip(sizes, costs, strict=True))
        rows.append((title, shown, f"{found:.2f}"))
        good.append(bar(name, found, LINEAR))

    cold, warm, again = zip(*by_tokens, strict=True)
    many, more, _ = zip(*by_messages, strict=True)
    add("curves_prompt_exponent", "tokens of a prompt never seen; ms", TOKENS, cold, 1)
    add("curves_turn_exponent", "tokens of a session, at its next turn; ms", TOKENS, warm, 1)
    add("curves_messages_exponent", "messages of a prompt never seen; ms", MESSAGES, many, 1)
    add("curves_messages_turn_exponent", "messages of a session, at its next turn; ms", MESSAGES, more, 1)
    add("curves_waiting_exponent", "requests that wait, at the gate; us", WAITING, by_waiting, 0)
    new = [turn - repeated for turn, repeated in zip(warm, again, strict=True)]
    shown = ", ".join(f"{size:,}: {cost:.1f}" for size, cost in zip(TOKENS, new, strict=True))
    rows.append(("of that, for what is new (less seen turns sent again); ms", shown, ""))
    good.append(bar("curves_turn_new_ms", max(new[len(new) // 2 :]), NEW_MS))
    publish("curves", Table(("what grows", "cost of one request", "exponent"), rows), "CPU of one request.")
    return all(good)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.curves")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", help="nothing is timed by the clock here")
    parser.add_argument("--number", type=int, default=200, help="events at the gate for each size")
    arguments = parser.parse_args()
    return 0 if run(arguments.seed, arguments.number) else 1


if __name__ == "__main__":
    sys.exit(main())
