"""How the gateway ends: by a signal, by a second one, or because the state folder cannot be used."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import pytest

from proxy import server
from proxy.app import Gateway
from proxy.config.settings import Settings, SupervisorSettings
from proxy.exit_codes import ExitCode
from proxy.http.early_listener import EarlyListener
from supervisor.state.folder import StateFolder


class FakeGateway:
    """Records what it was told; `stop` takes until `stopped` is set."""

    registry = ()

    def __init__(self) -> None:
        self.told: list[str] = []
        self.stopped = asyncio.Event()

    def recycle(self, reason: str) -> None:
        self.told.append(f"recycle: {reason}")

    async def stop(self) -> None:
        self.told.append("stop")
        await self.stopped.wait()

    def stop_now(self) -> None:
        self.told.append("stop now")
        self.stopped.set()


@pytest.fixture
async def _signals_as_before() -> AsyncIterator[None]:
    yield
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.remove_signal_handler(number)


async def sent(gateway: FakeGateway, number: signal.Signals, told: str) -> None:
    os.kill(os.getpid(), number)
    async with asyncio.timeout(10):
        while told not in gateway.told:
            await asyncio.sleep(0)


async def started(gateway: FakeGateway) -> asyncio.Task[ExitCode]:
    running = asyncio.create_task(server._until_stopped(cast("Gateway", gateway)))
    await asyncio.sleep(0)
    return running


@pytest.mark.usefixtures("_signals_as_before")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_in_order(number: signal.Signals) -> None:
    gateway = FakeGateway()
    running = await started(gateway)
    await sent(gateway, number, "stop")
    gateway.stopped.set()
    assert await running is ExitCode.OK
    assert gateway.told == ["stop"]


@pytest.mark.usefixtures("_signals_as_before")
async def test_a_second_signal_stops_at_once() -> None:
    gateway = FakeGateway()
    running = await started(gateway)
    await sent(gateway, signal.SIGINT, "stop")
    await sent(gateway, signal.SIGINT, "stop now")
    assert await running is ExitCode.INTERRUPTED


@pytest.mark.usefixtures("_signals_as_before")
async def test_sighup_recycles_the_child() -> None:
    gateway = FakeGateway()
    running = await started(gateway)
    await sent(gateway, signal.SIGHUP, "recycle: SIGHUP")
    gateway.stopped.set()
    await sent(gateway, signal.SIGTERM, "stop")
    assert await running is ExitCode.OK


@pytest.fixture
async def listener() -> AsyncIterator[EarlyListener]:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        listener = await EarlyListener.open(sock)
        yield listener
        listener.hand_over(asyncio.Protocol).close()


def keeping_state_in(folder: Path) -> Settings:
    return Settings(supervisor=SupervisorSettings(state_dir=folder))


async def test_a_state_folder_in_use_is_named(
    tmp_path: Path, listener: EarlyListener, caplog: pytest.LogCaptureFixture
) -> None:
    taken = StateFolder(tmp_path)
    taken.open(port=77)
    try:
        assert await server.run(keeping_state_in(tmp_path), listener, "a test") == ExitCode.STATE_LOCKED
    finally:
        taken.close()
    assert f"pid {os.getpid()}, port 77" in vars(caplog.records[-1])["reason"]


async def test_a_state_folder_that_cannot_be_used_is_a_fault_of_the_configuration(
    tmp_path: Path, listener: EarlyListener, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lock").mkdir()
    assert await server.run(keeping_state_in(tmp_path), listener, "a test") == ExitCode.CONFIGURATION
    assert "choose another with [supervisor] state_dir" in vars(caplog.records[-1])["reason"]
