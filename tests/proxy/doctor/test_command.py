"""The order of the checks; what they find on a real machine is in tests/real/test_doctor.py."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest

from proxy.cli import main
from proxy.doctor import command
from proxy.doctor.check_result import CheckResult, ok
from proxy.exit_codes import ExitCode
from supervisor.state.folder import StateFolder


@pytest.fixture(autouse=True)
def _nothing_is_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No trial of the machine and no server, and folders of its own."""

    async def served() -> Sequence[CheckResult]:
        return (ok("server", "it serves"),)

    monkeypatch.setattr(command, "_served", served)
    monkeypatch.setattr(command, "_machine_checks", lambda _: [])
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)


def examine(capsys: pytest.CaptureFixture[str], *words: str, code: ExitCode = ExitCode.OK) -> dict[str, str]:
    """Verdict by check."""
    assert main(["doctor", "--json", *words]) == code
    found = orjson.loads(capsys.readouterr().out)
    assert found["works"] == (code is ExitCode.OK)
    return {each["check"]: each["verdict"] for each in found["checks"]}


def test_a_bad_configuration_keeps_the_machine_from_being_looked_at_no_more(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert examine(capsys, "--port", "x", code=ExitCode.UNFIT) == {"configuration": "failed", "server": "ok"}


def test_a_model_that_is_not_here_is_no_failure_where_it_can_be_downloaded(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ("--port", "0", "--model")
    assert examine(capsys, *words, "org/none")["model"] == "warning"
    assert examine(capsys, *words, "./a/b/none", code=ExitCode.UNFIT)["model"] == "failed"


def test_a_state_folder_in_use_and_a_port_that_is_taken(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    records = StateFolder(tmp_path / "state" / "mlxguard-proxy")
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        port = str(stranger.getsockname()[1])
        words = ("--model", "org/none", "--port", port)
        assert examine(capsys, *words, code=ExitCode.UNFIT)["port"] == "failed"
        records.open(int(port))
        try:
            found = examine(
                capsys, *words
            )  # who holds the port is the proxy that has the folder: this process
        finally:
            records.close()
    assert (found["state folder"], found["port"]) == ("warning", "warning")


def test_a_state_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """As on a disk that became read-only; one that is no good from the start is a fault of the settings."""
    (tmp_path / "file").touch()
    assert command._state(tmp_path / "file" / "state").fault == "Not a directory"


def test_a_check_that_breaks_is_a_failure_and_the_others_are_made(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> Sequence[CheckResult]:
        raise AttributeError("proc_pid_rusage")

    monkeypatch.setattr(command, "_machine_checks", lambda _: [("memory of a child", broken)])
    assert main(["doctor", "--model", "org/none", "--port", "0"]) == ExitCode.UNFIT
    out = capsys.readouterr().out
    assert "failed   memory of a child AttributeError: proc_pid_rusage\n" in out
    assert "ok       port" in out
    assert out.endswith("4 ok, 1 warning, 1 failed\n")
