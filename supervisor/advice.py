"""What to do about a death, in settings and values worked out from what was running then (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisor.diagnosis import NATURES, Cause
from supervisor.inquest import AtWork

#: The server rounds cached rows up to this (mlx-lm, models/cache.py, KVCache.step).
_ROWS = 256

#: From this share of a GPU's memory on, what other programs hold is worth a word.
_MUCH = 0.05

#: mlx_lm.server's own default (its argparse).
_PROMPT_CACHE_SIZE = 10

_FAULT = re.compile(r"^[\w.]*(Error|Exception)\b.*")
_REFUSED_FLAGS = re.compile(r"error: unrecognized arguments: (.*)")


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of one death. Bytes and seconds; `argv`: the server's flags."""

    at_work: Sequence[AtWork] = ()
    peak: int | None = None
    total: int = 0
    argv: tuple[str, ...] = ()
    last_lines: tuple[str, ...] = ()
    start_timeout_s: float = 0.0
    elsewhere: int | None = None  # what other programs held of the GPU's own memory

    @property
    def running(self) -> int:
        return len(self.at_work)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt that was running."""
        return max((work.prompt_tokens for work in self.at_work), default=0)

    def flag(self, name: str, default: int) -> int:
        """A number among the flags, as the server reads it: the last one counts."""
        values = [self.argv[at + 1] for at, word in enumerate(self.argv[:-1]) if word == name]
        return int(values[-1]) if values and values[-1].isdigit() else default


def advise(cause: Cause, facts: Facts) -> str:
    """One line for the user. Where the facts say nothing, what holds for the cause in general."""
    if NATURES[cause].memory:
        return _less(facts)
    specific = _ADVICE.get(cause)
    return (specific(facts) if specific else "") or NATURES[cause].advice


def _less(facts: Facts) -> str:
    held = _held(facts)
    if not facts.running:
        size = max(1, facts.flag("--prompt-cache-size", _PROMPT_CACHE_SIZE) // 2)
        kept = "Nothing was running, so what is kept between requests is too much"
        return f"{kept}: set [upstream] prompt_cache_size = {size}, or use a smaller model.{held}"
    if facts.running == 1:
        return (
            f"One prompt of {facts.longest} tokens was enough: set [prompt] max_prompt_tokens = "
            f"{_shorter(facts.longest)}, or [upstream] prefill_step_size = "
            f"{max(64, facts.flag('--prefill-step-size', 2048) // 2)}.{held}"
        )
    together = facts.running // 2
    return (
        f"{facts.running} requests ran together, the longest prompt with {facts.longest} tokens: set "
        f"[upstream] decode_concurrency = {together} and prompt_concurrency = {together}, or [prompt] "
        f"max_prompt_tokens = {_shorter(facts.longest)}.{held}"
    )


def _held(facts: Facts) -> str:
    if not facts.peak or not facts.total:
        return ""
    others = facts.elsewhere or 0
    beside = f", other programs {_gb(others)}" if others > _MUCH * facts.total else ""
    return f" MLX held up to {_gb(facts.peak)} of {_gb(facts.total)}{beside}."


def _shorter(tokens: int) -> int:
    """Three quarters, in whole steps of the cache."""
    return max(_ROWS, tokens * 3 // 4 // _ROWS * _ROWS)


def _more_time(facts: Facts) -> str:
    wanted = round(facts.start_timeout_s * 2)
    return f"If the model is large or its disk slow, set [supervisor] start_timeout_s = {wanted}."


def _without_flags(facts: Facts) -> str:
    for line in reversed(facts.last_lines):
        if (refused := _REFUSED_FLAGS.search(line)) is not None:
            return f"Take {refused[1]} out of [upstream] args, or update mlx-lm."
    return ""


def _name_fault(facts: Facts) -> str:
    for line in reversed(facts.last_lines):
        if _FAULT.match(line):
            return f"The fault was: {line[:200]}"
    return ""


_ADVICE: dict[Cause, Callable[[Facts], str]] = {
    Cause.START_TIMEOUT: _more_time,
    Cause.UNSUPPORTED_FLAG: _without_flags,
    Cause.GENERATION_THREAD_DIED: _name_fault,
    Cause.LOAD_FAILED: _name_fault,
}


def _gb(size: int | None) -> str:
    return f"{(size or 0) / 1e9:.1f} GB"
