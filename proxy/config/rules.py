"""What must hold between settings, and between them and this machine, beyond each value by itself."""

from __future__ import annotations

import ipaddress
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from proxy.config import api_keys
from proxy.config.folders import state_folder
from proxy.config.server_command import setting_of_flag
from proxy.config.settings import Settings
from proxy.request.allowlist import RESERVED_ARGUMENTS, template_arguments


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rule that is broken.

    Attributes:
        settings: those that take part, as `server.host`; the one to change first.
        message: what is wrong and what to do.
        where: the place, when it is not where a setting was made (a line of the keys file).
    """

    settings: tuple[str, ...]
    message: str
    where: str | None = None


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """Every broken rule."""
    for rule in _RULES:
        yield from rule(settings)


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`; a name other than localhost is taken for reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _strangers(settings: Settings) -> Iterator[Conflict]:
    server = settings.server
    if is_loopback(server.host) or server.insecure or server.api_keys or server.api_keys_file:
        return
    yield Conflict(
        ("server.host", "server.api_keys", "server.api_keys_file", "server.insecure"),
        f"{server.host} can be reached from other machines: set api_keys or api_keys_file, "
        "or insecure = true",
    )


def _keys_file(settings: Settings) -> Iterator[Conflict]:
    path = settings.server.api_keys_file
    if path is None:
        return
    try:
        if not api_keys.read(path):
            yield Conflict(("server.api_keys_file",), f"{path} has no key in it")
    except api_keys.KeysUnreadable as fault:
        if fault.line is None:
            yield Conflict(("server.api_keys_file",), f"{path}: {fault}")
        else:
            yield Conflict(("server.api_keys_file",), str(fault), where=f"{path}:{fault.line}")


def _prompt_lengths(settings: Settings) -> Iterator[Conflict]:
    prompt = settings.prompt
    longest, keep, rows = prompt.max_prompt_tokens, prompt.prompt_keep_tokens, prompt.max_kv_size
    if longest != "auto" and keep >= longest:
        yield Conflict(
            ("prompt.prompt_keep_tokens", "prompt.max_prompt_tokens"),
            f"prompt_keep_tokens ({keep}) must be less than max_prompt_tokens ({longest})",
        )
    if rows is not None and keep >= rows:
        yield Conflict(
            ("prompt.prompt_keep_tokens", "prompt.max_kv_size"),
            f"prompt_keep_tokens ({keep}) must be less than max_kv_size ({rows})",
        )
    if rows is not None and longest != "auto" and longest >= rows:
        yield Conflict(
            ("prompt.max_kv_size", "prompt.max_prompt_tokens"),
            f"max_kv_size ({rows}) must be more than max_prompt_tokens ({longest}): "
            "the longest prompt would leave no room for its answer",
        )


def _template_arguments(settings: Settings) -> Iterator[Conflict]:
    for name in template_arguments(settings.request.template_arguments):
        if name in RESERVED_ARGUMENTS:
            yield Conflict(
                ("request.template_arguments",),
                f"{name} is an argument of the tokenizer itself, and kills the server: take it out",
            )


def _memory(settings: Settings) -> Iterator[Conflict]:
    memory = settings.memory
    whole, kv = memory.max_active_memory_bytes, memory.max_active_kv_bytes
    if whole != "auto" and kv != "auto" and kv >= whole:
        yield Conflict(
            ("memory.max_active_kv_bytes", "memory.max_active_memory_bytes"),
            f"max_active_kv_bytes ({kv}) must be less than max_active_memory_bytes ({whole}), "
            "which holds the weights too",
        )


def _back_off(settings: Settings) -> Iterator[Conflict]:
    supervisor = settings.supervisor
    if supervisor.backoff_base_s > supervisor.backoff_max_s:
        yield Conflict(
            ("supervisor.backoff_base_s", "supervisor.backoff_max_s"),
            f"backoff_base_s ({supervisor.backoff_base_s:g}) must not be more than "
            f"backoff_max_s ({supervisor.backoff_max_s:g})",
        )


def _owned_flags(settings: Settings) -> Iterator[Conflict]:
    for word in settings.upstream.args:
        owner = setting_of_flag(word)
        if owner:
            yield Conflict(("upstream.args",), f"{word} does not belong in args: set {owner}")


def _command(settings: Settings) -> Iterator[Conflict]:
    command = settings.upstream.command
    if command and shutil.which(command[0]) is None:
        yield Conflict(("upstream.command",), f"there is no program {command[0]!r} to run")


def _log_file(settings: Settings) -> Iterator[Conflict]:
    file = settings.log.file
    if file is None:
        return
    if not file.parent.is_dir():
        yield Conflict(("log.file",), f"the folder {file.parent} does not exist")
    elif file.is_dir() or not os.access(file if file.exists() else file.parent, os.W_OK):
        yield Conflict(("log.file",), f"{file} cannot be written")


def _state_dir(settings: Settings) -> Iterator[Conflict]:
    folder = state_folder(settings.supervisor.state_dir)
    try:
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
    except PermissionError:
        yield Conflict(("supervisor.state_dir",), f"{folder} cannot be reached: permission denied")
        return
    if not nearest.is_dir():
        yield Conflict(("supervisor.state_dir",), f"{folder} cannot be made: {nearest} is not a folder")
    elif not os.access(nearest, os.W_OK | os.X_OK):
        yield Conflict(("supervisor.state_dir",), f"{folder} cannot be written: no permission in {nearest}")


_RULES: tuple[Callable[[Settings], Iterator[Conflict]], ...] = (
    _strangers,
    _keys_file,
    _prompt_lengths,
    _template_arguments,
    _memory,
    _back_off,
    _owned_flags,
    _command,
    _log_file,
    _state_dir,
)
