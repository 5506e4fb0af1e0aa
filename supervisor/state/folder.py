"""The state folder: its lock, the record of the running child, and crash reports.

A full disk or a deleted folder must not keep the child down, so a record or report that cannot be written is
logged and otherwise ignored.
"""

from __future__ import annotations

import logging
import os
import stat
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import filelock
from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import to_json

from supervisor.child.process import kill_group
from supervisor.machine.system import created
from supervisor.state.json_file import DamagedState, read_document, read_json, write_json

log = logging.getLogger("mlxguard.state")

#: The newest crash reports are kept, up to this number, in this folder.
CRASH_REPORTS = 50
CRASHES = "crashes"

#: Creation times of one process may differ by this many seconds: Linux derives them from the boot time, which
#: moves a little with corrections of the clock.
_SAME_PROCESS_S = 2.0


class AlreadyRunning(Exception):
    """Another proxy uses this state folder."""


@dataclass(frozen=True, slots=True)
class ChildRecord:
    """The content of child.json. `created`: epoch seconds; None if the system did not tell."""

    pid: Annotated[int, Field(gt=1, lt=2**31)]
    created: Annotated[float, Field(gt=0, lt=1e11)] | None


_CHILD_RECORD = TypeAdapter(ChildRecord)


class StateFolder:
    """The state folder of one proxy, from `open` to `close`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = filelock.FileLock(folder / "lock", mode=0o600, timeout=0, thread_local=False)
        self._held: tuple[int, int] | None = None  # device and inode of the lock that this process holds
        self._port: int | None = None
        self._child: ChildRecord | None = None

    def open(self, port: int | None = None) -> None:
        """Take the folder for this process; `port` is shown to a second proxy.

        Raises:
            AlreadyRunning: another process uses it.
            OSError: the folder cannot be made or written, or belongs to another user.
        """
        self._port = port
        self._take()

    def _take(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _make_private(self.folder)
        try:
            self._lock.acquire()
        except filelock.Timeout:
            found = holder(self.folder)
            process = f"pid {found.get('pid', 'unknown')}, port {found.get('port') or 'unknown'}"
            message = f"another mlxguard-proxy ({process}) uses the state folder {self.folder}"
            raise AlreadyRunning(message) from None
        self._held = self._lock_on_disk()
        write_json(self.folder / "proxy.json", {"pid": os.getpid(), "port": self._port})

    def keep(self) -> None:
        """Take the folder again if it, or the lock in it, was deleted or replaced; called every few seconds.

        A second proxy could otherwise start beside this one, with a lock of the same name.

        Raises:
            AlreadyRunning: one has.
            OSError: the folder cannot be made again.
        """
        if self._held is not None and self._lock_on_disk() == self._held:
            return
        log.warning("state_folder_taken_again", extra={"folder": str(self.folder)})
        self._lock.release()
        self._held = None
        self._lock = filelock.FileLock(self.folder / "lock", mode=0o600, timeout=0, thread_local=False)
        self._take()
        if self._child is not None:
            self._write_child(self._child)

    def close(self) -> None:
        self._lock.release()
        self._held = None

    def _lock_on_disk(self) -> tuple[int, int] | None:
        try:
            found = (self.folder / "lock").lstat()
        except FileNotFoundError:
            return None
        return found.st_dev, found.st_ino

    # The child

    def record_child(self, pid: int) -> None:
        """Record the running child, in case this process and the keeper are both killed."""
        self._child = ChildRecord(pid, created(pid))
        self._write_child(self._child)

    def _write_child(self, record: ChildRecord) -> None:
        try:
            write_json(self.folder / "child.json", {"pid": record.pid, "created": record.created})
        except OSError as error:
            log.warning("child_record_not_written", extra={"error": str(error)})

    def remove_child_record(self) -> None:
        self._child = None
        try:
            (self.folder / "child.json").unlink(missing_ok=True)
        except OSError as error:
            log.warning("child_record_not_removed", extra={"error": str(error)})

    def kill_orphan(self) -> int | None:
        """Kill a child that outlived its gateway and its keeper; return its pid if there was one."""
        record = self._recorded_child()
        self.remove_child_record()
        if record is None or record.created is None:
            return None
        now = created(record.pid)
        if now is None or abs(now - record.created) > _SAME_PROCESS_S:
            return None
        kill_group(record.pid)
        return record.pid

    def _recorded_child(self) -> ChildRecord | None:
        """What child.json says; damaged content is set aside, and never acted on."""
        file = self.folder / "child.json"
        try:
            document = read_document(file)
            return None if document is None else _CHILD_RECORD.validate_json(to_json(document), strict=True)
        except (OSError, DamagedState, ValidationError) as error:
            aside = file.with_name(f"{file.name}.bad")
            with suppress(OSError):
                file.replace(aside)
            extra = {"error": type(error).__name__, "copy": str(aside)}
            log.warning("child_record_set_aside", extra=extra)
            return None

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
    with suppress(OSError):
        found = read_json(state_dir / "proxy.json") or {}
        return {name: found[name] for name in ("pid", "port") if isinstance(found.get(name), int)}
    return {}


def crash_reports(state_dir: Path) -> list[dict[str, Any]]:
    """All readable reports, oldest first; needs no lock."""
    found = ((path.stem, _report(path)) for path in sorted((state_dir / CRASHES).glob("*.json")))
    return [report for name, report in found if report is not None and report.get("id") == name]


def _report(path: Path) -> dict[str, Any] | None:
    with suppress(OSError):
        return read_json(path)
    return None


def _make_private(folder: Path) -> None:
    """Shut others out of the folder. Raises PermissionError if it is not ours to shut."""
    found = folder.stat()
    if found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} belongs to another user")
    if open_to_others := stat.S_IMODE(found.st_mode) & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning("state_folder_was_open", extra={"folder": str(folder), "mode": f"{open_to_others:04o}"})
        folder.chmod(0o700)
