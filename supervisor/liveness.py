"""Is the child alive? Questions over HTTP, and the arithmetic of silence.

`Probe` asks: /health, and the canary, a completion of one token, which is the only proof that it serves.
`StallWatch` is pure: it is told what was seen at each tick and says when silence is worth a canary.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto

import aiohttp

from supervisor.silence import Phase, Silences

TICK_S = 0.5

#: A server that holds the GIL (a search stall) answers late; only many of these in a row mean anything.
HEALTH_TIMEOUT_S = 0.5

#: A thread that moves for this many stall times, with no byte sent and no memory changed, is spinning. A
#: search in the prompt cache looks the same: 18 s for each of many requests behind a session of 128k tokens.
SPINNING = 10

#: A gap between two ticks, or between wall and monotonic clock, from which on the machine must have slept.
SLEPT_S = 5.0


class Health(Enum):
    OK = auto()
    DEAD = auto()  # 503: the generation thread is dead
    REFUSED = auto()  # nobody listens, or the connection broke
    SILENT = auto()


class Answer(Enum):
    TOKEN = auto()
    ERROR = auto()  # an HTTP status that is not 200, or a 200 without a token
    REFUSED = auto()
    SILENT = auto()


class Probe:
    """Asks one child. The server closes each connection, so every question opens its own."""

    def __init__(self, session: aiohttp.ClientSession, port: int) -> None:
        self._session = session
        self._url = f"http://127.0.0.1:{port}"
        self.refusal = ""  # what the last canary was told instead of a token

    async def health(self, timeout_s: float = HEALTH_TIMEOUT_S) -> Health:
        try:
            async with self._session.get(f"{self._url}/health", timeout=_total(timeout_s)) as response:
                return Health.DEAD if response.status == 503 else Health.OK
        except TimeoutError:
            return Health.SILENT
        except (aiohttp.ClientError, OSError):
            return Health.REFUSED

    async def canary(self, timeout_s: float | None) -> Answer:
        """Ask for one token. The prompt is as short as can be: it enters the server's prompt cache."""
        body = {"model": "default_model", "prompt": "a", "max_tokens": 1, "stream": False}
        try:
            async with self._session.post(
                f"{self._url}/v1/completions", json=body, timeout=_total(timeout_s)
            ) as response:
                text = await response.text(errors="replace")
                self.refusal = f"HTTP {response.status} {text[:300]}"
                return (
                    Answer.TOKEN
                    if response.status == 200 and _has_token(await response.json(content_type=None))
                    else Answer.ERROR
                )
        except TimeoutError:
            return Answer.SILENT
        except ValueError:
            return Answer.ERROR
        except (aiohttp.ClientError, OSError):
            return Answer.REFUSED


def _total(seconds: float | None) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=seconds)


def _has_token(answer: object) -> bool:
    usage = answer.get("usage") if isinstance(answer, dict) else None
    count = usage.get("completion_tokens") if isinstance(usage, dict) else None
    return isinstance(count, int) and count >= 1


@dataclass(frozen=True, slots=True)
class Signs:
    """What can be seen of the child at one moment; a change of it is movement."""

    in_flight: int
    reads: int  # times that bytes came for some request
    beat: int = 0  # times that the generation thread, or the process, was seen at work
    memory: tuple[int, ...] = ()  # changes with every step of MLX
    heard: bool = True  # /health was answered
    phase: Phase | None = None  # of what it is at, the one that is silent for longest
    silent_until: float = 0.0  # monotonic: foreseen by the gateway

    def work_since(self, before: Signs) -> bool:
        """Something came of it since."""
        return self.reads != before.reads or self.memory != before.memory


class Stall(Enum):
    NONE = auto()
    QUIET = auto()  # nothing moves
    SPINNING = auto()  # the thread moves, but nothing has come of it for very long


class StallWatch:
    """Says when a silence is worth a canary. Times: `now` monotonic and `wall` clock, in seconds.

    A canary takes time of its own, so it is due that much before `stall_s` is over, if that leaves at
    least half of it. A machine that slept starts the silence anew, and so does a child without work. What
    the child is at may have a longer limit, and a silence that was foreseen begins when it should be over
    (`silence.py`).
    """

    def __init__(
        self, stall_s: float, canary_timeout_s: float, signs: Signs, *, now: float, wall: float
    ) -> None:
        self._silences = Silences(max(stall_s - canary_timeout_s, stall_s / 2))
        self._seen = signs
        self._now, self._wall = now, wall
        self._moved = self._worked = now

    def reset(self, now: float) -> None:
        """The canary was answered."""
        self._moved = self._worked = now

    def tick(self, signs: Signs, *, now: float, wall: float) -> Stall:
        before, self._seen = self._seen, signs
        if self._slept(now, wall):
            self.reset(now)
        self._note_movement(before, signs, now)
        excused = self._silences.excused(signs.silent_until, self._worked)
        if now - max(self._moved, excused) >= self._silences.limit(signs.phase):
            return Stall.QUIET
        spinning = now - max(self._worked, excused) >= SPINNING * self._silences.stall_s
        return Stall.SPINNING if spinning else Stall.NONE

    def _slept(self, now: float, wall: float) -> bool:
        elapsed, elapsed_wall = now - self._now, wall - self._wall
        self._now, self._wall = now, wall
        return elapsed > SLEPT_S or abs(elapsed_wall - elapsed) > SLEPT_S

    def _note_movement(self, before: Signs, signs: Signs, now: float) -> None:
        if not signs.in_flight and signs.heard:
            self.reset(now)
        elif signs.work_since(before):
            self._silences = self._silences.ended(before.phase, now - self._moved)
            self.reset(now)
        elif signs.beat != before.beat:
            self._silences = self._silences.ended(before.phase, now - self._moved)
            self._moved = now


def moved(before: Signs, after: Signs, stall: Stall) -> bool:
    """True if the child moved while a canary went unanswered. Spinning is no movement."""
    return after.work_since(before) or (stall is not Stall.SPINNING and after.beat != before.beat)
