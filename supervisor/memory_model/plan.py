"""The plan: what fits, and with which flags the child starts. Pure: from model, machine and settings.

docs/plan.md tells how the numbers come about.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from supervisor.memory_model import flags
from supervisor.memory_model.activations import Model, working
from supervisor.memory_model.batch import COPIES_ALONE, largest
from supervisor.memory_model.ceiling import Ceiling, gb
from supervisor.memory_model.flags import SEQUENCES, STEPS, Choice, FlagBudget, FlagOverrides
from supervisor.memory_model.kv_cache import Quantization
from supervisor.memory_model.sequence import Serving

#: A long session of a coding agent, in tokens: several of these are to fit before more run together.
SESSION = 32_768
#: Tokens of completion that a prompt leaves room for.
COMPLETION = 1024
#: Where few rows fit, an answer's room is only this part of them.
_ANSWER_SHARE = 32
#: Assumed where a model does not name its context.
_CONTEXT = 131_072
#: The server's own defaults (its argparse).
_SERVER_DECODES, _SERVER_PROMPTS = 32, 8
#: A limit on prompts below this says more about the estimate than about the machine.
LEAST_PROMPT = 512
SESSIONS = (1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Plan:
    """All of it. Bytes and tokens.

    Attributes:
        headroom: what weights and MLX's cache leave under the ceiling; negative when they do not fit.
        choices: flags of the server.
        cache_limit: MLX's cache of freed memory; None where nothing can set it.
        running: requests that the gate lets run together.
        max_active_kv: KV that running requests may hold together, by the padded law; None: no such limit.
        bytes_per_row: what one more row of one request costs.
        fits: sessions -> rows that each can have; 0 where not even one row fits.
        max_prompt: longest prompt that is let in; None: no limit is known.
        serving: how the child runs, for the costs of what runs together.
        warnings: what the user should know, one sentence each.
        advice: what the user could do to fit more, one sentence each.
    """

    model: Model
    ceiling: Ceiling
    headroom: int
    choices: tuple[Choice, ...]
    cache_limit: Choice | None
    running: int
    max_active_kv: int | None
    bytes_per_row: int
    fits: dict[int, int]
    max_prompt: int | None
    serving: Serving
    warnings: tuple[str, ...]
    advice: tuple[str, ...]

    def summary(self) -> dict[str, int | bool | str | None]:
        """For the log: the main numbers by name."""
        chosen = {choice.name: choice.value for choice in self.choices if choice.given}
        return {
            "weights": self.model.weights,
            "ceiling": self.ceiling.bytes,
            "ceiling_from": self.ceiling.source,
            "kv_per_token": self.bytes_per_row,
            "exact": self.model.traced.reason is None,
            "max_prompt": self.max_prompt,
            "running": self.running,
            **chosen,
        }

    def value(self, name: str) -> int:
        """Of one of the choices."""
        return next(choice.value for choice in self.choices if choice.name == name)


def plan(
    model: Model, ceiling: Ceiling, wishes: FlagOverrides, offered: frozenset[str], context: int | None
) -> Plan:
    """Decide everything.

    Args:
        offered: flags that the installed server's --help names.
        context: the model's context length, in tokens.
    """
    most = context or _CONTEXT
    cache_limit = flags.cache_limit(ceiling, wishes)
    available = ceiling.bytes - (cache_limit.value if cache_limit else 0)
    room = FlagBudget(model, ceiling, available, min(most, SESSION), most)
    step = flags.step(room, wishes)
    running = flags.running(room, wishes, step.value)
    kv = _kv_room(room, running.value, step.value)
    choices = (
        step,
        running,
        flags.prompts(wishes, running.value),
        flags.cache_bytes(room, wishes),
        flags.cache_size(room, wishes, running.value),
    )
    serving = _serving(model, choices, offered)
    fits = {number: _rows(serving, available, number, most) for number in SESSIONS}
    return Plan(
        model=model,
        ceiling=ceiling,
        headroom=room.headroom,
        choices=tuple(_offer(choice, offered) for choice in choices),
        cache_limit=cache_limit,
        running=running.value if model.batched else 1,
        max_active_kv=kv if wishes.max_active_kv_bytes is None else wishes.max_active_kv_bytes,
        bytes_per_row=model.law.slope,
        fits=fits,
        max_prompt=_max_prompt(wishes, fits[1], context),
        serving=serving,
        warnings=tuple(_warnings(room, fits[1], offered)),
        advice=tuple(_advice(room, fits[1], step.value)),
    )


def _serving(model: Model, choices: tuple[Choice, ...], offered: frozenset[str]) -> Serving:
    """As the child will run: by the server's own defaults where it is not told."""
    told = {choice.name: choice.value for choice in choices if choice.flag in offered}
    return Serving(
        model=model,
        step=told.get("prefill_step_size", STEPS[0]),
        decodes=told.get("decode_concurrency", _SERVER_DECODES) if model.batched else 1,
        prompts=told.get("prompt_concurrency", _SERVER_PROMPTS) if model.batched else 1,
        kept_sequences=told.get("prompt_cache_size", SEQUENCES),
        kept_bytes=told.get("prompt_cache_bytes"),
    )


def _rows(serving: Serving, available: int, number: int, most: int) -> int:
    """Rows that each of `number` sessions can have."""
    return largest(serving, available, number, 0, most)


def _offer(choice: Choice, offered: frozenset[str]) -> Choice:
    if choice.flag in offered:
        return choice
    return replace(choice, reason=f"this server has no {choice.flag}", given=False)


def _kv_room(room: FlagBudget, running: int, step: int) -> int | None:
    """What the gate's padded law may add up to; None where a row costs nothing, or nothing fits anyway."""
    law = room.model.law
    if not law.slope:
        return None
    left = room.headroom - working(room.model.traced, room.typical, min(running, 2), step)
    # What a sequence costs whatever its length: states, and windows once they are full.
    fixed = max(0, law.cold(room.typical, step) - room.typical * law.slope)
    shared = round(left / COPIES_ALONE) - running * fixed
    return shared if shared > 0 else None


def with_answer(rows: int) -> int:
    """The prompt that of `rows` leaves room for an answer; a small machine's prompts go short of little."""
    return rows - min(COMPLETION, rows // _ANSWER_SHARE)


def least_answer(prompt: int) -> int:
    """What an answer may at least have: beside the longest prompt there is room for no more."""
    return max(1, min(COMPLETION, prompt // _ANSWER_SHARE))


def _max_prompt(wishes: FlagOverrides, rows: int, context: int | None) -> int | None:
    if wishes.max_prompt_tokens is not None:
        return wishes.max_prompt_tokens
    if rows - COMPLETION < LEAST_PROMPT or rows == context:
        return context
    return with_answer(rows)


def _warnings(room: FlagBudget, alone: int, offered: frozenset[str]) -> Iterator[str]:
    model, ceiling = room.model, room.ceiling
    if model.weights > ceiling.bytes:
        yield (
            f"The weights ({gb(model.weights)}) are larger than what may be used "
            f"({gb(ceiling.bytes)}): take a smaller model, or one of fewer bits."
        )
    elif alone - COMPLETION < LEAST_PROMPT:
        yield "Hardly any prompt fits beside the weights; prompts are not limited by so small an estimate."
    if ceiling.exceeds is not None:
        yield (
            f"max_active_memory_bytes is {gb(ceiling.bytes)}, but there is only "
            f"{gb(ceiling.exceeds.bytes)}: {ceiling.exceeds.source}."
        )
    if model.traced.reason is not None:
        yield f"The cost of KV is a bound, and may be far too large: {model.traced.reason}."
    if model.law.quantization is not None and model.traced.rotating:
        start = model.law.quantization.start
        yield f"--kv-bits cannot quantize this model's windows: requests fail from token {start:,} on."
    if not offered:
        yield "The server did not answer --help, so it gets none of these flags."


def _advice(room: FlagBudget, alone: int, step: int) -> Iterator[str]:
    model = room.model
    if room.ceiling.wired_mb is not None:
        yield f"To give the model more of the RAM: sudo sysctl iogpu.wired_limit_mb={room.ceiling.wired_mb}"
    if alone == room.most or model.law.quantization is not None or model.traced.rotating:
        return
    packed = replace(model, law=replace(model.law, quantization=Quantization(8)), batched=False)
    rows = _rows(Serving(packed, step, 1, 1, SEQUENCES), room.available, 1, room.most)
    if rows > 1.2 * alone:
        yield f'With upstream.args = ["--kv-bits", "8"], {rows:,} tokens would fit, one request at a time.'
