"""`mlxguard-proxy doctor`: proves in seconds that what differs between systems works on this machine.

Nothing is downloaded and no model of the user's is loaded. This is the thin shell: each check looks, and
doctor_machine.py or doctor_setup.py judges. The embedded model is served meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import logging
import os
import platform
import resource
import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import orjson

from proxy import startup
from proxy.config.folders import cache_folder, state_folder
from proxy.config.loader import ConfigurationError, load
from proxy.config.settings import ModelSettings, Settings
from proxy.doctor import machine, trials
from proxy.doctor import settings as doctor_setup
from proxy.doctor.finding import CheckResult, conclusion, document, failed, works
from proxy.doctor.machine import PROMISED_S, Versions
from proxy.doctor.serving import serve_once
from proxy.doctor.settings import ModelSeen, StateSeen
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

_TRIAL_BYTES = 64 * 2**20
#: Of MLX's, large enough that what it takes beside is little.
_MLX_BYTES = 128 * 2**20

Look = Callable[[], Awaitable[Sequence[CheckResult]]]


def run(config: Path | None, sets: Sequence[str], *, as_json: bool) -> int:
    """Look at everything and print what is found, each as it is known; the exit code is one of `ExitCode`."""
    logging.getLogger("mlxguard").addHandler(logging.NullHandler())  # what it says, the findings say too
    findings = asyncio.run(_printed(config, sets, as_json=as_json))
    return ExitCode.OK if works(findings) else ExitCode.UNFIT


async def _printed(config: Path | None, sets: Sequence[str], *, as_json: bool) -> list[CheckResult]:
    findings: list[CheckResult] = []

    def tell(found: Sequence[CheckResult]) -> None:
        findings.extend(found)
        if not as_json:
            _print("\n".join(finding.text() for finding in found))

    await _examine(config, sets, tell)
    if as_json:
        _print(orjson.dumps(document(findings), option=orjson.OPT_INDENT_2).decode())
    else:
        _print(conclusion(findings))
    return findings


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


async def _examine(
    config: Path | None, sets: Sequence[str], tell: Callable[[Sequence[CheckResult]], None]
) -> None:
    settings, source, faults = _configured(config, sets)
    serving = asyncio.create_task(_looked("server", _served))
    try:
        tell((doctor_setup.configuration(source, faults),))
        for name, look in (*_machine_checks(settings), *(() if faults else _setup_checks(settings))):
            tell(await _looked(name, look))
        tell(await serving)
        if not faults:  # the embedded model is there by now
            tell(await _looked("model", lambda: _model(settings)))
    finally:  # after Ctrl-C too, while there is still somebody to stop the server in order
        serving.cancel()
        await asyncio.wait((serving,))


def _configured(config: Path | None, sets: Sequence[str]) -> tuple[Settings, str, list[str]]:
    """The settings, where they came from, and their faults; with any, the settings are the defaults."""
    try:
        loaded = load(config, os.environ, sets)
    except ConfigurationError as error:
        return Settings(), "", [str(fault) for fault in error.faults]
    return loaded.settings, loaded.source, []


async def _looked(name: str, look: Look) -> Sequence[CheckResult]:
    try:
        return await look()
    except Exception as error:  # noqa: BLE001 - where it was never run, anything may be missing
        advice = "The check itself broke: please report it with the output of `mlxguard-proxy doctor --json`."
        return (failed(name, f"{type(error).__name__}: {error}", advice),)


def _machine_checks(settings: Settings) -> list[tuple[str, Look]]:
    async def versions() -> Sequence[CheckResult]:
        return (machine.versions(await asyncio.to_thread(_versions)),)

    async def flags() -> Sequence[CheckResult]:
        return (machine.flags(await offered_flags(settings.upstream.command, cache_folder())),)

    async def memory() -> Sequence[CheckResult]:
        return (machine.memory(await trials.rise(_TRIAL_BYTES)),)

    async def mlx() -> Sequence[CheckResult]:
        seen = await trials.mlx_rise(_MLX_BYTES)
        readings = await asyncio.to_thread(memory_limits.read, seen.backend, seen.working_set)
        allowed = machine_ceiling(settings, readings)
        return (
            machine.mlx_memory(seen, sys.platform),
            doctor_setup.memory(readings, allowed, sys.platform),
        )

    async def processes() -> Sequence[CheckResult]:
        return (machine.processes(await trials.process_seen()),)

    async def holder_of_port() -> Sequence[CheckResult]:
        return (machine.port_holder(await trials.port_seen()),)

    async def exits() -> Sequence[CheckResult]:
        return (machine.exits(await trials.exits()),)

    async def orphans() -> Sequence[CheckResult]:
        return (machine.orphans(await trials.orphans(PROMISED_S)),)

    async def open_files() -> Sequence[CheckResult]:
        return (machine.open_files(_open_files()),)

    return [
        ("versions", versions),
        ("server flags", flags),
        ("memory of a child", memory),
        ("memory of MLX", mlx),
        ("state of a child", processes),
        ("holder of a port", holder_of_port),
        ("end of a child", exits),
        ("no orphans", orphans),
        ("open files", open_files),
    ]


def _setup_checks(settings: Settings) -> list[tuple[str, Look]]:
    async def state_and_port() -> Sequence[CheckResult]:
        seen = await asyncio.to_thread(_state, state_folder(settings.supervisor.state_dir))
        server = settings.server
        fault = await asyncio.to_thread(_port_fault, settings)
        address = f"{server.host}:{server.port}" if server.port else f"some port of {server.host}"
        return doctor_setup.state(seen), doctor_setup.port(address, fault, seen.holder_pid)

    return [("state folder", state_and_port)]


async def _served() -> Sequence[CheckResult]:
    return machine.served(await serve_once(cache_folder()))


async def _model(settings: Settings) -> Sequence[CheckResult]:
    name = settings.model.path
    learned = LearnedLimits(LearnedFile(state_folder(settings.supervisor.state_dir)))
    try:
        folder = local_folder(settings, cache_folder())
        seen = ModelSeen(name, await Planner(settings, cache_folder(), learned).plan(folder))
    except (ModelUnavailable, OSError, ValueError) as failure:
        seen = ModelSeen(name, fault=str(failure), hub=_on_the_hub(settings.model))
    return (doctor_setup.model(seen),)


def _on_the_hub(model: ModelSettings) -> bool:
    return may_be_downloaded(model.path) and found(model.path, model.revision) is None


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


def _open_files() -> int | None:
    startup.raise_file_limit()
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def _state(folder: Path) -> StateSeen:
    """Takes the folder for a moment, as a proxy that starts does."""
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
