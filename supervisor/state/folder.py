"""The state folder: its lock, the record of the running child, and crash reports.

A full disk or a deleted folder must not keep the child down, so a record or report that cannot be written is
logged and otherwise ignored.
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

log = logging.getLogger("mlxguard.state")

#: The newest crash reports are kept, up to this number, in this folder.
CRASH_REPORTS = 50
CRASHES = "crashes"

#: Creation times of one process may differ by this many seconds: Linux derives them from the boot time, which
#: moves a little with corrections of the clock.
_SAME_PROCESS_S = 2.0


class AlreadyRunning(Exception):
    """Another proxy uses this state folder."""


class StateFolder:
    """The state folder of one proxy, from `open` to `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = filelock.FileLock(folder / "lock", timeout=0)

    def open(self, port: int | None = None) -> None:
        """Take the folder for this process; `port` is shown to a second proxy.

        Raises:
            AlreadyRunning: another process uses it.
            OSError: the folder cannot be made or written.
        """
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            found = holder(self.folder)
            process = f"pid {found.get('pid', 'unknown')}, port {found.get('port') or 'unknown'}"
            message = f"another mlxguard-proxy ({process}) uses the state folder {self.folder}"
            raise AlreadyRunning(message) from None
        write_json(self.folder / "proxy.json", {"pid": os.getpid(), "port": port})

    def close(self) -> None:
        self._lock.release()

    # The child

    def record_child(self, pid: int) -> None:
        """Record the running child, in case this process and the keeper are both killed."""
        try:
            write_json(self.folder / "child.json", {"pid": pid, "created": created(pid)})
        except OSError as error:
            log.warning("child_record_not_written", extra={"error": str(error)})

    def remove_child_record(self) -> None:
        try:
            (self.folder / "child.json").unlink(missing_ok=True)
        except OSError as error:
            log.warning("child_record_not_removed", extra={"error": str(error)})

    def kill_orphan(self) -> int | None:
        """Kill a child that outlived its gateway and its keeper; return its pid if there was one."""
        record = read_json(self.folder / "child.json")
        if record is None:
            return None
        self.remove_child_record()
        pid, since = record.get("pid"), record.get("created")
        if not isinstance(pid, int) or not isinstance(since, float):
            return None
        now = created(pid)
        if now is None or abs(now - since) > _SAME_PROCESS_S:
            return None
        kill_group(pid)
        return pid

    # Crash reports

    def crash_id(self, generation: int, at: float) -> str:
        """The id of a report; ids sort by time. `at`: wall-clock seconds."""
        return f"{time.strftime('%Y%m%dT%H%M%S', time.gmtime(at))}-{os.getpid()}-{generation:04d}"

    def write_crash(self, report: Mapping[str, Any]) -> None:
        """Write or replace the report with this `id`, and delete the oldest ones. Raises OSError."""
        folder = self.folder / CRASHES
        folder.mkdir(mode=0o700, exist_ok=True)
        write_json(folder / f"{report['id']}.json", report)
        for old in sorted(folder.glob("*.json"))[:-CRASH_REPORTS]:
            old.unlink(missing_ok=True)


def holder(state_dir: Path) -> dict[str, Any]:
    """`pid` and `port` of the last proxy that took the folder; empty if unknown."""
    return read_json(state_dir / "proxy.json") or {}


def crash_reports(state_dir: Path) -> list[dict[str, Any]]:
    """All readable reports, oldest first; needs no lock."""
    reports = (read_json(path) for path in sorted((state_dir / CRASHES).glob("*.json")))
    return [report for report in reports if report is not None]
