"""Pure. The plan: what fits, and which flags the child starts with, from model, machine and settings.

docs/plan.md explains the numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from supervisor.memory_model import flags
from supervisor.memory_model.activations import Model, step_activations
from supervisor.memory_model.batch import COPIES_ALONE, largest_prompt
from supervisor.memory_model.ceiling import Ceiling, gb
from supervisor.memory_model.flags import SEQUENCES, STEPS, Choice, FlagBudget, FlagOverrides
from supervisor.memory_model.kv_cache import Quantization
from supervisor.memory_model.sequence import Serving

#: Tokens of a coding agent's long session; the prompt cache is sized for several of these.
SESSION = 32_768
#: Tokens of completion that the longest prompt leaves space for.
COMPLETION = 1024
#: Where few rows fit, the answer gets only one in this many of them.
_ANSWER_SHARE = 32
#: Context length, in tokens, that is assumed where a model does not name its own.
_CONTEXT = 131_072
#: The server's own defaults of its two concurrencies (its argparse).
_SERVER_DECODES, _SERVER_PROMPTS = 32, 8
#: Prompts are not limited to fewer tokens than this: such a limit would reflect the estimate, not the
#: machine.
LEAST_PROMPT = 512
#: Numbers of equal sessions whose largest length the plan states.
SESSIONS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan, in bytes and tokens."""

    model: Model
    ceiling: Ceiling
    headroom: int  # what weights and MLX's cache leave under the ceiling; negative when they do not fit
    choices: tuple[Choice, ...]  # flags of the server
    cache_limit: Choice | None  # MLX's cache of freed memory; None where nothing can set it
    running: int  # requests that the gate lets run together
    max_active_kv: int | None  # padded KV that running requests may use together; None: no such limit
    fits: dict[int, int]  # rows that each can have, by the number of sessions; 0: not even one row fits
    max_prompt: int | None  # longest prompt that is admitted; None: no limit is known
    serving: Serving  # how the child runs, from which the gate predicts the memory of what runs together
    warnings: tuple[str, ...]  # what the user should know, one sentence each
    advice: tuple[str, ...]  # what the user could do to fit more, one sentence each

    def summary(self) -> dict[str, int | bool | str | None]:
        """The main numbers by name, for the log."""
        chosen = {choice.name: choice.value for choice in self.choices if choice.given}
        return {
            "weights": self.model.weights,
            "ceiling": self.ceiling.bytes,
            "ceiling_from": self.ceiling.source,
            "kv_per_token": self.model.cost_model.bytes_per_row,
            "exact": self.model.traced.reason is None,
            "max_prompt": self.max_prompt,
            "running": self.running,
            **chosen,
        }

    def value(self, name: str) -> int:
        """The value of the choice with this name."""
        return next(choice.value for choice in self.choices if choice.name == name)


def plan(
    model: Model, ceiling: Ceiling, overrides: FlagOverrides, offered: frozenset[str], context: int | None
) -> Plan:
    """Make the plan.

    Args:
        offered: flags that the installed server's --help names.
        context: the model's context length, in tokens.
    """
    most = context or _CONTEXT
    cache_limit = flags.cache_limit(ceiling, overrides)
    available = ceiling.bytes - (cache_limit.value if cache_limit else 0)
    budget = FlagBudget(model, ceiling, available, min(most, SESSION), most)
    choices = flags.choose(budget, overrides)
    step, running = (choice.value for choice in choices[:2])
    kv = _active_kv(budget, running, step)
    serving = _serving(model, choices, offered)
    fits = {number: largest_prompt(serving, available, 0, number, most) for number in SESSIONS}
    return Plan(
        model=model,
        ceiling=ceiling,
        headroom=budget.headroom,
        choices=tuple(_offer(choice, offered) for choice in choices),
        cache_limit=cache_limit,
        running=running if model.batched else 1,
        max_active_kv=kv if overrides.max_active_kv_bytes is None else overrides.max_active_kv_bytes,
        fits=fits,
        max_prompt=_max_prompt(overrides, fits[1], context),
        serving=serving,
        warnings=tuple(_warnings(budget, fits[1], offered)),
        advice=tuple(_advice(budget, fits[1], step)),
    )


def _serving(model: Model, choices: tuple[Choice, ...], offered: frozenset[str]) -> Serving:
    """How the child will run: by the server's own defaults where no flag is passed."""
    passed = {choice.name: choice.value for choice in choices if choice.flag in offered}
    return Serving(
        model=model,
        step=passed.get("prefill_step_size", STEPS[0]),
        decodes=passed.get("decode_concurrency", _SERVER_DECODES) if model.batched else 1,
        prompts=passed.get("prompt_concurrency", _SERVER_PROMPTS) if model.batched else 1,
        prompt_cache_size=passed.get("prompt_cache_size", SEQUENCES),
        prompt_cache_bytes=passed.get("prompt_cache_bytes"),
    )


def _offer(choice: Choice, offered: frozenset[str]) -> Choice:
    if choice.flag in offered:
        return choice
    return replace(choice, reason=f"this server has no {choice.flag}", given=False)


def _active_kv(budget: FlagBudget, running: int, step: int) -> int | None:
    """Limit of the gate's padded KV; None where a row costs nothing, or nothing fits anyway."""
    cost_model = budget.model.cost_model
    if not cost_model.bytes_per_row:
        return None
    left = budget.headroom - step_activations(budget.model.traced, budget.typical, min(running, 2), step)
    # What a sequence costs whatever its length: states, and windows once they are full.
    fixed = max(0, cost_model.cold(budget.typical, step) - budget.typical * cost_model.bytes_per_row)
    shared = round(left / COPIES_ALONE) - running * fixed
    return shared if shared > 0 else None


def with_answer(rows: int) -> int:
    """The longest prompt that leaves space for an answer within `rows`, at most a thirty-second of them."""
    return rows - min(COMPLETION, rows // _ANSWER_SHARE)


def least_answer(prompt: int) -> int:
    """Tokens that every answer is allowed: next to the longest prompt no more fit."""
    return max(1, min(COMPLETION, prompt // _ANSWER_SHARE))


def _max_prompt(overrides: FlagOverrides, rows: int, context: int | None) -> int | None:
    if overrides.max_prompt_tokens is not None:
        return overrides.max_prompt_tokens
    if rows - COMPLETION < LEAST_PROMPT or rows == context:
        return context
    return with_answer(rows)


def _warnings(budget: FlagBudget, alone: int, offered: frozenset[str]) -> Iterator[str]:
    model, ceiling = budget.model, budget.ceiling
    if model.weights > ceiling.bytes:
        yield (
            f"The weights ({gb(model.weights)}) are larger than the memory that may be used "
            f"({gb(ceiling.bytes)}): choose a smaller model, or one with fewer bits."
        )
    elif alone - COMPLETION < LEAST_PROMPT:
        yield "Hardly any prompt fits next to the weights; so small an estimate is not used to limit prompts."
    if ceiling.exceeds is not None:
        yield (
            f"max_active_memory_bytes is {gb(ceiling.bytes)}, but there is only "
            f"{gb(ceiling.exceeds.bytes)}: {ceiling.exceeds.source}."
        )
    if model.traced.reason is not None:
        yield f"The KV cost is only an upper bound, and may be far too high: {model.traced.reason}."
    if model.cost_model.quantization is not None and model.traced.rotating:
        start = model.cost_model.quantization.start
        yield f"--kv-bits cannot quantize this model's windows: requests fail from token {start:,} on."
    if not offered:
        yield "The server did not answer --help, so none of these flags are passed to it."


def _advice(budget: FlagBudget, alone: int, step: int) -> Iterator[str]:
    model = budget.model
    if budget.ceiling.wired_mb is not None:
        megabytes = budget.ceiling.wired_mb
        yield f"To let the model use more of the RAM: sudo sysctl iogpu.wired_limit_mb={megabytes}"
    if alone == budget.most or model.cost_model.quantization is not None or model.traced.rotating:
        return
    packed = replace(model, cost_model=replace(model.cost_model, quantization=Quantization(8)), batched=False)
    rows = largest_prompt(Serving(packed, step, 1, 1, SEQUENCES), budget.available, 0, 1, budget.most)
    if rows > 1.2 * alone:
        yield f'With upstream.args = ["--kv-bits", "8"], {rows:,} tokens would fit, one request at a time.'
