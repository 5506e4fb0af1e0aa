"""No orphan, however the gateway goes: real processes, killed at every moment of their lives.

The fake server can ignore SIGTERM and leave a grandchild, which the real one does not.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from supervisor.state.folder import StateFolder
from supervisor.state.json_file import read_json
from tests.supervisor.conftest import alive, gone, until

ROOT = Path(__file__).parents[2]


class Host:
    """The process in host.py, of which the children are looked for from outside."""

    def __init__(self, state_dir: Path, *arguments: str) -> None:
        self.state_dir = state_dir
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.host", str(state_dir), *arguments],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    async def line(self) -> str:
        assert self._process.stdout
        return (await asyncio.to_thread(self._process.stdout.readline)).strip()

    def family(self) -> set[int]:
        return {process.pid for process in psutil.Process(self._process.pid).children(recursive=True)}

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the host and nothing else."""
        self._process.send_signal(number)
        self._process.wait()
        assert self._process.stdout
        self._process.stdout.close()


async def all_gone(family: set[int]) -> bool:
    """Within 5 seconds of the end of the gateway."""
    return await until(lambda: not any(map(alive, family)), within_s=5.0)


@pytest.mark.parametrize("told", [(), ("ignore=all", "grandchild=yes")], ids=["plain", "stubborn"])
async def test_a_killed_gateway_leaves_nothing(tmp_path: Path, told: tuple[str, ...]) -> None:
    host = Host(tmp_path, "fake", *told)
    while await host.line() != "ready":
        pass
    family = host.family()
    assert len(family) == (2 if not told else 3)
    host.kill()
    assert await all_gone(family)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT], ids=lambda n: n.name)
async def test_whatever_ends_the_gateway(tmp_path: Path, number: signal.Signals) -> None:
    host = Host(tmp_path, "fake")
    await host.line()
    family = host.family()
    host.kill(number)
    assert family
    assert await all_gone(family)


@pytest.mark.parametrize("others", range(4))
async def test_a_kill_at_each_moment_of_a_start(tmp_path: Path, others: int) -> None:
    """From before the keeper exists until after the grandchild does; found by a mark in the command line."""
    mark = str(tmp_path)
    host = Host(tmp_path, "fake", f"mark={mark}", "ignore=all", "grandchild=yes")
    assert await until(lambda: (tmp_path / "lock").exists() and len(marked(mark)) > others)
    host.kill()
    assert await until(lambda: not marked(mark), within_s=5.0)


def marked(mark: str) -> list[int]:
    """The processes that run with this mark: host, keeper, child, grandchild."""
    running = psutil.process_iter(["cmdline", "memory_info", "status"])
    return [process.pid for process in running if _marked(process.info, mark)]


def _marked(info: dict[str, Any], mark: str) -> bool:
    """One that is in the middle of an exec has memory and no words yet: it may be one of them."""
    if info["status"] == psutil.STATUS_ZOMBIE:
        return False
    in_exec = info["cmdline"] == [] and info["memory_info"] is not None and info["memory_info"].vms > 0
    return in_exec or any(mark in word for word in info["cmdline"] or ())


async def test_a_double_kill_is_cleaned_up_by_the_next_start(tmp_path: Path) -> None:
    host = Host(tmp_path, "fake", "ignore=all")
    while await host.line() != "ready":
        pass
    record = read_json(tmp_path / "child.json")
    assert record is not None
    keeper = psutil.Process(record["pid"]).ppid()
    os.kill(keeper, signal.SIGSTOP)  # or it would do its work before we get to it
    host.kill()
    os.kill(keeper, signal.SIGKILL)
    assert alive(record["pid"])
    state = StateFolder(tmp_path)
    state.open()
    assert state.kill_orphan() == record["pid"]
    assert await gone(record["pid"])
    state.close()


async def test_a_gateway_that_is_killed_while_the_keeper_is_stopped(tmp_path: Path) -> None:
    """As when a terminal stops everything: the keeper does its work as soon as it runs again."""
    host = Host(tmp_path, "fake")
    child = int((await host.line()).removeprefix("child "))
    keeper = psutil.Process(child).ppid()
    os.kill(keeper, signal.SIGSTOP)
    host.kill()
    os.kill(keeper, signal.SIGCONT)
    assert await gone(child)
