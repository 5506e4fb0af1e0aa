"""The state folder: its lock, the record of the running child, crash reports. Small, atomic, versioned.

A reader never sees half a file: each is written beside its place, flushed to disk, then renamed. A disk
that is full or a folder that went away must not keep the child down, so what is merely useful (crash
reports) is written as well as it goes, and logged where it does not.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from supervisor.child.process import kill_group
from supervisor.machine.system import created
from supervisor.state.json_file import read_json, write_json

log = logging.getLogger("mlxguard.records")

CRASH_REPORTS = 50
CRASHES = "crashes"

#: Linux derives the time of creation from the boot time, which the clock's corrections move a little.
_SAME_PROCESS_S = 2.0


class AlreadyRunning(Exception):
    """Another proxy uses this state folder."""


class StateFolder:
    """The state folder of one proxy, from `open` to `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = filelock.FileLock(folder / "lock", timeout=0)

    def open(self, port: int | None = None) -> None:
        """Take the folder for this process; `port` is what a second proxy is told.

        Raises:
            AlreadyRunning: another process has it.
            OSError: the folder cannot be made or written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise AlreadyRunning(self._describe_holder()) from None
        write_json(self.folder / "proxy.json", {"pid": os.getpid(), "port": port})

    def close(self) -> None:
        self._lock.release()

    def _describe_holder(self) -> str:
        found = holder(self.folder)
        pid, port = found.get("pid", "unknown"), found.get("port") or "unknown"
        return f"another mlxguard-proxy (pid {pid}, port {port}) uses the state folder {self.folder}"

    # The child

    def note_child(self, pid: int) -> None:
        """Remember the running child, in case this process and the keeper are both killed."""
        try:
            write_json(self.folder / "child.json", {"pid": pid, "created": created(pid)})
        except OSError as error:
            log.warning("child_not_recorded", extra={"error": str(error)})

    def forget_child(self) -> None:
        try:
            (self.folder / "child.json").unlink(missing_ok=True)
        except OSError as error:
            log.warning("child_not_forgotten", extra={"error": str(error)})

    def end_left_over(self) -> int | None:
        """Kill a child that outlived its gateway and its keeper; returns its pid if there was one."""
        left = read_json(self.folder / "child.json")
        if left is None:
            return None
        self.forget_child()
        pid, since = left.get("pid"), left.get("created")
        if not isinstance(pid, int) or not isinstance(since, float):
            return None
        now = created(pid)
        if now is None or abs(now - since) > _SAME_PROCESS_S:
            return None
        kill_group(pid)
        return pid

    # Crash reports

    def crash_id(self, generation: int, at: float) -> str:
        """The name of a report; in order of time. `at`: wall-clock seconds."""
        return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(at))}-{os.getpid()}-{generation:04d}"

    def write_crash(self, report: Mapping[str, Any]) -> None:
        """Keep the report under its `id`, or replace it, and keep the newest ones only. Raises OSError."""
        folder = self.folder / CRASHES
        folder.mkdir(mode=0o700, exist_ok=True)
        write_json(folder / f"{report['id']}.json", report)
        for old in sorted(folder.glob("*.json"))[:-CRASH_REPORTS]:
            old.unlink(missing_ok=True)


def holder(state_dir: Path) -> dict[str, Any]:
    """`pid` and `port` of the proxy that took the folder last; empty if none is known."""
    return read_json(state_dir / "proxy.json") or {}


def crash_reports(state_dir: Path) -> list[dict[str, Any]]:
    """All reports that can be read, oldest first; for people, so without the lock."""
    reports = (read_json(path) for path in sorted((state_dir / CRASHES).glob("*.json")))
    return [report for report in reports if report is not None]
