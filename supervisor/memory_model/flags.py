"""Pure. The flags that the child starts with, each with its reason: as configured, or as memory allows."""

from __future__ import annotations

from dataclasses import dataclass

from supervisor.memory_model.activations import Model, step_activations
from supervisor.memory_model.batch import COPIES_ALONE, peak
from supervisor.memory_model.batch_speedup import speedup
from supervisor.memory_model.ceiling import Ceiling, gb
from supervisor.memory_model.sequence import SequenceDemand, Serving

#: Prefill step sizes to choose from, in tokens; the first is the server's default.
STEPS = (2048, 1024, 512, 256)
#: Decode concurrencies to choose from, if more than one sequence is to run.
_CONCURRENCIES = (8, 4, 2)
#: Share of what the weights leave that the activations of one prefill step may use.
_STEP_SHARE = 0.25
#: A larger step may use up to this multiple of the smallest step's memory, whatever its share: on CUDA scores
#: of some 26 GB are under way at any step size, so a quarter of the step saves nothing and costs half of the
#: speed.
_HARDLY_MORE = 1.15
#: Share of the ceiling that MLX may retain as freed memory: enough to work from, yet negligible.
_CACHE_SHARE = 0.05
#: Bounds on that retained memory, in bytes.
_LEAST_CACHE, _MOST_CACHE = 64 * 2**20, 2 * 2**30
#: Entries of the prompt cache by the server's own default (its argparse).
SEQUENCES = 10
#: Entries that one session with side requests needs.
_LEAST_SEQUENCES = 4
#: Entries in addition to one per session: with fewer, sessions that take turns lose their prefix every time.
_FOR_SIDE_REQUESTS = 2
#: The least speed-up that is worth the memory of several sequences, which could retain prompts instead.
_LEAST_SPEEDUP = 1.1
#: Rows at which the speed-up is judged, between those of titles, which run next to a long session, and those
#: of the session. The gate decides how many long sessions run together, at their actual lengths.
_MIDDLING = 4096
#: Prompts that are read together where several sequences run.
_READ_TOGETHER = 2


@dataclass(frozen=True, slots=True)
class FlagOverrides:
    """Values that the settings fix; None leaves the value to the plan."""

    prefill_step_size: int | None = None
    decode_concurrency: int | None = None
    prompt_concurrency: int | None = None
    prompt_cache_bytes: int | None = None
    prompt_cache_size: int | None = None
    mlx_cache_limit: int | None = None
    max_active_kv_bytes: int | None = None
    max_prompt_tokens: int | None = None
    own_command: bool = False  # a command of the user's own, or no telemetry


@dataclass(frozen=True, slots=True)
class Choice:
    """One value and its reason."""

    name: str  # the key in [upstream]
    value: int
    reason: str
    given: bool = True  # whether the flag is passed to the child; False where its server has no such flag

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"


@dataclass(frozen=True, slots=True)
class FlagBudget:
    """The memory and the lengths that the flags are chosen for."""

    model: Model
    ceiling: Ceiling
    available: int  # bytes under the ceiling without MLX's cache; `headroom` also excludes the weights
    typical: int  # rows of a long session; several sessions of this length should fit
    most: int  # rows that a sequence can have at all

    @property
    def headroom(self) -> int:
        return self.available - self.model.weights

    @property
    def retained(self) -> int:
        """Bytes of KV that the prompt cache may retain, where every sequence exists twice."""
        return max(0, round(self.headroom / COPIES_ALONE))


def choose(budget: FlagBudget, overrides: FlagOverrides) -> tuple[Choice, ...]:
    """Choose the server's flags: step, decode and prompt concurrency, bytes and entries of its cache."""
    step = _fixed(overrides, "prefill_step_size") or _step(budget)
    running = _fixed(overrides, "decode_concurrency") or _running(budget, step.value)
    return (
        step,
        running,
        _fixed(overrides, "prompt_concurrency") or _prompts(running.value),
        _fixed(overrides, "prompt_cache_bytes")
        or Choice(
            "prompt_cache_bytes", budget.retained, "half of the memory left: retained sequences exist twice"
        ),
        _fixed(overrides, "prompt_cache_size") or _cache_size(budget, running.value),
    )


def cache_limit(ceiling: Ceiling, overrides: FlagOverrides) -> Choice | None:
    """Choose how much freed memory MLX retains; None where nothing can set it."""
    if overrides.own_command:
        return None
    share = max(_LEAST_CACHE, min(_MOST_CACHE, round(ceiling.bytes * _CACHE_SHARE)))
    reason = "freed memory that MLX retains counts too"
    return _fixed(overrides, "mlx_cache_limit") or Choice("mlx_cache_limit", share, reason)


def _fixed(overrides: FlagOverrides, name: str) -> Choice | None:
    value: int | None = getattr(overrides, name)
    return None if value is None else Choice(name, value, "set in the configuration")


def _step(budget: FlagBudget) -> Choice:
    costs = {step: step_activations(budget.model.traced, budget.typical, 1, step) for step in STEPS}
    most = max(_STEP_SHARE * budget.headroom, _HARDLY_MORE * costs[STEPS[-1]])
    step = next(step for step in STEPS if costs[step] <= most)
    reason = f"activations of a step are about {gb(costs[step])} at {budget.typical:,} tokens"
    return Choice("prefill_step_size", step, reason)


def _running(budget: FlagBudget, step: int) -> Choice:
    name = "decode_concurrency"
    if not budget.model.batched:
        return Choice(name, 1, "the server runs one request at a time with this model and these flags")
    rows = min(budget.typical, _MIDDLING)
    for members in _CONCURRENCIES:
        serving = Serving(budget.model, step, members, _together(members), SEQUENCES)
        if peak(serving, [SequenceDemand(rows, 0)] * members).total > budget.available:
            continue
        speed = speedup(budget.model, rows, members)
        if speed < _LEAST_SPEEDUP:
            return Choice(name, 1, f"{members} sessions together would be no faster than one by one")
        fit = f"{members} sessions of {rows:,} tokens fit"
        return Choice(name, members, f"{fit}, at up to {speed:.1f}x the tokens/s of one; longer ones wait")
    return Choice(name, 1, f"two sessions of {rows:,} tokens do not fit together")


def _together(running: int) -> int:
    return max(_READ_TOGETHER, running // 2)


def _prompts(running: int) -> Choice:
    name = "prompt_concurrency"
    if running == 1:
        return Choice(name, 1, "the server uses the larger of the two concurrencies")
    return Choice(name, _together(running), "a short prompt need not wait for a long one")


def _cache_size(budget: FlagBudget, running: int) -> Choice:
    """Where several run together, an entry pins the buffer of all, of which the server counts only a part."""
    name = "prompt_cache_size"
    if running == 1:
        return Choice(name, SEQUENCES, "the limit in bytes is enough where nothing runs together")
    rows = budget.typical
    fitting, wanted = _sessions(budget, rows), running + _FOR_SIDE_REQUESTS
    if fitting < wanted <= _sessions(budget, rows // 2):  # sessions are rarely all long at once
        fitting, rows = wanted, rows // 2
    sequences = max(_LEAST_SEQUENCES, min(SEQUENCES, fitting))
    return Choice(name, sequences, f"{fitting} sessions of {rows:,} tokens fit in that")


def _sessions(budget: FlagBudget, rows: int) -> int:
    """Sessions of `rows` rows whose retained sequences fit."""
    return budget.retained // max(1, budget.model.cost_model.cold(rows))
