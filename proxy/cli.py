"""mlxguard-proxy, the command: serve, check, doctor, plan, crashes, limits, init, tiny-model.

What a command needs is imported when it runs: --help and the first answer of `serve` wait for nothing else.
"""

from __future__ import annotations

import argparse
import logging
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from proxy.commands import installation
from proxy.exit_codes import ExitCode

if TYPE_CHECKING:
    from proxy.config.loader import Loaded

_NAME = "mlxguard-proxy"
_EPILOG = "exit codes:\n" + "\n".join(f"  {code.value:<4} {code.meaning}" for code in ExitCode)

#: Options that are short for a `--set` of this setting.
_SHORTCUTS = {"--model": "model.path", "--host": "server.host", "--port": "server.port"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code, as `ExitCode` lists them. `argv` is without the program's name."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in {"-h", "--help", "--version"}):
        words.insert(0, "serve")
    broken = list(installation.problems())
    if broken:
        return _fail(broken, ExitCode.INSTALLATION)
    if words[0] == "tiny-model":
        return _tiny_model(words[1:])
    arguments = _parser().parse_args(words)
    try:
        return int(arguments.run(arguments))
    except KeyboardInterrupt:  # before or after the time in which `serve` has its own handlers
        return ExitCode.INTERRUPTED


def _serve(arguments: argparse.Namespace) -> int:
    from proxy.config.api_keys import known_keys
    from proxy.log import setup as logs

    loaded = _load(arguments)
    if loaded is None:
        return ExitCode.CONFIGURATION
    settings = loaded.settings
    try:
        logs.setup(settings.log, keys=known_keys(settings.server))
    except OSError as error:
        return _fail([f"log.file: {settings.log.file}: {error.strerror}"], ExitCode.CONFIGURATION)
    log = logging.getLogger("mlxguard.cli")
    try:
        from proxy.startup import serve

        return serve(settings, loaded.source)
    except Exception:  # the outermost frame: a bug is one event, with its keys masked
        log.exception("internal_error")
        return ExitCode.INTERNAL


def _check(arguments: argparse.Namespace) -> int:
    from proxy.commands.check import summary

    loaded = _load(arguments)
    if loaded is None:
        return ExitCode.CONFIGURATION
    print(summary(loaded))
    return ExitCode.OK


def _doctor(arguments: argparse.Namespace) -> int:
    from proxy.doctor.command import run

    return run(arguments.config, arguments.set, as_json=arguments.json)


def _plan(arguments: argparse.Namespace) -> int:
    from proxy.commands.plan import run

    loaded = _load(arguments)
    return ExitCode.CONFIGURATION if loaded is None else run(loaded.settings, as_json=arguments.json)


def _limits(arguments: argparse.Namespace) -> int:
    from proxy.commands.limits import run

    loaded = _load(arguments)
    if loaded is None:
        return ExitCode.CONFIGURATION
    return run(loaded.settings, reset=arguments.reset is not None, as_json=arguments.json)


def _crashes(arguments: argparse.Namespace) -> int:
    import json

    from proxy.commands import crashes
    from proxy.config.folders import state_folder
    from supervisor.state.folder import crash_reports

    loaded = _load(arguments)
    if loaded is None:
        return ExitCode.CONFIGURATION
    reports = crash_reports(state_folder(loaded.settings.supervisor.state_dir))
    if arguments.id is None:
        print(json.dumps(reports, indent=1) if arguments.json else crashes.listing(reports))
        return ExitCode.OK
    report = crashes.choose(reports, arguments.id)
    if report is None:
        return _fail([f"no one crash has {arguments.id!r} in its id"], ExitCode.CONFIGURATION)
    print(json.dumps(report, indent=1) if arguments.json else crashes.explanation(report))
    return ExitCode.OK


def _init(arguments: argparse.Namespace) -> int:
    from proxy.config import server_command
    from proxy.config.template import render

    if not arguments.command:
        return _write(arguments.out, render({"model.path": "tiny"}), (), overwrite=arguments.force)
    try:
        today = server_command.read(arguments.command)
    except server_command.NotAServerCommand as error:
        return _fail([str(error)], ExitCode.CONFIGURATION)
    return _write(arguments.out, render(today.values), today.remarks, overwrite=arguments.force)


def _write(out: Path, text: str, remarks: Iterable[str], *, overwrite: bool) -> int:
    from proxy.config.loader import ConfigurationError, load

    try:
        with out.open("w" if overwrite else "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        return _fail([f"{out} exists; --force overwrites it"], ExitCode.CONFIGURATION)
    except OSError as error:
        return _fail([f"{out}: {error.strerror}"], ExitCode.CONFIGURATION)
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
    """In a process of its own, since it imports mlx; -P, so that no `supervisor` of this folder is taken."""
    return subprocess.call([sys.executable, "-P", "-m", "supervisor.model.tiny", *words])


def _load(arguments: argparse.Namespace) -> Loaded | None:
    """The settings, or None after every fault has been printed."""
    from proxy.config.loader import ConfigurationError, load

    try:
        return load(arguments.config, os.environ, arguments.set)
    except ConfigurationError as error:
        count = len(error.faults)
        _fail(
            [*map(str, error.faults), f"{count} fault{'s' if count > 1 else ''}; nothing was started"],
            ExitCode.CONFIGURATION,
        )
        return None


def _fail(messages: Iterable[str], code: ExitCode) -> int:
    for message in messages:
        print(message, file=sys.stderr)
    return code


class _Version(argparse.Action):
    """--version; the metadata is read when it is asked for."""

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
    serve = commands.add_parser("serve", help="serve until told to stop (the default)")
    check = commands.add_parser("check", help="tell every fault of the configuration, or what will run")
    for command, run in ((serve, _serve), (check, _check)):
        command.set_defaults(run=run)
        _add_settings(command)
    doctor = commands.add_parser("doctor", help="prove that everything works on this machine")
    doctor.set_defaults(run=_doctor)
    doctor.add_argument("--json", action="store_true", help="for programs")
    _add_settings(doctor)
    plan = commands.add_parser("plan", help="tell what fits on this machine, and the flags that follow")
    plan.set_defaults(run=_plan)
    plan.add_argument("--json", action="store_true", help="for programs: bytes and tokens")
    _add_settings(plan)
    crashes = commands.add_parser("crashes", help="list the crashes of the server, or explain one")
    crashes.set_defaults(run=_crashes)
    crashes.add_argument("id", nargs="?", metavar="ID", help='or a part of it, or "last"')
    crashes.add_argument("--json", action="store_true", help="the reports as they are kept")
    _add_settings(crashes)
    limits = commands.add_parser("limits", help="tell what crashes have taught of memory, or forget it")
    limits.set_defaults(run=_limits)
    limits.add_argument("reset", nargs="?", choices=["reset"], help="forget it")
    limits.add_argument("--json", action="store_true", help="as it is kept")
    _add_settings(limits)
    init = commands.add_parser("init", help="write a proxy.toml, also from an mlx_lm.server command")
    init.set_defaults(run=_init)
    _add_init(init)
    commands.add_parser("tiny-model", help="make a small random-weights model (--help tells its options)")
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


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--from", dest="command", metavar="COMMAND", help="the mlx_lm.server command of today, in quotes"
    )
    parser.add_argument("--out", type=Path, default=Path("proxy.toml"), metavar="FILE")
    parser.add_argument("--force", action="store_true", help="overwrite the file")
