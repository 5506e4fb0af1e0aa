"""The state folder: its lock, the child left by a double kill, bounded crash reports."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.machine.system import created
from supervisor.state import folder
from supervisor.state.folder import AlreadyRunning, StateFolder, crash_reports
from supervisor.state.json_file import write_json
from tests.supervisor.conftest import gone


@pytest.fixture
def state(tmp_path: Path) -> StateFolder:
    return StateFolder(tmp_path / "a" / "state")


def test_the_folder_is_readable_by_its_owner_only(state: StateFolder) -> None:
    state.open()
    assert state.folder.stat().st_mode & 0o777 == 0o700
    state.close()


def test_a_second_proxy_is_told_which_one_has_the_folder(state: StateFolder) -> None:
    state.open(port=8080)
    code = (
        "import sys; from pathlib import Path\n"
        "from supervisor.state.folder import StateFolder, AlreadyRunning\n"
        "try: StateFolder(Path(sys.argv[1])).open()\n"
        "except AlreadyRunning as error: print(error)"
    )
    second = [sys.executable, "-c", code, str(state.folder)]
    told = subprocess.run(second, capture_output=True, text=True, check=True).stdout
    assert f"pid {os.getpid()}, port 8080" in told
    assert str(state.folder) in told
    state.close()
    assert subprocess.run(second, capture_output=True, text=True, check=True).stdout == ""


def test_the_lock_can_be_taken_again_after_its_release(state: StateFolder) -> None:
    for _ in range(2):
        state.open()
        with pytest.raises(AlreadyRunning):
            StateFolder(state.folder).open()
        state.close()


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-S", "-c", "import time; time.sleep(60)"], start_new_session=True
    )


async def test_a_child_left_by_a_double_kill_is_killed_once(state: StateFolder) -> None:
    state.open()
    with sleeper() as left:
        state.record_child(left.pid)
        assert state.kill_orphan() == left.pid
        assert await gone(left.pid)
    assert state.kill_orphan() is None
    state.close()


def test_another_process_with_the_pid_of_the_child_is_left_alone(state: StateFolder) -> None:
    state.open()
    with sleeper() as stranger:
        born = created(stranger.pid)
        assert born is not None
        write_json(state.folder / "child.json", {"pid": stranger.pid, "created": born - 60.0})
        assert state.kill_orphan() is None
        assert stranger.poll() is None
        stranger.kill()
    state.close()


@pytest.mark.parametrize("content", [{}, {"pid": "1", "created": 1.0}, {"pid": 2**22 + 1, "created": 1.0}])
def test_a_malformed_record_does_no_harm(state: StateFolder, content: dict[str, object]) -> None:
    state.open()
    write_json(state.folder / "child.json", content)
    assert state.kill_orphan() is None
    state.close()


def test_crash_reports_are_kept_replaced_and_bounded(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "CRASH_REPORTS", 3)
    state.open()
    names = [state.crash_id(number, at=1000.0 * number) for number in range(1, 6)]
    for cause in ("wedge", "segfault"):
        for name in names:
            state.write_crash({"id": name, "cause": cause})
    kept = crash_reports(state.folder)
    assert [report["id"] for report in kept] == names[2:]
    assert kept[-1] == {"version": 1, "id": names[-1], "cause": "segfault"}
    assert (state.folder / "crashes").stat().st_mode & 0o777 == 0o700
    state.close()


def test_unreadable_reports_are_left_out(tmp_path: Path) -> None:
    assert crash_reports(tmp_path) == []
    (tmp_path / "crashes").mkdir()
    (tmp_path / "crashes" / "1.json").write_text("{")
    (tmp_path / "crashes" / "2.json").write_text('{"version": 99}')
    assert crash_reports(tmp_path) == []


def test_a_full_disk_is_logged_and_no_error(
    state: StateFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state.open()

    def full(path: Path, content: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder, "write_json", full)
    state.record_child(os.getpid())
    (state.folder / "child.json").mkdir()  # cannot be unlinked, as on a file system that became read-only
    state.remove_child_record()
    assert [record.getMessage() for record in caplog.records] == [
        "child_record_not_written",
        "child_record_not_removed",
    ]
    state.close()
