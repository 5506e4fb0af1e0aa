"""Runs traces of models, and the server's --help, in short-lived processes, and caches the results."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from supervisor.child.command import server_command
from supervisor.environment import without_secrets
from supervisor.machine.memory_limits import wired_limit
from supervisor.machine.system import total_memory
from supervisor.machine.versions import versions
from supervisor.memory_model.activations import Traced
from supervisor.memory_model.upper_bound import bound
from supervisor.state.json_file import read_json, write_json

log = logging.getLogger("mlxguard.tracing")

#: Seconds for a trace: importing mlx_lm takes 1 to 5 s, a trace well under one; some architectures evaluate.
_TRACE_S = 60.0
#: Seconds for the server's --help, which imports mlx_lm too.
_HELP_S = 30.0
#: Modules whose code determines a trace and its form; a change to one of them makes cached traces stale.
_TRACE_CODE = (
    "supervisor.tracing.trace",
    "supervisor.tracing.cache_classes",
    "supervisor.memory_model.kv_cache",
    "supervisor.memory_model.activations",
)
_TRACED = TypeAdapter(Traced)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*")


async def trace_model(folder: Path, cache_dir: Path, *, trusted: bool = False) -> Traced:
    """Trace the model in `folder`; where that fails, its cost model is only an upper bound.

    Args:
        cache_dir: the cache folder, in which traces are stored.
        trusted: code that comes with the model may be run.

    Raises:
        OSError, ValueError: there is no config.json that can be read.
    """
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    file = cache_dir / "traces" / f"{_fingerprint(folder, trusted)}.json"
    document = _cached(file)
    if document is not None:
        with suppress(ValueError, TypeError):  # damaged: trace it again
            return _understood(document, config)
    document = await _run_trace(folder, trusted)
    if "device" in document:  # it ran to its end: the result will be the same next time
        _store(file, document)
    return _understood(document, config)


def _understood(document: Mapping[str, Any], config: Mapping[str, Any]) -> Traced:
    device = document.get("device", {})
    if (traced := document.get("traced")) is not None:
        return _TRACED.validate_python({**traced, **device})
    reason = str(document.get("reason", "it could not be traced"))
    log.warning("model_not_traced", extra={"reason": reason})
    return _TRACED.validate_python({"cost_model": bound(config), "reason": reason, **device})


async def offered_flags(command: Sequence[str], cache_dir: Path) -> frozenset[str]:
    """The flags that the server's own --help names; none when it does not answer.

    Args:
        command: the user's own server command; empty for the server that is installed here.
    """
    file = cache_dir / "traces" / f"help-{_digest(*versions())}.json"
    known = None if command else _cached(file)
    if known is None or not _is_list_of_flags(known.get("flags")):
        output = await _output((*(command or server_command()), "--help"), _HELP_S)
        known = {"flags": sorted(set(_OPTION.findall(output or "")))}
        if known["flags"] and not command:  # another environment may change unnoticed
            _store(file, known)
    return frozenset(known["flags"])


def _is_list_of_flags(flags: object) -> bool:
    return isinstance(flags, list) and bool(flags) and all(isinstance(flag, str) for flag in flags)


async def _run_trace(folder: Path, trusted: bool) -> dict[str, Any]:
    trust = ("--trust-remote-code",) if trusted else ()
    # -P: a folder that is named like one of our packages, in the working directory, must not be imported.
    command = (sys.executable, "-P", "-m", "supervisor.tracing.trace", str(folder), *trust)
    output = await _output(command, _TRACE_S)
    if output is None:
        return {"traced": None, "reason": f"tracing it took over {_TRACE_S:g} s"}
    try:
        document = json.loads(output.splitlines()[-1])
    except (ValueError, IndexError):
        return {"traced": None, "reason": "tracing it crashed, or needed too much memory"}
    return document if isinstance(document, dict) else {}


async def _output(command: Sequence[str], limit_s: float) -> str | None:
    """A program's stdout; None when it does not end in time or cannot be started."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env=without_secrets(),
            start_new_session=True,  # Ctrl-C is for the gateway, which then decides
        )
    except OSError as error:
        log.warning("helper_not_started", extra={"command": command[0], "reason": str(error)})
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


def _cached(file: Path) -> dict[str, Any] | None:
    try:
        return read_json(file)
    except OSError:  # the same as nothing cached; `_store` will log the reason
        return None


def _store(file: Path, document: dict[str, Any]) -> None:
    """Cache the document; a cache folder that cannot be written costs only seconds at the next start."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, document)
    except OSError as error:
        log.warning("trace_not_cached", extra={"reason": str(error)})


def _fingerprint(folder: Path, trusted: bool) -> str:
    """A digest of all that a trace depends on: model, our code, libraries, memory, GPU limit."""
    code = b"".join(_source(name) for name in _TRACE_CODE)
    return _digest(model_digest(folder), code, (total_memory(), wired_limit()), trusted, *versions())


def model_digest(folder: Path) -> str:
    """A digest of the model's revision: its configuration, and the names and sizes of its weights.

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
