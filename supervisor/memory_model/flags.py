"""The flags that the child starts with, each with its reason: as they are set, or as memory allows. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory_model.activations import Model, working
from supervisor.memory_model.batch import COPIES_ALONE, peak
from supervisor.memory_model.batch_speedup import gain
from supervisor.memory_model.ceiling import Ceiling, gb
from supervisor.memory_model.sequence import SequenceDemand, Serving

STEPS = (2048, 1024, 512, 256)
_CONCURRENCIES = (8, 4, 2)
#: The working memory of one prefill step may be this share of what the weights leave.
_STEP_SHARE = 0.25
#: A larger step may take so much more than the smallest, whatever its share: on CUDA as many scores are under
#: way as fit in some 26 GB, so that a quarter of the step saves nothing, and takes half of the speed.
_HARDLY_MORE = 1.15
#: Freed memory that MLX may keep: enough to work from, little enough not to matter.
_CACHE_SHARE = 0.05
_LEAST_CACHE, _MOST_CACHE = 64 * 2**20, 2 * 2**30
#: The server's own default (its argparse), and the entries that one session with side requests needs.
SEQUENCES, _LEAST_SEQUENCES = 10, 4
#: Beside one for each session: with fewer, sessions that take turns each lose their prefix every time.
_FOR_SIDE_REQUESTS = 2
#: Running several must be worth the memory, which could keep prompts instead. It is judged at a length
#: between that of titles, which run beside a long session, and that of the session. How many long ones run
#: together is not decided here, but by the gate, at their lengths.
_LEAST_GAIN, _MIDDLING = 1.1, 4096
#: Prompts that are read together where several sequences run.
_READ_TOGETHER = 2


@dataclass(frozen=True, slots=True)
class FlagOverrides:
    """What the settings fix; None leaves it to the plan."""

    prefill_step_size: int | None = None
    decode_concurrency: int | None = None
    prompt_concurrency: int | None = None
    prompt_cache_bytes: int | None = None
    prompt_cache_size: int | None = None
    mlx_cache_limit: int | None = None
    max_active_kv_bytes: int | None = None
    max_prompt_tokens: int | None = None
    own_command: bool = False  # the child is started by a command of the user's, or without telemetry


@dataclass(frozen=True, slots=True)
class Choice:
    """One number and why.

    Attributes:
        name: the key in [upstream].
        given: the child is told; False where its server has no such flag.
    """

    name: str
    value: int
    reason: str
    given: bool = True

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class FlagBudget:
    """What there is to share out.

    Attributes:
        available: bytes under the ceiling without MLX's cache; `headroom` also without the weights.
        typical: rows of a session that several of are to fit.
        most: rows that a sequence can have at all.
    """

    model: Model
    ceiling: Ceiling
    available: int
    typical: int
    most: int

    @property
    def headroom(self) -> int:
        return self.available - self.model.weights

    @property
    def kept(self) -> int:
        """Bytes of KV where everything lives twice."""
        return max(0, round(self.headroom / COPIES_ALONE))


def _set(name: str, value: int) -> Choice:
    return Choice(name, value, "set in the configuration")


def step(room: FlagBudget, wishes: FlagOverrides) -> Choice:
    name = "prefill_step_size"
    if wishes.prefill_step_size is not None:
        return _set(name, wishes.prefill_step_size)
    costs = {step: working(room.model.traced, room.typical, 1, step) for step in STEPS}
    most = max(_STEP_SHARE * room.headroom, _HARDLY_MORE * costs[STEPS[-1]])
    step = next(step for step in STEPS if costs[step] <= most)
    return Choice(name, step, f"a step takes about {gb(costs[step])} to work in, at {room.typical:,} tokens")


def running(room: FlagBudget, wishes: FlagOverrides, step: int) -> Choice:
    name = "decode_concurrency"
    if wishes.decode_concurrency is not None:
        return _set(name, wishes.decode_concurrency)
    if not room.model.batched:
        return Choice(name, 1, "the server takes one at a time with this model and these flags")
    rows = min(room.typical, _MIDDLING)
    for members in _CONCURRENCIES:
        serving = Serving(room.model, step, members, _together(members), SEQUENCES)
        if peak(serving, [SequenceDemand(rows, 0)] * members).total > room.available:
            continue
        speed = gain(room.model, rows, members)
        if speed < _LEAST_GAIN:
            return Choice(name, 1, f"{members} sessions together would be no faster than one by one")
        fit = f"{members} sessions of {rows:,} tokens fit"
        return Choice(name, members, f"{fit}, at up to {speed:.1f}x the tokens/s of one; longer ones wait")
    return Choice(name, 1, f"two sessions of {rows:,} tokens do not fit together")


def _together(running: int) -> int:
    return max(_READ_TOGETHER, running // 2)


def prompts(wishes: FlagOverrides, running: int) -> Choice:
    name = "prompt_concurrency"
    if wishes.prompt_concurrency is not None:
        return _set(name, wishes.prompt_concurrency)
    if running == 1:
        return Choice(name, 1, "the larger of the two is what the server goes by")
    return Choice(name, _together(running), "a short prompt need not wait for a long one")


def cache_bytes(room: FlagBudget, wishes: FlagOverrides) -> Choice:
    name = "prompt_cache_bytes"
    if wishes.prompt_cache_bytes is not None:
        return _set(name, wishes.prompt_cache_bytes)
    return Choice(name, room.kept, "half of what is left: kept sequences are there twice")


def cache_size(room: FlagBudget, wishes: FlagOverrides, running: int) -> Choice:
    """Where several run together, an entry pins the buffer of all, and the server counts its part of it."""
    name = "prompt_cache_size"
    if wishes.prompt_cache_size is not None:
        return _set(name, wishes.prompt_cache_size)
    if running == 1:
        return Choice(name, SEQUENCES, "the limit in bytes holds, where nothing runs together")
    rows = room.typical
    kept, apart = _sessions(room, rows), running + _FOR_SIDE_REQUESTS
    if kept < apart <= _sessions(room, rows // 2):  # sessions are rarely all long at once
        kept, rows = apart, rows // 2
    sequences = max(_LEAST_SEQUENCES, min(SEQUENCES, kept))
    return Choice(name, sequences, f"{kept} sessions of {rows:,} tokens fit in that")


def _sessions(room: FlagBudget, rows: int) -> int:
    """Whose kept sequences fit."""
    return room.kept // max(1, room.model.law.cold(rows))


def cache_limit(ceiling: Ceiling, wishes: FlagOverrides) -> Choice | None:
    name = "mlx_cache_limit"
    if wishes.own_command:
        return None
    if wishes.mlx_cache_limit is not None:
        return _set(name, wishes.mlx_cache_limit)
    share = max(_LEAST_CACHE, min(_MOST_CACHE, round(ceiling.bytes * _CACHE_SHARE)))
    return Choice(name, share, "freed memory that MLX keeps for itself counts too")
