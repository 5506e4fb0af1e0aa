"""The checks of `mlxguard-proxy doctor`: makes them in order and prints the results."""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import platform
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TypeVar

import orjson

from proxy.config.folders import cache_folder, state_folder
from proxy.config.loader import ConfigurationError, load
from proxy.config.open_files import hard_limit
from proxy.config.settings import Settings
from proxy.doctor import machine, trials
from proxy.doctor import settings as setup
from proxy.doctor.check_result import CheckResult, conclusion, document, failed, works
from proxy.doctor.machine import PROMISED_S, Versions
from proxy.doctor.serving import serve_once
from proxy.doctor.settings import StateSeen
from proxy.exit_codes import ExitCode
from proxy.http import early_listener
from proxy.planning.draft_models import found
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.learned_state import LearnedFile
from proxy.planning.planner import Planner, local_folder, machine_ceiling
from supervisor.machine import memory_limits, system
from supervisor.model.resolve import ModelUnavailable, may_be_downloaded
from supervisor.state.folder import AlreadyRunning, StateFolder, holder
from supervisor.tracing.client import offered_flags

#: Bytes that a trial program allocates.
_TRIAL_BYTES = 64 * 2**20
#: Bytes that it allocates by MLX: large, so that MLX's overhead hardly counts.
_MLX_BYTES = 128 * 2**20

T = TypeVar("T")
#: One check: returns its results.
Check = Callable[[], Awaitable[Sequence[CheckResult]]]


def run(config: Path | None, sets: Sequence[str], *, as_json: bool) -> int:
    """Make every check and print each result as it is known; the exit code is one of `ExitCode`."""
    logging.getLogger("mlxguard").addHandler(logging.NullHandler())  # the results say the same
    results: list[CheckResult] = []

    def report(new: Sequence[CheckResult]) -> None:
        results.extend(new)
        if not as_json:
            _print("\n".join(result.text() for result in new))

    asyncio.run(_examine(config, sets, report))
    whole = orjson.dumps(document(results), option=orjson.OPT_INDENT_2).decode() if as_json else ""
    _print(whole or conclusion(results))
    return ExitCode.OK if works(results) else ExitCode.UNFIT


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _examine(
    config: Path | None, sets: Sequence[str], report: Callable[[Sequence[CheckResult]], None]
) -> None:
    settings, source, faults = _configured(config, sets)
    serving = asyncio.create_task(_results("server", _served))
    try:
        report((setup.configuration(source, faults),))
        for name, check in _machine_checks(settings):
            report(await _results(name, check))
        if not faults:
            report(await _results("state folder", lambda: _state_and_port(settings)))
        report(await serving)
        if not faults:  # by now the embedded model exists
            report(await _results("model", lambda: _model(settings)))
    finally:  # also after Ctrl-C, so that the server is stopped in order
        serving.cancel()
        await asyncio.wait((serving,))


def _configured(config: Path | None, sets: Sequence[str]) -> tuple[Settings, str, list[str]]:
    """The settings, their source and their faults; with any fault, the settings are the defaults."""
    try:
        loaded = load(config, os.environ, sets)
    except ConfigurationError as error:
        return Settings(), "", [str(fault) for fault in error.faults]
    return loaded.settings, loaded.source, []


async def _results(name: str, check: Check) -> Sequence[CheckResult]:
    try:
        return await check()
    except Exception as error:  # noqa: BLE001 - on a new system anything may be missing
        advice = (
            "The check itself failed: please report it with the output of `mlxguard-proxy doctor --json`."
        )
        return (failed(name, f"{type(error).__name__}: {error}", advice),)


def _judged(judge: Callable[[T], CheckResult], look: Callable[[], Awaitable[T]]) -> Check:
    """The check that looks with `look` and judges with `judge`."""

    async def check() -> Sequence[CheckResult]:
        return (judge(await look()),)

    return check


def _machine_checks(settings: Settings) -> list[tuple[str, Check]]:
    """The checks of the machine by name, in the order in which they are made."""

    async def mlx() -> Sequence[CheckResult]:
        seen = await trials.mlx_rise(_MLX_BYTES)
        readings = await asyncio.to_thread(memory_limits.read, seen.backend, seen.working_set)
        allowed = machine_ceiling(settings, readings)
        return machine.mlx_memory(seen, sys.platform), setup.memory(readings, allowed, sys.platform)

    return [
        ("versions", _judged(machine.versions, lambda: asyncio.to_thread(_versions))),
        (
            "server flags",
            _judged(machine.flags, lambda: offered_flags(settings.upstream.command, cache_folder())),
        ),
        ("memory of a child", _judged(machine.memory, lambda: trials.rise(_TRIAL_BYTES))),
        ("memory of MLX", mlx),
        ("state of a child", _judged(machine.processes, trials.process_seen)),
        ("holder of a port", _judged(machine.port_holder, trials.port_seen)),
        ("end of a child", _judged(machine.exits, trials.exits)),
        ("no orphans", _judged(machine.orphans, lambda: trials.orphans(PROMISED_S))),
        (
            "open files",
            _judged(
                lambda limit: machine.open_files(limit, settings.server.max_connections),
                lambda: asyncio.to_thread(hard_limit),
            ),
        ),
    ]


async def _state_and_port(settings: Settings) -> Sequence[CheckResult]:
    seen = await asyncio.to_thread(_state, state_folder(settings.supervisor.state_dir))
    server = settings.server
    fault = await asyncio.to_thread(_port_fault, settings)
    address = f"{server.host}:{server.port}" if server.port else f"some port of {server.host}"
    return setup.state(seen), setup.port(address, fault, seen.holder_pid)


async def _served() -> Sequence[CheckResult]:
    return machine.served(await serve_once(cache_folder()))


async def _model(settings: Settings) -> Sequence[CheckResult]:
    name, revision = settings.model.path, settings.model.revision
    learned = LearnedLimits(LearnedFile(state_folder(settings.supervisor.state_dir)))
    try:
        folder = local_folder(settings, cache_folder())
        return (setup.model(name, await Planner(settings, cache_folder(), learned).plan(folder)),)
    except (ModelUnavailable, OSError, ValueError) as failure:
        downloadable = may_be_downloaded(name) and found(name, revision) is None
        return (setup.no_model(name, str(failure), downloadable=downloadable),)


def _versions() -> Versions:
    mac = platform.mac_ver()[0]
    return Versions(
        python=platform.python_version(),
        mlx=_installed("mlx"),
        mlx_lm=_installed("mlx-lm"),
        system=f"macOS {mac}" if mac else f"{platform.system()} {platform.release()}",
        machine=platform.machine(),
        chip=system.chip(),
    )


def _installed(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def _state(folder: Path) -> StateSeen:
    """Lock the folder for a moment, as a proxy does that starts."""
    records = StateFolder(folder)
    try:
        records.open()
    except AlreadyRunning as taken:
        return StateSeen(folder, _free(folder), holder=str(taken), holder_pid=holder(folder).get("pid"))
    except OSError as error:
        return StateSeen(folder, 0, fault=error.strerror or str(error))
    records.close()
    return StateSeen(folder, _free(folder))


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free


def _port_fault(settings: Settings) -> str | None:
    try:
        early_listener.listen(settings.server).close()
    except OSError as error:
        return early_listener.explain_listen_error(settings.server, error)
    return None
