"""The start of the process: its limit on files, and why it cannot have its port."""

from __future__ import annotations

import asyncio
import errno
import inspect
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


def test_a_flood_of_failed_accepts_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    now = 0.0
    handler = startup.LoopErrors(lambda: now + 100.0)
    loop = asyncio.new_event_loop()
    context = {
        "message": "socket.accept() out of system resource",
        "exception": OSError(errno.EMFILE, "Too many open files"),
    }
    with caplog.at_level(logging.ERROR, "mlxguard"):
        for _ in range(500):
            handler(loop, context)
        now = 11.0
        handler(loop, context)
        handler(loop, {"message": "Task exception was never retrieved", "exception": ValueError("why")})
    loop.close()
    assert [record.getMessage() for record in caplog.records] == ["cannot_accept"] * 2 + ["loop_error"]


async def test_asyncio_says_what_the_handler_waits_for() -> None:
    """The text of asyncio's own message, which is no part of its interface."""
    source = inspect.getsource(asyncio.selector_events)
    assert "socket.accept() out of system resource" in source
