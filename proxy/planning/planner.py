"""Makes the plan for the settings, from what the probe, the server and the machine answer."""

from __future__ import annotations

import argparse
import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from proxy.config.settings import Settings
from proxy.planning.draft_models import DraftModels, companions, found
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.limits_file import Key, key_of
from supervisor.machine import memory_limits
from supervisor.machine.versions import versions
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Bound, Ceiling, Readings, ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import Quantization
from supervisor.memory_model.learned_ceiling import LearnedCeiling, bound
from supervisor.memory_model.plan import Plan, plan
from supervisor.model.resolve import EMBEDDED, ModelUnavailable, describe
from supervisor.tracing.client import offered_flags, probe

_T = TypeVar("_T")

#: A probe or a server that did not answer may have been short of time or memory just then, and a server of
#: the user's own changes without our noticing. Asking takes up to a minute: not at each restart of a storm.
_DOUBTFUL_S = 600.0


@dataclass(frozen=True, slots=True)
class _KnownModel:
    """What a plan follows from beside memory; it holds while `signs` stay.

    `offered`: flags that the server's --help names. `key`: what learned limits must have been learned for.
    `missing`: draft models that are not on this machine.
    """

    signs: object
    model: Model
    offered: frozenset[str]
    context: int | None
    key: Key
    missing: tuple[str, ...] = ()


class Planner:
    """Makes plans for one set of settings.

    Restarts wait for a plan while everything else waits for the restart, so only memory is read anew each
    time; probe, server and files are asked again when files or libraries have changed, or some minutes
    after an answer that may not last.
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
        """The plan for the model in `folder`, as the machine is now.

        Raises:
            ModelUnavailable: the folder is no model.
            OSError, ValueError: it cannot be read.
        """
        known = await self._look(folder)
        lessons = self._limits.take(known.key)
        made = await asyncio.to_thread(self._decide, known, lessons)
        self._limits.planned(made.ceiling.bytes)
        return made

    async def again(self, started: Plan, child: int) -> tuple[Plan, Plan] | None:
        """Plans for the machine as it is now: for the child as it was `started`, and for one started now.

        Args:
            child: bytes that it has.

        Returns:
            None when too little is known to plan without asking probe and server again.
        """
        if (known := self._known) is None:
            return None
        lessons = self._limits.take(known.key)
        same = _as_started(wishes(self._settings), started)
        plans = await asyncio.to_thread(
            lambda: (self._decide(known, lessons, child, same), self._decide(known, lessons, child))
        )
        self._limits.planned(plans[0].ceiling.bytes)
        return plans

    def _decide(
        self, known: _KnownModel, lessons: LearnedCeiling, child: int = 0, wished: FlagOverrides | None = None
    ) -> Plan:
        top = _ceiling(self._settings, known.model.traced, lessons, child)
        made = plan(known.model, top, wished or wishes(self._settings), known.offered, known.context)
        missing = [
            f"The draft model {name} is not on this machine, so its memory is not part of the plan."
            for name in known.missing
        ]
        return replace(made, warnings=(*made.warnings, *missing))

    async def _look(self, folder: Path) -> _KnownModel:
        options = server_options(self._settings.upstream.args)
        named = _named(self._settings, options)
        signs = _signs(folder, *named)
        if self._known is not None and self._known.signs == signs and self._clock() < self._known_until:
            return self._known
        facts = await asyncio.to_thread(describe, folder)
        traced, beside, offered = await asyncio.gather(
            probe(folder, self._cache_dir, trusted=self._settings.model.trust_remote_code),
            companions(*named, self._cache_dir),
            offered_flags(self._settings.upstream.command, self._cache_dir),
        )
        model, key = _model(facts.weights_bytes, traced, beside, options), key_of(self._settings, folder)
        self._known = _KnownModel(signs, model, offered, facts.context_length, key, beside.missing)
        exact = model.traced.reason is None and not beside.missing
        lasting = exact and offered and not self._settings.upstream.command
        self._known_until = math.inf if lasting else self._clock() + _DOUBTFUL_S
        return self._known


def _named(settings: Settings, options: argparse.Namespace) -> tuple[list[str], list[Path]]:
    """Draft models and adapters, of the flags and of those that requests may name."""
    drafts = [options.draft_model] if options.draft_model is not None else []
    adapters = [options.adapter_path] if options.adapter_path is not None else []
    request = settings.request
    return [*drafts, *request.draft_models], [*adapters, *map(Path, request.adapters)]


def _signs(folder: Path, drafts: Sequence[str], adapters: Sequence[Path]) -> object:
    """Changes with all that probe, server and files were asked about."""
    there = (found(draft) for draft in drafts)
    folders = [folder, *(each for each in there if each is not None), *adapters]
    stats = [
        (str(file), file.stat().st_size, file.stat().st_mtime_ns)
        for each in folders
        for pattern in ("config.json", "*.safetensors", "*.py")
        for file in sorted(each.glob(pattern))
    ]
    return folders, stats, versions()


def server_options(args: Sequence[str]) -> argparse.Namespace:
    """The flags in [upstream] args that change what memory is needed; all others are passed over.

    Raises:
        ValueError: one that the server would refuse.
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


def wishes(settings: Settings) -> FlagOverrides:
    """What the settings fix."""
    upstream = settings.upstream
    return FlagOverrides(
        prefill_step_size=_fixed(upstream.prefill_step_size),
        decode_concurrency=_fixed(upstream.decode_concurrency),
        prompt_concurrency=_fixed(upstream.prompt_concurrency),
        prompt_cache_bytes=_fixed(upstream.prompt_cache_bytes),
        prompt_cache_size=_fixed(upstream.prompt_cache_size),
        mlx_cache_limit=_fixed(upstream.mlx_cache_limit),
        max_active_kv_bytes=_fixed(settings.memory.max_active_kv_bytes),
        max_prompt_tokens=_fixed(settings.prompt.max_prompt_tokens),
        own_command=bool(upstream.command) or upstream.telemetry == "off",
    )


def _as_started(wished: FlagOverrides, started: Plan) -> FlagOverrides:
    """What a running child cannot change any more."""
    return replace(
        wished,
        prefill_step_size=started.value("prefill_step_size"),
        decode_concurrency=started.value("decode_concurrency"),
        prompt_concurrency=started.value("prompt_concurrency"),
        prompt_cache_bytes=started.value("prompt_cache_bytes"),
        prompt_cache_size=started.value("prompt_cache_size"),
        mlx_cache_limit=started.cache_limit.value if started.cache_limit else None,
    )


def _fixed(value: _T | str) -> _T | None:
    return None if isinstance(value, str) else value


def _ceiling(settings: Settings, traced: Traced, lessons: LearnedCeiling, child: int) -> Ceiling:
    readings = memory_limits.read(traced.backend, traced.working_set)
    allowed = machine_ceiling(settings, readings, child)
    taught = bound(lessons, allowed.bytes)
    return allowed if taught is None else machine_ceiling(settings, readings, child, taught)


def machine_ceiling(
    settings: Settings, readings: Readings, child: int = 0, learned: Bound | None = None
) -> Ceiling:
    """What the child may take with these settings; see `ceiling`."""
    configured = _fixed(settings.memory.max_active_memory_bytes)
    reserve = _fixed(settings.memory.reserve_system_bytes)
    return ceiling(readings, configured=configured, reserve=reserve, child=child, learned=learned)


def _model(weights: int, traced: Traced, beside: DraftModels, options: argparse.Namespace) -> Model:
    law, batched = traced.law, traced.batched and options.kv_bits is None and options.draft_model is None
    if beside.law is not None:
        law = law + beside.law
    if traced.reason is None and beside.reason is not None:
        traced = replace(traced, reason=f"the draft model's: {beside.reason}")
    if options.kv_bits is not None:
        start = options.quantized_kv_start
        law = replace(law, quantization=Quantization(options.kv_bits, options.kv_group_size, start))
    return Model(weights=weights + beside.weights, law=law, traced=traced, batched=batched)


def local_folder(settings: Settings, cache_dir: Path) -> Path:
    """The model's folder if it is on this machine: nothing is downloaded or made.

    Raises:
        ModelUnavailable: it is not.
    """
    path = settings.model.path
    folder = cache_dir / EMBEDDED if path == EMBEDDED else found(path, settings.model.revision)
    if folder is None or not folder.is_dir():
        raise ModelUnavailable(f'"{path}" is neither a folder nor downloaded; nothing is fetched for a plan.')
    return folder
