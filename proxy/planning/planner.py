"""Makes the plan for the settings, from the model's trace, the server's flags and the machine."""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from proxy.config.settings import Settings
from proxy.planning.draft_models import DraftModels, found, largest_draft_models
from proxy.planning.learned_limits import Key, LearnedLimits, key_of
from proxy.planning.server_flags import FLAGS
from supervisor.machine import memory_limits
from supervisor.machine.versions import versions
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Bound, Ceiling, Readings, ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import Quantization
from supervisor.memory_model.learned_ceiling import LearnedCeiling, bound
from supervisor.memory_model.plan import Plan, plan
from supervisor.model.resolve import EMBEDDED, ModelUnavailable, describe
from supervisor.tracing.client import offered_flags, trace_model

_T = TypeVar("_T")

#: Seconds until a doubtful answer is asked for again: a trace or a server that failed may have lacked time or
#: memory just then, and a server of the user's own changes unnoticed. Asking takes up to a minute, so not at
#: every restart.
_DOUBTFUL_S = 600.0


@dataclass(frozen=True, slots=True)
class _KnownModel:
    """The inputs of a plan other than memory, valid while `signs` stay the same."""

    signs: object
    model: Model
    offered: frozenset[str]  # flags that the server's --help names
    context: int | None
    key: Key  # the key that learned limits must have
    missing: tuple[str, ...]  # draft models that are not on this machine


class Planner:
    """Makes plans for one set of settings.

    Restarts wait for a plan while everything else waits for the restart, so only memory is read anew each
    time. Traces, the server's flags and files are looked up again when files or libraries have changed, or
    some minutes after a doubtful answer.
    """

    def __init__(
        self,
        settings: Settings,
        cache_dir: Path,
        limits: LearnedLimits | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._cache_dir = cache_dir
        self._limits = limits or LearnedLimits()
        self._clock = clock
        self._known: _KnownModel | None = None
        self._known_until = math.inf

    async def plan(self, folder: Path) -> Plan:
        """Plan for the model in `folder` on the machine as it is now.

        Raises:
            ModelUnavailable: the folder is no model.
            OSError, ValueError: it cannot be read.
        """
        known = await self._look_up(folder)
        learned = self._limits.select(known.key)
        made = await asyncio.to_thread(self._decide, known, learned)
        self._limits.set_ceiling(made.ceiling.bytes)
        return made

    async def replan(self, started: Plan, child: int) -> tuple[Plan, Plan] | None:
        """Plan for the machine as it is now: for the child as it was `started`, and for one started now.

        `child` is the number of bytes that the running child has. Returns None when too little is known to
        plan without looking up the model again.
        """
        if (known := self._known) is None:
            return None
        learned = self._limits.select(known.key)
        same = _as_started(overrides(self._settings), started)
        plans = await asyncio.to_thread(
            lambda: (self._decide(known, learned, child, same), self._decide(known, learned, child))
        )
        self._limits.set_ceiling(plans[0].ceiling.bytes)
        return plans

    def _decide(
        self, known: _KnownModel, learned: LearnedCeiling, child: int = 0, fixed: FlagOverrides | None = None
    ) -> Plan:
        traced = known.model.traced
        readings = memory_limits.read(traced.backend, traced.working_set)
        top = machine_ceiling(self._settings, readings, child)
        if (lower := bound(learned, top.bytes)) is not None:
            top = machine_ceiling(self._settings, readings, child, lower)
        made = plan(known.model, top, fixed or overrides(self._settings), known.offered, known.context)
        missing = [
            f"The draft model {name} is not on this machine, so its memory is not part of the plan."
            for name in known.missing
        ]
        return replace(made, warnings=(*made.warnings, *missing))

    async def _look_up(self, folder: Path) -> _KnownModel:
        options = server_options(self._settings.upstream.args)
        named = _named(self._settings, options)
        signs = _signs(folder, *named)
        if self._known is not None and self._known.signs == signs and self._clock() < self._known_until:
            return self._known
        facts = await asyncio.to_thread(describe, folder)
        traced, drafts, offered = await asyncio.gather(
            trace_model(folder, self._cache_dir, trusted=self._settings.model.trust_remote_code),
            largest_draft_models(*named, self._cache_dir),
            offered_flags(self._settings.upstream.command, self._cache_dir),
        )
        model, key = _model(facts.weights_bytes, traced, drafts, options), key_of(self._settings, folder)
        self._known = _KnownModel(signs, model, offered, facts.context_length, key, drafts.missing)
        exact = model.traced.reason is None and not drafts.missing
        lasting = exact and offered and not self._settings.upstream.command
        self._known_until = math.inf if lasting else self._clock() + _DOUBTFUL_S
        return self._known


def _named(settings: Settings, options: argparse.Namespace) -> tuple[list[str], list[Path]]:
    """Draft models and adapters that the flags name or that requests may name."""
    drafts = [options.draft_model] if options.draft_model is not None else []
    adapters = [options.adapter_path] if options.adapter_path is not None else []
    request = settings.request
    return [*drafts, *request.draft_models], [*adapters, *map(Path, request.adapters)]


def _signs(folder: Path, drafts: Sequence[str], adapters: Sequence[Path]) -> object:
    """A value that changes with the files and libraries that a look-up depends on."""
    local = (found(draft) for draft in drafts)
    folders = [folder, *(each for each in local if each is not None), *adapters]
    stats = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for each in folders
        for pattern in ("config.json", "*.safetensors", "*.py")
        for file in sorted(each.glob(pattern))
    ]
    return folders, stats, versions()


def server_options(args: Sequence[str]) -> argparse.Namespace:
    """Parse the flags in [upstream] args that change the memory that is needed, and ignore all others.

    Raises:
        ValueError: the server would refuse one of them.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--kv-bits", type=int)
    parser.add_argument("--kv-group-size", type=int, default=64)
    parser.add_argument("--quantized-kv-start", type=int, default=5000)
    parser.add_argument("--draft-model")
    parser.add_argument("--adapter-path", type=Path)
    try:
        return parser.parse_known_args(list(args))[0]
    except argparse.ArgumentError as error:
        raise ValueError(str(error)) from error


def overrides(settings: Settings) -> FlagOverrides:
    """The values that the settings fix."""
    upstream = settings.upstream
    return FlagOverrides(
        **{name: _fixed(getattr(upstream, name)) for name in (*FLAGS, "mlx_cache_limit")},
        max_active_kv_bytes=_fixed(settings.memory.max_active_kv_bytes),
        max_prompt_tokens=_fixed(settings.prompt.max_prompt_tokens),
        own_command=bool(upstream.command) or upstream.telemetry == "off",
    )


def _as_started(fixed: FlagOverrides, started: Plan) -> FlagOverrides:
    """Fix what a running child cannot change any more, too."""
    flags: dict[str, Any] = {name: started.value(name) for name in FLAGS}
    return replace(fixed, **flags, mlx_cache_limit=started.cache_limit.value if started.cache_limit else None)


def _fixed(value: _T | str) -> _T | None:
    return None if isinstance(value, str) else value


def machine_ceiling(
    settings: Settings, readings: Readings, child: int = 0, learned: Bound | None = None
) -> Ceiling:
    """The ceiling with these settings; see `ceiling`."""
    configured = _fixed(settings.memory.max_active_memory_bytes)
    reserve = _fixed(settings.memory.reserve_system_bytes)
    return ceiling(readings, configured=configured, reserve=reserve, child=child, learned=learned)


def _model(weights: int, traced: Traced, drafts: DraftModels, options: argparse.Namespace) -> Model:
    cost_model = traced.cost_model
    if drafts.cost_model is not None:
        cost_model += drafts.cost_model
    if traced.reason is None and drafts.reason is not None:
        traced = replace(traced, reason=f"the draft model's: {drafts.reason}")
    if options.kv_bits is not None:
        quantization = Quantization(options.kv_bits, options.kv_group_size, options.quantized_kv_start)
        cost_model = replace(cost_model, quantization=quantization)
    batched = traced.batched and options.kv_bits is None and options.draft_model is None
    return Model(weights=weights + drafts.weights, cost_model=cost_model, traced=traced, batched=batched)


def local_folder(settings: Settings, cache_dir: Path) -> Path:
    """The model's folder on this machine; downloads and makes nothing.

    Raises:
        ModelUnavailable: the model is not on this machine.
    """
    path = settings.model.path
    folder = cache_dir / EMBEDDED if path == EMBEDDED else found(path, settings.model.revision)
    if folder is None or not folder.is_dir():
        raise ModelUnavailable(f'"{path}" is neither a folder nor downloaded; a plan downloads nothing.')
    return folder
