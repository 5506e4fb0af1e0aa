"""The command line of mlxguard-proxy: serve, check, doctor, plan, clients, crashes, limits, init, tiny-model.

Each command imports what it needs when it runs, so that --help and the first response of `serve` are quick.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.commands import installation
from proxy.exit_codes import ExitCode

if TYPE_CHECKING:
    from proxy.config.loader import Loaded

_NAME = "mlxguard-proxy"
_EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:<4} {code.meaning}" for code in ExitCode)

#: Options that are short for `--set` of one setting.
_SHORTCUTS = {"--model": "model.path", "--host": "server.host", "--port": "server.port"}


class _CommandFailed(Exception):
    """Ends a command: `lines` go to standard error."""

    def __init__(self, *lines: str, code: ExitCode = ExitCode.CONFIGURATION) -> None:
        super().__init__(*lines)
        self.lines, self.code = lines, code


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its `ExitCode`. `argv`: without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words.insert(0, "serve")
    try:
        if faults := list(installation.problems()):
            raise _CommandFailed(*faults, code=ExitCode.INSTALLATION)
        if words[0] == "tiny-model":
            return _tiny_model(words[1:])
        arguments = _parser().parse_args(words)
        return int(arguments.run(arguments))
    except _CommandFailed as failure:
        for line in failure.lines:
            print(line, file=sys.stderr)
        return failure.code
    except KeyboardInterrupt:  # while `serve` has no signal handlers of its own
        return ExitCode.INTERRUPTED


def _serve(arguments: argparse.Namespace) -> int:
    from proxy.config.api_keys import known_keys
    from proxy.log import setup

    loaded = _load(arguments)
    settings = loaded.settings
    try:
        setup.setup(settings.log, keys=known_keys(settings.server))
    except OSError as error:
        raise _CommandFailed(f"log.file: {settings.log.file}: {error.strerror}") from error
    log = logging.getLogger("mlxguard.cli")
    try:
        from proxy.startup import serve

        return serve(settings, loaded.source)
    except Exception:  # the outermost frame: a bug is one event, with its keys masked
        log.exception("internal_error")
        return ExitCode.INTERNAL


def _check(arguments: argparse.Namespace) -> int:
    from proxy.commands.check import summary

    print(summary(_load(arguments)))
    return ExitCode.OK


def _doctor(arguments: argparse.Namespace) -> int:
    from proxy.doctor.command import run

    return run(arguments.config, arguments.set, as_json=arguments.json)


def _plan(arguments: argparse.Namespace) -> int:
    from proxy.commands.plan import run

    return run(_load(arguments).settings, as_json=arguments.json)


def _clients(arguments: argparse.Namespace) -> int:
    from proxy.commands.clients import run

    settings = _load(arguments).settings
    return run(settings, arguments.name, write=arguments.write, launch=arguments.launch)


def _limits(arguments: argparse.Namespace) -> int:
    from proxy.commands.limits import run

    settings = _load(arguments).settings
    return run(settings, reset=arguments.reset is not None, as_json=arguments.json)


def _crashes(arguments: argparse.Namespace) -> int:
    import json

    from proxy.commands import crashes
    from proxy.config.folders import state_folder
    from supervisor.state.folder import crash_reports

    reports = crash_reports(state_folder(_load(arguments).settings.supervisor.state_dir))
    if arguments.id is None:
        print(json.dumps(reports, indent=1) if arguments.json else crashes.listing(reports))
        return ExitCode.OK
    report = crashes.choose(reports, arguments.id)
    if report is None:
        raise _CommandFailed(f"no crash, or more than one, has {arguments.id!r} in its id")
    print(json.dumps(report, indent=1) if arguments.json else crashes.explanation(report))
    return ExitCode.OK


def _init(arguments: argparse.Namespace) -> int:
    from proxy.config import server_command
    from proxy.config.template import render

    if not arguments.command:
        return _write(arguments.out, render({"model.path": "tiny"}), (), overwrite=arguments.force)
    try:
        found = server_command.read(arguments.command)
    except server_command.NotAServerCommand as error:
        raise _CommandFailed(str(error)) from error
    return _write(arguments.out, render(found.values), found.remarks, overwrite=arguments.force)


def _write(out: Path, text: str, remarks: Iterable[str], *, overwrite: bool) -> int:
    from proxy.config.loader import ConfigurationError, load

    try:
        with out.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise _CommandFailed(f"{out} exists; --force overwrites it") from None
    except OSError as error:
        raise _CommandFailed(f"{out}: {error.strerror}") from error
    print(f"wrote {out}")
    for remark in remarks:
        print(f"note: {remark}", file=sys.stderr)
    try:
        load(out, {}, ())
    except ConfigurationError as error:
        for fault in error.faults:
            print(f"to do: {fault}", file=sys.stderr)
    return ExitCode.OK


def _tiny_model(words: Sequence[str]) -> int:
    """Run in a process of its own, since it imports mlx; -P hides any `supervisor` in the current folder."""
    return subprocess.call([sys.executable, "-P", "-m", "supervisor.model.tiny", *words])


def _load(arguments: argparse.Namespace) -> Loaded:
    """Load the settings; all faults together end the command."""
    from proxy.config.loader import ConfigurationError, load

    try:
        return load(arguments.config, os.environ, arguments.set)
    except ConfigurationError as error:
        count = len(error.faults)
        summary = f"{count} fault{'s' if count > 1 else ''}; nothing was started"
        raise _CommandFailed(*map(str, error.faults), summary) from error


class _Version(argparse.Action):
    """--version; reads the package's metadata only when asked."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(_NAME, version(_NAME))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_NAME,
        usage="%(prog)s [COMMAND] [--config FILE] [--set TABLE.KEY=VALUE] [--model | --host | --port VALUE]",
        description="Keeps an unmodified mlx_lm.server alive and answering. Without a command: serve.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", title="commands")

    def add(
        name: str, run: Callable[[argparse.Namespace], int], about: str, json: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=about)
        command.set_defaults(run=run)
        if json:
            command.add_argument("--json", action="store_true", help=json)
        if run is not _init:
            _add_settings(command)
        return command

    add("serve", _serve, "serve until a signal stops it (the default)")
    add("check", _check, "print every fault of the configuration, or what would run")
    add("doctor", _doctor, "test whether everything works on this machine", "print JSON")
    add("plan", _plan, "print what fits on this machine, and the server flags that follow", "print JSON")
    clients = add("clients", _clients, "print, write or launch with the configuration for an agent or client")
    clients.add_argument("name", nargs="?", metavar="NAME", help="without it: the list")
    clients.add_argument(
        "--write", action="store_true", help="merge it into the client's own files; keeps a backup"
    )
    clients.add_argument(
        "--launch", nargs=argparse.REMAINDER, metavar="WORD", help="start it; all that follows is for it"
    )
    crashes = add("crashes", _crashes, "list the server's crashes, or explain one", "print the reports")
    crashes.add_argument("id", nargs="?", metavar="ID", help='a part of the id, or "last"')
    limits = add("limits", _limits, "print or forget what crashes taught about memory", "print JSON")
    limits.add_argument("reset", nargs="?", choices=["reset"], help="forget them")
    init = add("init", _init, "write a proxy.toml, also from an mlx_lm.server command")
    init.add_argument("--from", dest="command", metavar="COMMAND", help="an mlx_lm.server command, in quotes")
    init.add_argument("--out", type=Path, default=Path("proxy.toml"), metavar="FILE")
    init.add_argument("--force", action="store_true", help="overwrite the file")
    commands.add_parser("tiny-model", help="make a small model of random weights (see its own --help)")
    return parser


def _add_settings(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: ./proxy.toml if it exists")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="TABLE.KEY=VALUE",
        help="set one key, as server.port=9000; may be repeated",
    )
    for option, setting in _SHORTCUTS.items():
        parser.add_argument(
            option,
            action="append",
            dest="set",
            type=f"{setting}={{}}".format,
            metavar="VALUE",
            help=f"short for --set {setting}=VALUE",
        )
