"""What is executed: with telemetry, without, and with a command of the user's own."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from supervisor.child import server_wrapper
from supervisor.child.command import command_line, environment, free_port, has_telemetry, server_command
from supervisor.child.options import LaunchSpec

ARGV = ("--model", "/models/m", "--temp", "0.7")
WHERE = ("--host", "127.0.0.1", "--port", "4711")
CLOSED = ("--allowed-origins", "none.invalid")


def test_with_telemetry_the_wrapper_is_run() -> None:
    launch = LaunchSpec(ARGV, {})
    assert has_telemetry(launch)
    assert command_line(launch, 4711, 9) == (
        sys.executable,
        server_wrapper.__file__,
        "9",
        "-",
        *ARGV,
        *WHERE,
        *CLOSED,
    )
    limited = LaunchSpec(ARGV, {}, mlx_cache_limit=1 << 30)
    assert command_line(limited, 4711, 9)[2:4] == ("9", "1073741824")


def test_without_telemetry_the_servers_own_command_is_run() -> None:
    launch = LaunchSpec(ARGV, {}, telemetry=False)
    assert command_line(launch, 4711, 9) == (*server_command(), *ARGV, *WHERE, *CLOSED)
    assert Path(server_command()[0]).name == "mlx_lm.server"


def test_an_interpreter_without_the_command_runs_the_module(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    assert server_command() == (str(python), "-m", "mlx_lm", "server")


def test_a_command_of_the_users_own_is_run_as_it_is() -> None:
    launch = LaunchSpec(ARGV, {}, command=("mlx.launch", "-n", "2", "mlx_lm.server"))
    assert not has_telemetry(launch)
    assert command_line(launch, 4711, 9) == (*launch.command, *ARGV, *WHERE)


def test_origins_that_the_user_has_chosen_stay() -> None:
    chosen = LaunchSpec((*ARGV, "--allowed-origins", "http://a"), {})
    assert command_line(chosen, 4711, 9)[4:] == (*chosen.argv, *WHERE)


def test_settings_of_the_proxy_and_secrets_do_not_reach_the_child() -> None:
    base = {"PATH": "/bin", "MLXGUARD_SERVER__API_KEYS": "secret", "HF_TOKEN": "secret"}
    own = LaunchSpec((), {}, command=("server",))
    assert environment(own, base) == {"PATH": "/bin", "HF_TOKEN": "secret", "PYTHONUNBUFFERED": "1"}
    assert environment(LaunchSpec(ARGV, {"HF_HUB_OFFLINE": "1"}), base) == {
        "PATH": "/bin",
        "PYTHONUNBUFFERED": "1",
        "HF_HUB_OFFLINE": "1",
    }


def test_the_port_is_free() -> None:
    with socket.create_server(("127.0.0.1", free_port())):
        pass
