"""The output of `mlxguard-proxy check`: what will run with these settings."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from proxy.config import open_files
from proxy.config.api_keys import known_keys
from proxy.config.folders import state_folder
from proxy.config.loader import Loaded
from proxy.config.rules import is_loopback
from proxy.config.settings import LogSettings, MemorySettings, PromptSettings, Settings, UpstreamSettings
from proxy.planning.model_defaults import described, sampling_defaults
from proxy.planning.server_flags import server_flags
from proxy.request.model_names import served_name


def summary(loaded: Loaded) -> str:
    """One screen of text: what will run, then where each setting that is not a default was set."""
    lines = [f"The configuration is valid ({loaded.source})."]
    lines += [f"  {name:<14}{value}" for name, value in _rows(loaded.settings)]
    shortages = open_files.shortages(open_files.hard_limit(), loaded.settings.server.max_connections)
    lines += [f"warning: {shortage}" for shortage in shortages]
    if loaded.places:
        width = max(len(".".join(key)) for key in loaded.places)
        lines.append("Set in:")
        lines += [f"  {'.'.join(key):<{width}}  {place.name}" for key, place in loaded.places.items()]
    return "\n".join(lines)


def _rows(settings: Settings) -> Iterator[tuple[str, str]]:
    model, queue = settings.model, settings.queue
    yield "address", _address(settings)
    yield "model", f"{model.path}, served as {model.served_name or served_name(model.path)}"
    yield "child", _child(settings.upstream)
    yield "child flags", shlex.join(server_flags(settings, Path(model.path)))
    yield "prompts", _prompts(settings.prompt)
    yield "sampling", _sampling(settings)
    yield "memory", _memory(settings.memory)
    yield "queue", f"at most {queue.max_waiting} requests, each for at most {queue.max_wait_s:g} s"
    yield "state folder", str(state_folder(settings.supervisor.state_dir))
    yield "log", _log(settings.log)


def _address(settings: Settings) -> str:
    server = settings.server
    host = f"[{server.host}]" if ":" in server.host else server.host
    port = str(server.port) if server.port else "(a free port)"
    reach = "this machine only" if is_loopback(server.host) else "open to the network"
    keys = len(known_keys(server))
    access = f"{keys} API key{'s' if keys > 1 else ''}" if keys else "no API key"
    return f"http://{host}:{port}, {reach}, {access}"


def _child(upstream: UpstreamSettings) -> str:
    command = shlex.join(upstream.command) if upstream.command else "the installed mlx_lm.server"
    return f"{command}, telemetry {upstream.telemetry}"


def _prompts(prompt: PromptSettings) -> str:
    longest = prompt.max_prompt_tokens
    limit = "the model's context length" if longest == "auto" else f"{longest} tokens"
    overflow = "refused" if prompt.prompt_overflow_policy == "error" else "cut"
    return f"up to {limit}, longer ones are {overflow}; max_tokens is {prompt.default_max_tokens} by default"


def _sampling(settings: Settings) -> str:
    """The model's own defaults, if they are used and the model is on this machine."""
    if not settings.request.model_sampling_defaults:
        return "the server's defaults where a request names none"
    path = settings.model.path
    folder: Path | None = Path(path)
    if not Path(path).is_dir():
        folder = _downloaded(path, settings.model.revision) if "/" in path else None
    if folder is None:
        return "the model's own defaults where a request names none"
    return described(sampling_defaults(folder, settings.upstream.args))


def _downloaded(path: str, revision: str | None) -> Path | None:
    from supervisor.model.hub_cache import downloaded  # noqa: PLC0415 - only a model of the hub needs it

    return downloaded(path, revision)


def _memory(memory: MemorySettings) -> str:
    fixed = {name: value for name, value in memory if value != "auto"}
    return (
        ", ".join(f"{name} {value / 10**9:.1f}GB" for name, value in fixed.items())
        or "limits are left to the plan"
    )


def _log(log: LogSettings) -> str:
    file = f" and to {log.file} (JSON)" if log.file else ""
    return f"{log.level} and above to stderr ({log.format}){file}"
