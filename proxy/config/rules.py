"""What must hold between settings, and between settings and this machine."""

from __future__ import annotations

import ipaddress
import operator
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass

from proxy.config import api_keys
from proxy.config.folders import state_folder
from proxy.config.server_command import setting_of_flag
from proxy.config.settings import Settings
from proxy.request.allowlist import RESERVED_ARGUMENTS, template_arguments


@dataclass(frozen=True, slots=True)
class Conflict:
    """A rule that does not hold.

    Attributes:
        settings: the settings involved, as `server.host`; the one to change first.
        message: what is wrong and what to do.
        where: the place, if it is not where a setting was made (a line of the keys file).
    """

    settings: tuple[str, ...]
    message: str
    where: str | None = None


def conflicts(settings: Settings) -> Iterator[Conflict]:
    """Check every rule."""
    yield from _network_access(settings)
    yield from _keys_file(settings)
    yield from _order(settings)
    yield from _template_arguments(settings)
    yield from _owned_flags(settings)
    yield from _command(settings)
    yield from _log_file(settings)
    yield from _state_dir(settings)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; names other than localhost count as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _network_access(settings: Settings) -> Iterator[Conflict]:
    server = settings.server
    if is_loopback(server.host) or server.insecure or server.api_keys or server.api_keys_file:
        return
    yield Conflict(
        ("server.host", "server.api_keys", "server.api_keys_file", "server.insecure"),
        f"{server.host} can be reached from other machines: set api_keys, api_keys_file or insecure = true",
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


#: Setting, relation that must hold, other setting, and why. Settings without a number are not compared.
_ORDER: tuple[tuple[str, str, str, str], ...] = (
    ("prompt.prompt_keep_tokens", "be less than", "prompt.max_prompt_tokens", ""),
    ("prompt.prompt_keep_tokens", "be less than", "prompt.max_kv_size", ""),
    (
        "prompt.max_kv_size",
        "be more than",
        "prompt.max_prompt_tokens",
        ": the longest prompt would leave no room for its answer",
    ),
    (
        "memory.max_active_kv_bytes",
        "be less than",
        "memory.max_active_memory_bytes",
        ", which includes the weights",
    ),
    ("supervisor.backoff_base_s", "not be more than", "supervisor.backoff_max_s", ""),
)
_RELATIONS = {"be less than": operator.lt, "be more than": operator.gt, "not be more than": operator.le}


def _order(settings: Settings) -> Iterator[Conflict]:
    for first, relation, second, reason in _ORDER:
        value, bound = operator.attrgetter(first, second)(settings)
        numbers = isinstance(value, int | float) and isinstance(bound, int | float)
        if numbers and not _RELATIONS[relation](value, bound):
            key, other = first.partition(".")[2], second.partition(".")[2]
            message = f"{key} ({_shown(value)}) must {relation} {other} ({_shown(bound)}){reason}"
            yield Conflict((first, second), message)


def _shown(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) else str(number)


def _template_arguments(settings: Settings) -> Iterator[Conflict]:
    for name in template_arguments(settings.request.template_arguments):
        if name in RESERVED_ARGUMENTS:
            yield Conflict(
                ("request.template_arguments",),
                f"{name} is an argument of the tokenizer itself and would kill the server: remove it",
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
