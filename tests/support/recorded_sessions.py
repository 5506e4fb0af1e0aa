"""Sessions of coding agents by sizes and times: recorded ones, or made ones of the same statistics.

The recorded ones (`../shared/traces/coding-agents.jsonl`, derived from callanjfox/kv-cache-tester under
Apache-2.0) are not part of the project. Where the file is missing, sessions
are drawn so that their prompts, answers, growth and pauses have the same percentiles.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

#: Shares at which the statistics of the 115 recorded sessions are given below.
_SHARES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
#: Tokens of a session's first prompt (chosen so that all prompts have the recorded statistics), by which the
#: next one is longer, and of an answer.
FIRST = (9_500, 14_500, 18_500, 25_000, 60_000, 120_000, 250_000)
GROWS = (98, 172, 310, 626, 1_481, 3_348, 12_846)
ANSWERS = (75, 107, 141, 223, 451, 968, 2_869)
#: Seconds from an answer to the next request, while a tool runs or a person reads.
PAUSES = (0.5, 4.0, 6.0, 11.0, 36.0, 183.0, 2_876.0)
#: Prompts grow faster until they have reached this many tokens, as agents read files.
SETTLED = (20_000, 40_000, 70_000, 95_000, 120_000, 150_000, 200_000)
_EARLY, _LATE = 3.0, 0.6
#: A pause is like the one before it this often: agents work in bursts.
_ALIKE = 0.5
#: Sessions differ in pace: the share at which a pause is drawn is raised to a power between e^-1 and e.
_PACES = 1.0
#: Requests of a session.
REQUESTS = (3, 7, 18, 41, 84, 137, 242)
#: What sessions of one agent share: its tools and its system prompt.
SYSTEM = 14_900
#: A part of all requests begins anew behind the system prompt: side agents, and compaction.
_ANEW = 0.01


@dataclass(frozen=True, slots=True)
class Turn:
    """One request. `common`: tokens that its prompt shares with that of turn `like`, which came before."""

    prompt: int
    out: int
    like: int | None
    common: int
    think: float


@dataclass(frozen=True, slots=True)
class Session:
    """`shared`: tokens of tools and system prompt."""

    shared: int
    turns: tuple[Turn, ...]

    def common(self, later: int, earlier: int) -> int:
        """Tokens that two prompts share."""
        least: float = math.inf
        at: int | None = later
        while at is not None and at > earlier:
            least, at = min(least, self.turns[at].common), self.turns[at].like
        return 0 if at != earlier else int(min(least, self.turns[earlier].prompt))


def load(path: Path | None, seed: int, number: int = 115) -> list[Session]:
    """The recorded sessions, in tokens as they were; drawn ones where `path` does not exist."""
    if path is None or not path.exists():
        rng = random.Random(seed)
        return [_drawn(rng) for _ in range(number)]
    return [_read(json.loads(line)) for line in path.read_text().splitlines()]


def scaled(sessions: Sequence[Session], factor: float, longest: float) -> list[Session]:
    """With shorter prompts; a session ends before its prompt would be longer than `longest`."""
    made = []
    for session in sessions:
        turns: list[Turn] = []
        for turn in session.turns:
            prompt, out = max(64, int(turn.prompt * factor)), max(8, min(turn.out, 4000))
            if prompt + out > longest:
                break
            turns.append(Turn(prompt, out, turn.like, int(turn.common * factor), min(turn.think, 1800.0)))
        made.append(Session(int(session.shared * factor), tuple(turns)))
    return made


def fitting(sessions: Sequence[Session], room: float, fit: float) -> tuple[list[Session], float]:
    """Scaled so that `fit` sessions of mean length fit in `room` rows with a running one; and the factor."""
    longest, target, factor = room / 2.3, room / (fit + 2), 0.001
    sizes = [turn.prompt for session in sessions for turn in session.turns]
    while factor < 3.0:
        kept = [size * factor for size in sizes if size * factor < longest]
        if not kept or sum(kept) / len(kept) >= target or len(kept) < 0.6 * len(sizes):
            break
        factor *= 1.03
    return [each for each in scaled(sessions, factor, longest) if len(each.turns) >= 8], factor


def _read(raw: dict) -> Session:  # type: ignore[type-arg]
    turns = tuple(
        Turn(each["in"], each["out"], each["like"], each["common"], each["think"] or 0.0)
        for each in raw["requests"]
    )
    return Session((raw["tools"] or 0) + (raw["system"] or 0), turns)


def _drawn(rng: random.Random) -> Session:
    prompt, turns = int(_sample(rng, FIRST)), list[Turn]()
    settled, pause, pace = _sample(rng, SETTLED), 0.0, math.exp(rng.uniform(-_PACES, _PACES))
    for index in range(max(2, int(_sample(rng, REQUESTS)))):
        common = turns[-1].prompt if turns else 0
        if turns and rng.random() < _ANEW:
            common = min(SYSTEM, common)
            prompt = common + int(_sample(rng, GROWS))
        out = int(_sample(rng, ANSWERS))
        if not turns or rng.random() > _ALIKE:
            pause = _sample(rng, PAUSES, pace)
        turns.append(Turn(prompt, out, index - 1 if turns else None, common, pause))
        prompt += int(_sample(rng, GROWS) * (_EARLY if prompt < settled else _LATE))
    return Session(SYSTEM, tuple(turns))


def _sample(rng: random.Random, quantiles: Sequence[float], power: float = 1.0) -> float:
    """Log-linear between the given shares, and constant beyond them."""
    share = rng.random() ** power
    for (low, least), (high, most) in pairwise(zip(_SHARES, quantiles, strict=True)):
        if share <= high:
            part = max(0.0, (share - low) / (high - low))
            return float(least * (most / least) ** part)
    return float(quantiles[-1])
