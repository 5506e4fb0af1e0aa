"""The command line: which command runs with what, what it prints, how it ends."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.cli import main
from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A folder of its own, none of the caller's variables, and the process's logging as it was."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("MLXGUARD_")]:
        monkeypatch.delenv(name)
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.raiseExceptions
    yield
    root.handlers[:], root.level, logging.raiseExceptions = before
    logging.captureWarnings(False)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Settings, str]]:
    """What `serve` was called with; it returns 3 at once."""
    calls: list[tuple[Settings, str]] = []

    def serve(settings: Settings, source: str) -> int:
        logging.getLogger("mlxguard.app").info("starting")
        calls.append((settings, source))
        return 3

    monkeypatch.setattr("proxy.startup.serve", serve)
    return calls


# --- serve


@pytest.mark.parametrize(
    "words", [["--port", "9000"], ["serve", "--port", "9000"], ["--set", "server.port=9000"]]
)
def test_serve_is_what_runs_without_a_command(served: list[tuple[Settings, str]], words: list[str]) -> None:
    assert main(words) == 3
    ((settings, source),) = served
    assert settings.server.port == 9000
    assert source == "no proxy.toml here: defaults"


def test_serve_reads_the_file_of_this_folder(
    served: list[tuple[Settings, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("proxy.toml").write_text("[model]\npath = 'org/m'")
    monkeypatch.setenv("MLXGUARD_QUEUE__MAX_WAITING", "7")
    assert main([]) == 3
    ((settings, source),) = served
    assert (settings.model.path, settings.queue.max_waiting) == ("org/m", 7)
    assert source == str(tmp_path / "proxy.toml")


def test_shortcuts(served: list[tuple[Settings, str]]) -> None:
    assert main(["--model", "8", "--host", "localhost", "--port", "1", "--set", "server.port=2"]) == 3
    ((settings, _),) = served
    assert (settings.model.path, settings.server.host, settings.server.port) == ("8", "localhost", 2)


def test_serve_logs_as_configured(
    served: list[tuple[Settings, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--set", "log.format=json"]) == 3
    assert json.loads(capsys.readouterr().err)["event"] == "starting"


def test_a_bug_ends_in_the_log(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object) -> int:
        raise RuntimeError("key sk-canary-4711")

    monkeypatch.setattr("proxy.startup.serve", fail)
    words = ["--set", "log.format=json", "--set", "server.api_keys=sk-canary-4711"]
    assert main(words) == ExitCode.INTERNAL
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["traceback"].endswith("RuntimeError: key [key]")
    assert "4711" not in line


def test_interrupted_while_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("proxy.startup.serve", interrupt)
    assert main([]) == ExitCode.INTERRUPTED


@pytest.mark.parametrize("command", ["serve", "check"])
def test_faults_are_all_printed_and_nothing_starts(
    served: list[tuple[Settings, str]], capsys: pytest.CaptureFixture[str], command: str
) -> None:
    Path("proxy.toml").write_text("[server]\nprot = 1\nhost = 1\n")
    assert main([command, "--port", "x"]) == ExitCode.CONFIGURATION
    out, err = capsys.readouterr()
    assert not out
    assert err.splitlines() == [
        "proxy.toml:2: there is no key prot in [server]; did you mean port?",
        "proxy.toml:3: host must be text in quotes, not 1",
        '--set server.port: port must be a whole number, not "x"',
        "3 faults; nothing was started",
    ]
    assert not served


def test_a_file_that_was_asked_for_must_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", "other.toml"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err.splitlines() == [
        "other.toml: No such file or directory",
        "1 fault; nothing was started",
    ]


def test_a_log_file_that_cannot_be_opened(
    served: list[tuple[Settings, str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("proxy.log.setup.setup", refuse)
    assert main(["--set", "log.file=x.log"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == "log.file: x.log: Permission denied\n"
    assert not served


# --- check


def test_check_says_what_will_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--port", "9000"]) == ExitCode.OK
    out, err = capsys.readouterr()
    assert "http://127.0.0.1:9000, this machine only" in out
    assert "server.port  --set server.port" in out
    assert not err


# --- init


def test_init_writes_a_file_that_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init"]) == ExitCode.OK
    assert capsys.readouterr() == ("wrote proxy.toml\n", "")
    assert main(["check"]) == ExitCode.OK


def test_init_does_not_overwrite_unless_told(capsys: pytest.CaptureFixture[str]) -> None:
    Path("proxy.toml").write_text("mine")
    assert main(["init"]) == ExitCode.CONFIGURATION
    assert capsys.readouterr().err == "proxy.toml exists; --force overwrites it\n"
    assert Path("proxy.toml").read_text() == "mine"
    assert main(["init", "--force"]) == ExitCode.OK
    assert tomllib.loads(Path("proxy.toml").read_text())["model"] == {"path": "tiny"}


def test_init_from_a_command_keeps_its_address_and_tells_what_is_to_do(
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = "A=1 python -m mlx_lm.server --model org/m --host 0.0.0.0 --port 9000 --temp 0.7"
    assert main(["init", "--from", command, "--out", "new.toml"]) == ExitCode.OK
    document = {name: table for name, table in tomllib.loads(Path("new.toml").read_text()).items() if table}
    assert document == {
        "server": {"host": "0.0.0.0", "port": 9000},
        "model": {"path": "org/m"},
        "upstream": {"args": ["--temp", "0.7"]},
    }
    note, to_do = capsys.readouterr().err.splitlines()
    assert note == "note: set A where mlxguard-proxy is started; the server inherits it"
    assert to_do.startswith("to do: new.toml:9: 0.0.0.0 can be reached from other machines")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--from", "ollama serve"], "the command does not run mlx_lm.server\n"),
        (["--out", "none/proxy.toml"], "none/proxy.toml: No such file or directory\n"),
    ],
)
def test_init_that_fails_writes_nothing(
    capsys: pytest.CaptureFixture[str], words: list[str], reason: str
) -> None:
    assert main(["init", *words]) == ExitCode.CONFIGURATION
    assert capsys.readouterr() == ("", reason)
    assert not list(Path().iterdir())


# --- the rest


def test_help_lists_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(code.meaning in out for code in ExitCode)
    assert all(f"    {name}" in out for name in ("serve", "check", "init", "tiny-model"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("mlxguard-proxy 0.")


@pytest.mark.parametrize("words", [["strat"], ["check", "--no-such"], ["init", "extra"]])
def test_bad_usage(capsys: pytest.CaptureFixture[str], words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == ExitCode.CONFIGURATION
    assert "usage: mlxguard-proxy" in capsys.readouterr().err


def test_tiny_model_runs_in_a_process_of_its_own(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["tiny-model", "--out", str(tmp_path), "--architecture", "none"]) == ExitCode.CONFIGURATION
    assert "usage: mlxguard-proxy tiny-model" in capfd.readouterr().err


def test_help_and_check_import_nothing_heavy() -> None:
    """They answer in a moment: neither aiohttp nor anything of the supervisor is loaded."""
    code = (
        "import sys\nfrom proxy.cli import main\nmain(['check'])\n"
        "print(sorted({'aiohttp', 'asyncio', 'mlx', 'transformers', 'supervisor'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
