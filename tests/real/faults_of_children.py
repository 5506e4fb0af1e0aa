"""Ways to hurt a running child, and ways to hurt the next one while it starts; for matrix and campaign.

All are real but for Metal's abort (faults/sitecustomize.py says why).
"""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from tests.support.canaries import PROMPT

#: Given a session and the child's part of /mlxguard/api/status.
Fault = Callable[[aiohttp.ClientSession, dict[str, Any]], Awaitable[None]]

FOLDER = Path(__file__).parent / "faults"


def environ(starts: Path | None = None, *, words: bool = False) -> dict[str, str]:
    """What a proxy needs in its environment.

    `starts`: the folder that `at_start` puts its orders into. `words`: some words in a prompt kill.
    """
    told = {"PYTHONPATH": str(FOLDER), "FAULTS_BY_SIGNAL": "1", **({"FAULTS_BY_WORD": "1"} if words else {})}
    return told if starts is None else {**told, "FAULTS_AT_START": str(starts)}


def by_signal(number: int) -> Fault:
    async def fault(_: aiohttp.ClientSession, child: dict[str, Any]) -> None:
        with suppress(ProcessLookupError):
            os.kill(child["pid"], number)

    return fault


async def by_poison(http: aiohttp.ClientSession, child: dict[str, Any]) -> None:
    """A real request, past the proxy, whose `stop` kills the generation thread (batched path)."""
    url = f"http://127.0.0.1:{child['port']}/v1/chat/completions"
    poison = {"messages": [{"role": "user", "content": PROMPT}], "stop": 5}
    with suppress(TimeoutError):
        async with asyncio.timeout(30):
            while psutil.pid_exists(child["pid"]):
                try:
                    async with http.post(url, json=poison) as answer:
                        await answer.read()
                    return
                except aiohttp.ClientConnectorError:
                    await asyncio.sleep(0.02)  # still loading
                except aiohttp.ClientError:
                    return


async def by_allocation(_: aiohttp.ClientSession, child: dict[str, Any]) -> None:
    """No more address space than it has now: the next large allocation fails, in native code or in MLX."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        used = psutil.Process(child["pid"]).memory_info().vms
        resource.prlimit(child["pid"], resource.RLIMIT_AS, (used, used))


FAULTS: dict[str, Fault] = {
    "sigkill": by_signal(signal.SIGKILL),
    "metal-abort": by_signal(signal.SIGUSR1),
    "sigsegv": by_signal(signal.SIGSEGV),
    "thread-death": by_poison,
    **({"allocation": by_allocation} if sys.platform == "linux" else {}),  # macOS has no prlimit
    "stopped": by_signal(signal.SIGSTOP),
    "exit": by_signal(signal.SIGTERM),
}

#: What the next child does at its start: sleeps for ever, exits, finds its port taken.
AT_START = ("hang", "fail", "port")


def at_start(starts: Path, kind: str, times: int = 1) -> None:
    """Order it for the next children."""
    for number in range(times):
        (starts / f"{kind}-{number}-{os.urandom(4).hex()}").touch()
