"""The mlx_lm.server command that someone uses today, read as settings of proxy.toml.

The flags are those of mlx-lm 0.32.2 (its server.py, `main`). A flag that is not among them is handed on
to the server as it is.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NoReturn

#: Flags of the server that a setting of ours decides, so that they may not be in [upstream] args.
OWNED_FLAGS = {
    "--model": "model.path",
    "--host": "server.host",
    "--port": "server.port",
    "--allowed-origins": "server.allowed_origins",
    "--trust-remote-code": "model.trust_remote_code",
    "--log-level": "log.level",
    "--max-tokens": "prompt.default_max_tokens",
    "--prefill-step-size": "upstream.prefill_step_size",
    "--decode-concurrency": "upstream.decode_concurrency",
    "--prompt-concurrency": "upstream.prompt_concurrency",
    "--prompt-cache-size": "upstream.prompt_cache_size",
    "--prompt-cache-bytes": "upstream.prompt_cache_bytes",
}

#: The server's other flags; they are known here because argparse takes any unambiguous beginning of a flag.
_HANDED_ON = (
    "--adapter-path",
    "--draft-model",
    "--num-draft-tokens",
    "--chat-template",
    "--temp",
    "--top-p",
    "--top-k",
    "--min-p",
    "--chat-template-args",
    "--kv-bits",
    "--kv-group-size",
    "--quantized-kv-start",
)
_HANDED_ON_SWITCHES = ("--use-default-chat-template", "--pipeline")

#: How flags that are no whole numbers are read.
_READ_AS: Mapping[str, dict[str, Any]] = {
    "--model": {},
    "--host": {},
    "--allowed-origins": {"type": lambda text: text.split(",")},
    "--trust-remote-code": {"action": "store_true"},
    "--log-level": {"type": lambda text: {"CRITICAL": "error"}.get(text, text.lower())},
    "--prompt-cache-bytes": {},
}

#: Where the parser collects what is handed on.
_KEPT = "kept"

#: What ends a command in a shell.
_SHELL = re.compile(r"[&|;]+|[0-9]*[<>].*")
_VARIABLE = re.compile(r"(env|[A-Za-z_][A-Za-z0-9_]*=.*)", re.DOTALL)

#: Words before the server's name that say nothing but "run what is on PATH".
_PLAIN = re.compile(r"exec|nohup|python[0-9.]*|-m")


class NotAServerCommand(ValueError):
    """The text does not run mlx_lm.server, or it is one that the server itself would refuse."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A command as settings.

    Attributes:
        values: setting, as `server.port`, -> value.
        remarks: what the user should know about the translation, one sentence each.
    """

    values: Mapping[str, object]
    remarks: tuple[str, ...]


def setting_of_flag(word: str) -> str | None:
    """The setting that decides the flag in `word`, also abbreviated or with `=value`; None: none does."""
    name = word.partition("=")[0]
    if not name.startswith("--") or name == "--":
        return None
    if name in OWNED_FLAGS:
        return OWNED_FLAGS[name]
    every = (*OWNED_FLAGS, *_HANDED_ON, *_HANDED_ON_SWITCHES)
    meant = [flag for flag in every if flag.startswith(name)]
    return OWNED_FLAGS.get(meant[0]) if len(meant) == 1 else None


def read(command: str) -> ServerCommand:
    """The settings that make the proxy do what the command does, on the same address.

    Raises:
        NotAServerCommand: with the reason.
    """
    words, remarks = _of_shell(command)
    runner, flags = _at_server(words)
    found, unknown = _parser().parse_known_args(flags)
    values = {name: value for name, value in vars(found).items() if name != _KEPT}
    args = [*vars(found)[_KEPT], *unknown]
    if args:
        values["upstream.args"] = args
    if runner:
        values["upstream.command"] = runner
        remarks.append("upstream.command runs the server as before; without it, the one installed here runs")
    if unknown:
        remarks.append(f"unknown to mlx_lm.server 0.32.2, kept in upstream.args: {shlex.join(unknown)}")
    if "model.path" not in values:
        remarks.append("the command names no model: set model.path, or the embedded one is served")
    if values.get("server.allowed_origins") == ["*"]:
        del values["server.allowed_origins"]
        remarks.append("--allowed-origins * is not kept: list the web pages in server.allowed_origins")
    return ServerCommand(values, tuple(remarks))


def _of_shell(command: str) -> tuple[list[str], list[str]]:
    """The words of the command itself, and remarks on what the shell would do around it."""
    try:
        words = shlex.split(command.replace("\\\n", " "))
    except ValueError as error:
        raise NotAServerCommand(f"the command cannot be read: {error}") from error
    end = next((index for index, word in enumerate(words) if _SHELL.fullmatch(word)), len(words))
    remarks = [f"not kept, it is for the shell: {' '.join(words[end:])}"] if end < len(words) else []
    command_at = next((index for index, word in enumerate(words) if not _VARIABLE.fullmatch(word)), end)
    variables = [word.partition("=")[0] for word in words[:command_at] if "=" in word]
    if variables:
        remarks.append(f"set {', '.join(variables)} where mlxguard-proxy is started; the server inherits it")
    return words[command_at:end], remarks


def _at_server(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What runs the server, empty if that is PATH's own, and the flags it is given."""
    for index, word in enumerate(words):
        name, following = PurePath(word).name, words[index + 1 : index + 2]
        length = 1 if name == "mlx_lm.server" else 2 if name == "mlx_lm" and following == ["server"] else 0
        if length:
            runner, flags = words[: index + length], words[index + length :]
            plain = name == word and all(map(_PLAIN.fullmatch, words[:index]))
            return [] if plain else list(runner), list(flags)
    raise NotAServerCommand("the command does not run mlx_lm.server")


class _Keep(argparse.Action):
    """Puts the option and its value, as the server knows them, on the list of what is handed on."""

    def __call__(self, parser: object, namespace: object, values: Any, option: str | None = None) -> None:
        flag = self.option_strings[0]
        kept = [*getattr(namespace, _KEPT), flag, *([values] if isinstance(values, str) else [])]
        setattr(namespace, _KEPT, kept)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NotAServerCommand(f"mlx_lm.server would refuse it: {message}")


def _parser() -> _Parser:
    """The server's own command line, with settings for destinations; absent flags leave nothing."""
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.set_defaults(**{_KEPT: []})
    for flag, setting in OWNED_FLAGS.items():
        how: dict[str, Any] = _READ_AS.get(flag, {"type": int})
        parser.add_argument(flag, dest=setting, **how)
    for flag in _HANDED_ON:
        parser.add_argument(flag, action=_Keep)
    for flag in _HANDED_ON_SWITCHES:
        parser.add_argument(flag, action=_Keep, nargs=0)
    return parser
