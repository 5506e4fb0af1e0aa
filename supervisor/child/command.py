"""The command line, environment and port of a child process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from supervisor.child.options import LaunchSpec
from supervisor.environment import without_secrets, without_settings

_WRAPPER = Path(__file__).with_name("server_wrapper.py")

HOST = "127.0.0.1"

#: The server's flag for the web pages that may read its answers: all of them by default. No browser sends
#: this value, as an origin has a scheme.
_ORIGINS, _NO_ORIGIN = "--allowed-origins", "none.invalid"


def free_port() -> int:
    """Find a free loopback port. If another program takes it first, the server will report that."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def has_telemetry(launch: LaunchSpec) -> bool:
    """Whether the child reports telemetry: only `server_wrapper.py` does, never a command of the user."""
    return launch.telemetry and not launch.command


def command_line(launch: LaunchSpec, port: int, telemetry_fd: int) -> tuple[str, ...]:
    """The command and arguments to execute."""
    flags = (*launch.argv, "--host", HOST, "--port", str(port))
    if not launch.command and _ORIGINS not in launch.argv:
        flags = (*flags, _ORIGINS, _NO_ORIGIN)
    if not has_telemetry(launch):
        return (*(launch.command or server_command()), *flags)
    limit = "-" if launch.mlx_cache_limit is None else str(launch.mlx_cache_limit)
    return (sys.executable, str(_WRAPPER), str(telemetry_fd), limit, *flags)


def server_command() -> tuple[str, ...]:
    """The server's own command in this interpreter's environment."""
    script = Path(sys.executable).with_name("mlx_lm.server")
    return (str(script),) if script.exists() else (sys.executable, "-m", "mlx_lm", "server")


def environment(launch: LaunchSpec, base: Mapping[str, str] = os.environ) -> dict[str, str]:
    """This environment without our settings, unbuffered, plus the configured one.

    The installed server gets no secrets either; a command of the user's own may need them.
    """
    inherited = without_settings(base) if launch.command else without_secrets(base)
    return {**inherited, "PYTHONUNBUFFERED": "1", **launch.env}
