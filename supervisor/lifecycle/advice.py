"""Pure. What to do about a death, as settings and values worked out from what was running at the time."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from supervisor.lifecycle.causes import CAUSE_INFO, Cause
from supervisor.lifecycle.in_flight import InFlight
from supervisor.memory_model.ceiling import gb
from supervisor.memory_model.plan import Plan

#: The server rounds the rows of its caches up to a multiple of this (mlx-lm, models/cache.py, KVCache.step).
_ROWS = 256

#: Memory of other programs is mentioned from this share of the total on.
_MUCH = 0.05

#: The memory in use when it ran out was a little too much, so this share of it is advised.
_SAFE_SHARE = 0.95

#: From this share of the ceiling on, a crash in native code may well be a failed allocation.
_NEARLY_FULL = 0.9

#: The defaults of mlx_lm.server itself (its argparse).
_DEFAULTS = {
    "--prompt-cache-size": 10,
    "--prefill-step-size": 2048,
    "--decode-concurrency": 32,
}

#: The hard limit on open files that mlx-lm sets at its import (mlx_lm/utils.py), and fails if it is lower.
_MLX_LM_FILES = 4096

_ERROR = re.compile(r"^[\w.]*(Error|Exception)\b.*")
_REFUSED_FLAGS = re.compile(r"error: unrecognized arguments: (.*)")


@dataclass(frozen=True, slots=True)
class DeathFacts:
    """What is known of one death. Sizes in bytes, times in seconds."""

    in_flight: Sequence[InFlight] = ()
    peak: int | None = None
    total: int = 0
    argv: tuple[str, ...] = ()  # the server's flags
    command: tuple[str, ...] = ()
    last_lines: tuple[str, ...] = ()
    start_timeout_s: float = 0.0
    stall_s: float = 0.0
    other_programs: int | None = None  # what other programs used of the GPU's own memory
    active: int | None = None  # what MLX had active in the last seconds
    other_growth: int | None = None  # RAM that other programs took during the child's life
    plan: Plan | None = None
    versions: tuple[str, ...] = ()
    open_files: int = 0  # this process's limit

    @property
    def running(self) -> int:
        return len(self.in_flight)

    @property
    def longest(self) -> int:
        """Tokens of the longest running prompt."""
        return max((work.prompt_tokens for work in self.in_flight), default=0)

    def flag(self, name: str) -> int:
        """The value of a numeric flag as the server reads it: the last one counts."""
        values = [self.argv[at + 1] for at, word in enumerate(self.argv[:-1]) if word == name]
        return int(values[-1]) if values and values[-1].isdigit() else _DEFAULTS[name]

    def half(self, name: str, least: int = 1) -> int:
        """Half the value of a flag."""
        return max(least, self.flag(name) // 2)


def advise(cause: Cause, facts: DeathFacts) -> str:
    """One line for the user: which setting, and which value."""
    specific = _ADVICE.get(cause, _use_less_memory if CAUSE_INFO[cause].memory else _read_log)
    return specific(facts)


def _use_less_memory(facts: DeathFacts) -> str:
    usage = _memory_usage(facts)
    if not facts.running:
        return (
            "Nothing was running, so the prompt cache kept between requests is too large: set [upstream] "
            f"prompt_cache_size = {facts.half('--prompt-cache-size')}, or use a smaller model.{usage}"
        )
    if facts.running == 1:
        return (
            f"A single prompt of {facts.longest} tokens was too much: set [prompt] max_prompt_tokens = "
            f"{_shorter(facts)}, or [upstream] prefill_step_size = "
            f"{facts.half('--prefill-step-size', 64)}.{usage}"
        )
    together = _together(facts)
    return (
        f"{facts.running} requests ran together, the longest prompt with {facts.longest} tokens: set "
        f"[upstream] decode_concurrency = {together} and prompt_concurrency = {together}, or [prompt] "
        f"max_prompt_tokens = {_shorter(facts)}.{usage}"
    )


def _memory_usage(facts: DeathFacts) -> str:
    if not facts.peak or not facts.total:
        return ""
    others = facts.other_programs or 0
    rest = f", other programs {gb(others)}" if others > _MUCH * facts.total else ""
    return f" MLX used up to {gb(facts.peak)} of {gb(facts.total)}{rest}.{_lower_ceiling(facts)}"


def _lower_ceiling(facts: DeathFacts) -> str:
    """A lower ceiling if usage came near the present one; far below it, the ceiling was not the cause."""
    ceiling, active = facts.plan.ceiling.bytes if facts.plan is not None else 0, facts.active or 0
    if not ceiling / 2 < active <= ceiling:
        return ""
    size = gb(_SAFE_SHARE * active).replace(" ", "")  # a decimal size as in proxy.toml
    return f' It is allowed {gb(ceiling)}: set [memory] max_active_memory_bytes = "{size}".'


def _together(facts: DeathFacts) -> int:
    """Half of the requests that ran, or fewer if the plan says that fewer fit with the longest prompt."""
    half = facts.running // 2
    if facts.plan is None:
        return half
    fitting = [members for members, rows in facts.plan.fits.items() if rows >= facts.longest]
    return max(1, min(half, max(fitting, default=1)))


def _shorter(facts: DeathFacts) -> int:
    """Three quarters of the longest prompt in whole cache steps, or less if the plan says that less fits."""
    tokens = facts.longest * 3 // 4
    if facts.plan is not None and facts.plan.max_prompt is not None:
        tokens = min(tokens, facts.plan.max_prompt)
    return max(_ROWS, tokens // _ROWS * _ROWS)


def _less_or_reserve(facts: DeathFacts) -> str:
    grown = facts.other_growth or 0
    if grown < _MUCH * facts.total:
        return _use_less_memory(facts)
    reserve = gb(grown / _SAFE_SHARE).replace(" ", "")
    return (
        f"Other programs took {gb(grown)} while it ran: close some, or set [memory] reserve_system_bytes = "
        f'"{reserve}". {_use_less_memory(facts)}'
    )


def _fewer_buffers(facts: DeathFacts) -> str:
    return (
        f"Set [upstream] decode_concurrency = {facts.half('--decode-concurrency')} and prompt_cache_size = "
        f"{facts.half('--prompt-cache-size')}: both need buffers."
    )


def _smaller_steps(facts: DeathFacts) -> str:
    step = facts.half("--prefill-step-size", 64)
    return f"Close other GPU programs; if it happens again, set [upstream] prefill_step_size = {step}."


def _native(facts: DeathFacts) -> str:
    """A failed allocation on a CPU looks like any other bad access, so memory usage decides the advice."""
    most = facts.plan.ceiling.bytes if facts.plan is not None else facts.total
    if facts.active and facts.active >= _NEARLY_FULL * most:
        return f"A failed allocation looks like this, and memory was nearly full. {_use_less_memory(facts)}"
    installed = f" (now {', '.join(facts.versions)})" if facts.versions else ""
    return f"Update mlx and mlx-lm{installed}. {_read_log(facts)}{_memory_usage(facts)}"


def _longer_stall_time(facts: DeathFacts) -> str:
    return f"If the machine was only slow, set [supervisor] stall_s = {round(facts.stall_s * 2)}."


def _more_time(facts: DeathFacts) -> str:
    wanted = round(facts.start_timeout_s * 2)
    return f"If the model is large or its disk is slow, set [supervisor] start_timeout_s = {wanted}."


def _without_flags(facts: DeathFacts) -> str:
    for line in reversed(facts.last_lines):
        if (refused := _REFUSED_FLAGS.search(line)) is not None:
            return f"Remove {refused[1]} from [upstream] args, or update mlx-lm."
    return f"Correct [upstream] args, or update mlx-lm. {_read_log(facts)}"


def _name_error(facts: DeathFacts) -> str:
    for line in reversed(facts.last_lines):
        if _ERROR.match(line):
            return f"The error was: {line[:200]}"
    return _read_log(facts)


def _other_model(facts: DeathFacts) -> str:
    folder = next((b for a, b in zip(facts.argv, facts.argv[1:], strict=False) if a == "--model"), None)
    place = f" ({folder})" if folder else ""
    return (
        f"Check [model] path{place}: config.json, tokenizer, all weights, and an architecture that "
        f"mlx-lm supports. {_name_error(facts) if facts.last_lines else ''}"
    ).rstrip()


def _install(facts: DeathFacts) -> str:
    if facts.command:
        return f"Correct [upstream] command: {facts.command[0]} cannot be run."
    return "Install mlx-lm into this environment, or set [upstream] command to the server of another one."


def _more_processes(facts: DeathFacts) -> str:
    wanted = 2 * facts.open_files
    return f"Free memory, or raise the limits: ulimit -n {wanted} for open files, ulimit -u for processes."


def _more_files(facts: DeathFacts) -> str:
    return (
        f"The hard limit on open files must be at least {_MLX_LM_FILES} (the proxy may now open "
        f"{facts.open_files}): run `ulimit -Hn {_MLX_LM_FILES}` as root before the proxy, or set LimitNOFILE "
        "in its service."
    )


def _read_log(facts: DeathFacts) -> str:
    last = next((line for line in reversed(facts.last_lines) if line.strip()), None)
    return "Its log is empty." if last is None else f"The last line of its log: {last.strip()[:200]}"


_ADVICE: dict[Cause, Callable[[DeathFacts], str]] = {
    Cause.KILLED_BY_SYSTEM: _less_or_reserve,
    Cause.RESOURCE_LIMIT: _fewer_buffers,
    Cause.METAL_ERROR: _smaller_steps,
    Cause.SEGFAULT: _native,
    Cause.ABORTED: _native,
    Cause.WEDGE: _longer_stall_time,
    Cause.START_TIMEOUT: _more_time,
    Cause.UNSUPPORTED_FLAG: _without_flags,
    Cause.GENERATION_THREAD_DIED: _name_error,
    Cause.LOAD_FAILED: _name_error,
    Cause.BAD_MODEL: _other_model,
    Cause.SERVER_MISSING: _install,
    Cause.PORT_TAKEN: lambda _: "Nothing: another port is tried.",
    Cause.SPAWN_FAILED: _more_processes,
    Cause.FILE_LIMIT: _more_files,
}
