"""What to do about a death, in settings and values worked out from what was running then (pure)."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisor.lifecycle.causes import NATURES, Cause
from supervisor.lifecycle.in_flight import InFlight
from supervisor.memory_model.ceiling import gb
from supervisor.memory_model.plan import Plan

#: The server rounds cached rows up to this (mlx-lm, models/cache.py, KVCache.step).
_ROWS = 256

#: From this share of a GPU's memory on, what other programs hold is worth a word.
_MUCH = 0.05

#: What was held when memory ended is a little too much; a decimal size as in proxy.toml.
_UNDER = 0.95

#: From this share of what it may take on, a crash in native code may well be an allocation that failed.
_NEARLY_FULL = 0.9

#: mlx_lm.server's own defaults (its argparse).
_DEFAULTS = {
    "--prompt-cache-size": 10,
    "--prefill-step-size": 2048,
    "--decode-concurrency": 32,
}

_FAULT = re.compile(r"^[\w.]*(Error|Exception)\b.*")
_REFUSED_FLAGS = re.compile(r"error: unrecognized arguments: (.*)")


@dataclass(frozen=True, slots=True)
class DeathFacts:
    """What is known of one death. Bytes and seconds; `argv`: the server's flags.

    `held`: by MLX in the end. `grown_elsewhere`: what other programs took in the child's life.
    """

    at_work: Sequence[InFlight] = ()
    peak: int | None = None
    total: int = 0
    argv: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    last_lines: tuple[str, ...] = ()
    start_timeout_s: float = 0.0
    stall_s: float = 0.0
    elsewhere: int | None = None  # what other programs held of the GPU's own memory
    held: int | None = None
    grown_elsewhere: int | None = None
    plan: Plan | None = None
    versions: tuple[str, ...] = ()
    open_files: int = 0  # as many as this process may have

    @property
    def running(self) -> int:
        return len(self.at_work)

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt that was running."""
        return max((work.prompt_tokens for work in self.at_work), default=0)

    def flag(self, name: str) -> int:
        """A number among the flags, as the server reads it: the last one counts."""
        values = [self.argv[at + 1] for at, word in enumerate(self.argv[:-1]) if word == name]
        return int(values[-1]) if values and values[-1].isdigit() else _DEFAULTS[name]

    def half(self, name: str, least: int = 1) -> int:
        """Half of what a flag was."""
        return max(least, self.flag(name) // 2)


def advise(cause: Cause, facts: DeathFacts) -> str:
    """One line for the user: which setting, and which value."""
    specific = _ADVICE.get(cause, _less if NATURES[cause].memory else _read_log)
    return specific(facts)


def _less(facts: DeathFacts) -> str:
    held = _held(facts)
    if not facts.running:
        return (
            "Nothing was running, so what is kept between requests is too much: set [upstream] "
            f"prompt_cache_size = {facts.half('--prompt-cache-size')}, or use a smaller model.{held}"
        )
    if facts.running == 1:
        return (
            f"One prompt of {facts.longest} tokens was enough: set [prompt] max_prompt_tokens = "
            f"{_shorter(facts)}, or [upstream] prefill_step_size = "
            f"{facts.half('--prefill-step-size', 64)}.{held}"
        )
    together = _together(facts)
    return (
        f"{facts.running} requests ran together, the longest prompt with {facts.longest} tokens: set "
        f"[upstream] decode_concurrency = {together} and prompt_concurrency = {together}, or [prompt] "
        f"max_prompt_tokens = {_shorter(facts)}.{held}"
    )


def _held(facts: DeathFacts) -> str:
    if not facts.peak or not facts.total:
        return ""
    others = facts.elsewhere or 0
    beside = f", other programs {gb(others)}" if others > _MUCH * facts.total else ""
    return f" MLX held up to {gb(facts.peak)} of {gb(facts.total)}{beside}.{_allow_less(facts)}"


def _allow_less(facts: DeathFacts) -> str:
    """A lower ceiling, where what was held is near the one that was allowed; far below, that is no cause."""
    allowed, held = facts.plan.ceiling.bytes if facts.plan is not None else 0, facts.held or 0
    if not allowed / 2 < held <= allowed:
        return ""
    size = gb(_UNDER * held).replace(" ", "")
    return f' It may take {gb(allowed)}: [memory] max_active_memory_bytes = "{size}".'


def _together(facts: DeathFacts) -> int:
    """As many as the plan says fit with the longest prompt, where that is less than half of what ran."""
    half = facts.running // 2
    if facts.plan is None:
        return half
    fitting = [members for members, rows in facts.plan.fits.items() if rows >= facts.longest]
    return max(1, min(half, max(fitting, default=1)))


def _shorter(facts: DeathFacts) -> int:
    """Three quarters, in whole steps of the cache; what the plan says fits, where that is less."""
    tokens = facts.longest * 3 // 4
    if facts.plan is not None and facts.plan.max_prompt is not None:
        tokens = min(tokens, facts.plan.max_prompt)
    return max(_ROWS, tokens // _ROWS * _ROWS)


def _less_or_reserve(facts: DeathFacts) -> str:
    grown = facts.grown_elsewhere or 0
    if grown < _MUCH * facts.total:
        return _less(facts)
    reserve = gb(grown / _UNDER).replace(" ", "")
    return (
        f"Other programs took {gb(grown)} while it ran: close some, or set [memory] reserve_system_bytes = "
        f'"{reserve}". {_less(facts)}'
    )


def _fewer_buffers(facts: DeathFacts) -> str:
    return (
        f"Set [upstream] decode_concurrency = {facts.half('--decode-concurrency')} and prompt_cache_size = "
        f"{facts.half('--prompt-cache-size')}: both hold buffers."
    )


def _smaller_steps(facts: DeathFacts) -> str:
    step = facts.half("--prefill-step-size", 64)
    return (
        f"Close other programs that use the GPU; if it comes back, set [upstream] prefill_step_size = {step}."
    )


def _native(facts: DeathFacts) -> str:
    """A failed allocation on a CPU looks like any other bad access: say how full it was."""
    most = facts.plan.ceiling.bytes if facts.plan is not None else facts.total
    if facts.held and facts.held >= _NEARLY_FULL * most:
        return f"A failed allocation looks like this, and memory was nearly full. {_less(facts)}"
    installed = f" (now {', '.join(facts.versions)})" if facts.versions else ""
    return f"Update mlx and mlx-lm{installed}. {_read_log(facts)}{_held(facts)}"


def _more_patience(facts: DeathFacts) -> str:
    return f"If the machine was merely slow, set [supervisor] stall_s = {round(facts.stall_s * 2)}."


def _more_time(facts: DeathFacts) -> str:
    wanted = round(facts.start_timeout_s * 2)
    return f"If the model is large or its disk slow, set [supervisor] start_timeout_s = {wanted}."


def _without_flags(facts: DeathFacts) -> str:
    for line in reversed(facts.last_lines):
        if (refused := _REFUSED_FLAGS.search(line)) is not None:
            return f"Take {refused[1]} out of [upstream] args, or update mlx-lm."
    return f"Correct [upstream] args, or update mlx-lm. {_read_log(facts)}"


def _name_fault(facts: DeathFacts) -> str:
    for line in reversed(facts.last_lines):
        if _FAULT.match(line):
            return f"The fault was: {line[:200]}"
    return _read_log(facts)


def _other_model(facts: DeathFacts) -> str:
    folder = next((b for a, b in zip(facts.argv, facts.argv[1:], strict=False) if a == "--model"), None)
    place = f" ({folder})" if folder else ""
    return (
        f"Check [model] path{place}: config.json, tokenizer and all weights, of an architecture that mlx-lm "
        f"has. {_name_fault(facts) if facts.last_lines else ''}"
    ).rstrip()


def _install(facts: DeathFacts) -> str:
    if facts.command:
        return f"Correct [upstream] command: {facts.command[0]} cannot be run."
    return "Install mlx-lm into this environment, or set [upstream] command to a server of another one."


def _another_port(_: DeathFacts) -> str:
    return "Nothing: another port is tried."


def _more_processes(facts: DeathFacts) -> str:
    wanted = 2 * facts.open_files
    return f"Free memory, or raise the limits: ulimit -n {wanted} for open files, ulimit -u for processes."


def _read_log(facts: DeathFacts) -> str:
    last = next((line for line in reversed(facts.last_lines) if line.strip()), None)
    return "Its log is empty." if last is None else f"The last line of its log: {last.strip()[:200]}"


_ADVICE: dict[Cause, Callable[[DeathFacts], str]] = {
    Cause.KILLED_BY_SYSTEM: _less_or_reserve,
    Cause.RESOURCE_LIMIT: _fewer_buffers,
    Cause.METAL_ERROR: _smaller_steps,
    Cause.SEGFAULT: _native,
    Cause.ABORTED: _native,
    Cause.WEDGE: _more_patience,
    Cause.START_TIMEOUT: _more_time,
    Cause.UNSUPPORTED_FLAG: _without_flags,
    Cause.GENERATION_THREAD_DIED: _name_fault,
    Cause.LOAD_FAILED: _name_fault,
    Cause.BAD_MODEL: _other_model,
    Cause.SERVER_MISSING: _install,
    Cause.PORT_TAKEN: _another_port,
    Cause.SPAWN_FAILED: _more_processes,
}
