"""The start of the process: its limit on files, and why it cannot have its port."""

from __future__ import annotations

import logging
import os
import resource
import socket

import pytest

from proxy import startup
from proxy.config.settings import ServerSettings, Settings
from proxy.exit_codes import ExitCode


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((256, 100_000), (4096, 100_000)),
        ((256, 1024), (1024, 1024)),
        ((256, resource.RLIM_INFINITY), (4096, resource.RLIM_INFINITY)),
        ((8192, 100_000), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_the_limit_on_files_is_raised_but_never_lowered(
    monkeypatch: pytest.MonkeyPatch, before: tuple[int, int], after: tuple[int, int] | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: before)
    monkeypatch.setattr(resource, "setrlimit", lambda _, limit: limits.append(limit))
    startup.raise_file_limit()
    assert limits == ([after] if after else [])


@pytest.fixture
def _limits_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(startup, "raise_file_limit", lambda: None)


@pytest.mark.usefixtures("_limits_as_they_are")
def test_a_port_in_use_has_its_own_exit_code_and_names_its_holder(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, caplog.at_level(logging.ERROR, "mlxguard"):
        settings = Settings(server=ServerSettings(port=taken.getsockname()[1]))
        assert startup.serve(settings, "a test") == ExitCode.PORT_IN_USE
    (record,) = caplog.records
    assert record.getMessage() == "cannot_listen"
    assert f"pid {os.getpid()}" in vars(record)["reason"]


@pytest.mark.usefixtures("_limits_as_they_are")
def test_an_address_of_another_machine_is_a_fault_of_the_configuration(
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(server=ServerSettings(host="192.0.2.1", port=0))
    with caplog.at_level(logging.ERROR, "mlxguard"):
        assert startup.serve(settings, "a test") == ExitCode.CONFIGURATION
    assert "192.0.2.1" in vars(caplog.records[0])["reason"]
