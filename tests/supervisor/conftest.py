"""A supervisor over the fake server: see fake_server.py for why it is fake."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest

from supervisor.child.generation import Generation
from supervisor.child.options import LaunchSpec, SupervisorOptions
from supervisor.crash_reports import CrashAttribution
from supervisor.supervisor import Supervisor

FAKE = (sys.executable, "-S", str(Path(__file__).parents[1] / "support" / "fake_server.py"))

Supervise = Callable[..., Supervisor]


def fake_launch(*told: str) -> LaunchSpec:
    """Runs the fake server, told `key=value`."""
    flags = [part for item in told for part in ("--fake", item)]
    return LaunchSpec(argv=(), env={}, command=(*FAKE, *flags))


@pytest.fixture
async def supervise(tmp_path: Path) -> AsyncIterator[Supervise]:
    """`supervise("key=value", ..., prepare=..., max_restarts=...)`: a supervisor, stopped at the end."""
    made: list[Supervisor] = []

    def make(
        *told: str,
        prepare: Callable[[], Awaitable[LaunchSpec]] | None = None,
        attribute_crash: CrashAttribution = lambda _: (),
        **options: Any,
    ) -> Supervisor:
        async def launch() -> LaunchSpec:
            return fake_launch(*told)

        defaults: dict[str, Any] = {"backoff_base_s": 0.01, "canary_timeout_s": 0.3}
        chosen = SupervisorOptions(**{"state_dir": tmp_path / "state", **defaults, **options})
        made.append(
            Supervisor(prepare or launch, chosen, random=lambda: 0.5, attribute_crash=attribute_crash)
        )
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop_now()
        await supervisor.stop()


async def tell(generation: Generation, **what: object) -> None:
    """Tell the running fake server to do something, which may end it."""
    query = {key: str(value) for key, value in what.items()}
    async with aiohttp.ClientSession() as session:
        with suppress(aiohttp.ClientError):
            async with session.get(f"http://127.0.0.1:{generation.port}/fake", params=query) as response:
                await response.read()


def alive(pid: int) -> bool:
    """Whether the process exists and is not a zombie."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def until(true: Callable[[], bool], within_s: float = 10.0) -> bool:
    """Poll until `true()` holds; False if it does not hold in time."""
    with suppress(TimeoutError):
        async with asyncio.timeout(within_s):
            while not true():
                await asyncio.sleep(0.005)
    return true()


async def gone(pid: int, within_s: float = 5.0) -> bool:
    """Wait for the end of a process that is no child of this one."""
    return await until(lambda: not alive(pid), within_s)
