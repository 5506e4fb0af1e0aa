"""Translates an existing mlx_lm.server command into settings of proxy.toml.

The flags are those of mlx-lm 0.32.2 (its server.py, `main`). Any other flag is passed on to the server.
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, NoReturn

#: Flags of the server that a setting decides; they are not allowed in [upstream] args.
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

#: The server's other flags, which are passed on. They are listed because argparse accepts abbreviations.
_PASSED_ON = (
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
_PASSED_ON_SWITCHES = ("--use-default-chat-template", "--pipeline")

#: How flags whose values are not whole numbers are parsed.
_ARGUMENTS: Mapping[str, dict[str, Any]] = {
    "--model": {},
    "--host": {},
    "--allowed-origins": {"type": lambda text: text.split(",")},
    "--trust-remote-code": {"action": "store_true"},
    "--log-level": {"type": lambda text: {"CRITICAL": "error"}.get(text, text.lower())},
    "--prompt-cache-bytes": {},
}

#: Attribute of the parsed command with the flags that are passed on.
_PASSED = "passed"

#: Words that end a command in a shell.
_SHELL = re.compile(r"[&|;]+|[0-9]*[<>].*")
#: Words in front of a command that set environment variables.
_VARIABLE = re.compile(r"(env|[A-Za-z_][A-Za-z0-9_]*=.*)", re.DOTALL)

#: Words before the server's name that only mean "run what is on PATH".
_PLAIN = re.compile(r"exec|nohup|python[0-9.]*|-m")


class NotAServerCommand(ValueError):
    """The text does not run mlx_lm.server, or the server itself would refuse it."""


@dataclass(frozen=True, slots=True)
class ServerCommand:
    """A command as settings: `server.port` -> value.

    `remarks`: what the user should know about the translation, one sentence each.
    """

    values: Mapping[str, object]
    remarks: tuple[str, ...]


def setting_of_flag(word: str) -> str | None:
    """The setting that decides the flag in `word`, which may be abbreviated or have `=value`; else None."""
    name = word.partition("=")[0]
    if not name.startswith("--") or name == "--":
        return None
    if name in OWNED_FLAGS:
        return OWNED_FLAGS[name]
    every = (*OWNED_FLAGS, *_PASSED_ON, *_PASSED_ON_SWITCHES)
    meant = [flag for flag in every if flag.startswith(name)]
    return OWNED_FLAGS.get(meant[0]) if len(meant) == 1 else None


def read(command: str) -> ServerCommand:
    """The settings that make the proxy do what the command does, at the same address.

    Raises NotAServerCommand with the reason.
    """
    words, remarks = _of_shell(command)
    runner, flags = _at_server(words)
    found, unknown = _parser().parse_known_args(flags)
    values = {name: value for name, value in vars(found).items() if name != _PASSED}
    args = [*vars(found)[_PASSED], *unknown]
    if args:
        values["upstream.args"] = args
    if runner:
        values["upstream.command"] = runner
        remarks.append("upstream.command runs the server as before; without it, the one installed here runs")
    if unknown:
        remarks.append(f"unknown to mlx_lm.server 0.32.2, kept in upstream.args: {shlex.join(unknown)}")
    if "model.path" not in values:
        remarks.append("the command names no model: set model.path, or the embedded model is served")
    if values.get("server.allowed_origins") == ["*"]:
        del values["server.allowed_origins"]
        remarks.append("--allowed-origins * is not kept: list the web pages in server.allowed_origins")
    return ServerCommand(values, tuple(remarks))


def _of_shell(command: str) -> tuple[list[str], list[str]]:
    """The words of the command itself, and remarks on the parts that the shell would interpret."""
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
    """The command that runs the server (empty if it is the one on PATH), and its flags."""
    for index, word in enumerate(words):
        name, following = PurePath(word).name, words[index + 1 : index + 2]
        length = 1 if name == "mlx_lm.server" else 2 if name == "mlx_lm" and following == ["server"] else 0
        if length:
            runner, flags = words[: index + length], words[index + length :]
            plain = name == word and all(map(_PLAIN.fullmatch, words[:index]))
            return [] if plain else list(runner), list(flags)
    raise NotAServerCommand("the command does not run mlx_lm.server")


class _PassOn(argparse.Action):
    """Adds the option, unabbreviated, and its value to the flags that are passed on."""

    def __call__(self, parser: object, namespace: object, values: Any, option: str | None = None) -> None:
        flag = self.option_strings[0]
        passed = [*getattr(namespace, _PASSED), flag, *([values] if isinstance(values, str) else [])]
        setattr(namespace, _PASSED, passed)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise NotAServerCommand(f"mlx_lm.server would refuse it: {message}")


def _parser() -> _Parser:
    """The server's command line with settings as destinations; absent flags leave no attribute."""
    parser = _Parser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.set_defaults(**{_PASSED: []})
    for flag, setting in OWNED_FLAGS.items():
        how: dict[str, Any] = _ARGUMENTS.get(flag, {"type": int})
        parser.add_argument(flag, dest=setting, **how)
    for flag in _PASSED_ON:
        parser.add_argument(flag, action=_PassOn)
    for flag in _PASSED_ON_SWITCHES:
        parser.add_argument(flag, action=_PassOn, nargs=0)
    return parser
