"""Asks the probe and the server's --help, in short-lived processes, once per model and library version."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from supervisor.child.command import server_command
from supervisor.machine.memory_limits import wired_limit
from supervisor.machine.system import total_memory
from supervisor.machine.versions import versions
from supervisor.memory_model.activations import Traced
from supervisor.memory_model.kv_cache import CostModel, from_document
from supervisor.memory_model.upper_bound import bound
from supervisor.state.json_file import read_json, write_json

log = logging.getLogger("mlxguard.probe")

#: Importing mlx_lm takes 1 to 5 s, a trace well under one; some architectures evaluate.
_PROBE_S = 60.0
_HELP_S = 30.0
#: The modules whose code decides what a trace says; a change to one of them makes cached traces stale.
_PROBE = ("supervisor.tracing.trace", "supervisor.tracing.cache_classes", "supervisor.memory_model.kv_cache")
_ITEMSIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


async def probe(folder: Path, cache_dir: Path, *, trusted: bool = False) -> Traced:
    """The law of the model in `folder`; a bound where it cannot be traced, whatever the reason.

    Args:
        cache_dir: where answers are kept.
        trusted: code that comes with the model may be run.

    Raises:
        OSError, ValueError: there is no config.json that can be read.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    place = cache_dir / "probes" / f"{_fingerprint(folder, trusted)}.json"
    document = _kept(place)
    if document is None:
        document = await _run_probe(folder, trusted)
        if "device" in document:  # it ran to its end: the answer will be the same next time
            _keep(place, document)
    return _understood(document, config)


async def offered_flags(command: Sequence[str], cache_dir: Path) -> frozenset[str]:
    """Flags that the server's own --help names; none when it does not answer.

    Args:
        command: the server of the user's own, or nothing for the one installed here.
    """
    place = cache_dir / "probes" / f"help-{_digest(*versions())}.json"
    known = None if command else _kept(place)
    if known is None:
        output = await _output((*(command or server_command()), "--help"), _HELP_S)
        known = {"flags": sorted(set(_OPTION.findall(output or "")))}
        if known["flags"] and not command:  # another environment may change without our noticing
            _keep(place, known)
    return frozenset(known["flags"])


async def _run_probe(folder: Path, trusted: bool) -> dict[str, Any]:
    trust = ("--trust-remote-code",) if trusted else ()
    # -P: a folder named like one of our packages where the command was started must not be imported.
    command = (sys.executable, "-P", "-m", "supervisor.tracing.trace", str(folder), *trust)
    output = await _output(command, _PROBE_S)
    if output is None:
        return {"traced": None, "reason": f"tracing it took over {_PROBE_S:g} s"}
    try:
        document = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return {"traced": None, "reason": "tracing it crashed, or took too much memory"}
    return document if isinstance(document, dict) else {}


def _understood(document: dict[str, Any], config: dict[str, Any]) -> Traced:
    device, traced = document.get("device", {}), document.get("traced")
    backend, working_set = device.get("backend", "cpu"), device.get("working_set_bytes")
    if traced is None:
        reason = str(document.get("reason", "it could not be traced"))
        log.warning("model_not_traced", extra={"reason": reason})
        return Traced(bound(config), reason=reason, backend=backend, working_set=working_set)
    return Traced(
        law=CostModel(from_document(traced["parts"])),
        batched=traced["batched"],
        rotating=traced["rotating"],
        attention=tuple((heads, key, value) for heads, key, value in traced["attention"]),
        layer_width=traced["layer_width"],
        vocabulary=traced["vocabulary"],
        itemsize=_ITEMSIZE[traced["dtype"]],
        backend=backend,
        working_set=working_set,
        layers=max(1, traced["layers"]),
    )


async def _output(command: Sequence[str], limit_s: float) -> str | None:
    """What a program writes to stdout; None when it does not end in time or cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the gateway, which then decides
        )
    except OSError as error:
        log.warning("not_started", extra={"command": command[0], "reason": str(error)})
        return None
    try:
        async with asyncio.timeout(limit_s):
            output, _ = await process.communicate()
    except TimeoutError:
        return None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


def _kept(place: Path) -> dict[str, Any] | None:
    try:
        return read_json(place)
    except OSError:  # as good as nothing kept; `_keep` will say what is wrong
        return None


def _keep(place: Path, document: dict[str, Any]) -> None:
    """A cache folder that cannot be written costs seconds at the next start, and nothing else."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, document)
    except OSError as error:
        log.warning("probe_not_cached", extra={"reason": str(error)})


def _fingerprint(folder: Path, trusted: bool) -> str:
    """Changes with all that the answer follows from: configuration, weights, code, libraries, GPU limit."""
    code = b"".join(_source(name) for name in _PROBE)
    return _digest(model_digest(folder), code, (total_memory(), wired_limit()), trusted, *versions())


def model_digest(folder: Path) -> str:
    """Changes with the model's revision: with its configuration, or the names and sizes of its weights.

    Raises:
        OSError: there is no config.json that can be read.
    """
    files = sorted((file.name, file.stat().st_size) for file in folder.glob("model*.safetensors"))
    return _digest((folder / "config.json").read_bytes(), files)


def _source(module: str) -> bytes:
    spec = find_spec(module)
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).read_bytes()


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
