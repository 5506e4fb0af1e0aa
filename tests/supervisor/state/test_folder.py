"""The state folder: its lock, the child left by a double kill, bounded crash reports."""

from __future__ import annotations

import errno
import json
import os
import shutil
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


def record_of(state: StateFolder) -> Path:
    return state.folder / "child.json"


@pytest.mark.parametrize(
    "text",
    [
        '{"version": 1, "pid": PID, "created": NaN}',
        '{"version": 1, "pid": PID, "created": 1e999}',
        '{"version": 1, "pid": PID, "created": -5.0}',
        '{"version": 1, "pid": true, "created": CREATED}',
        '{"version": 1, "pid": 1, "created": CREATED}',
        '{"version": 1, "pid": 0, "created": CREATED}',
        '{"version": 1, "pid": -PID, "created": CREATED}',
        '{"version": 1, "pid": 99999999999999999999, "created": CREATED}',
        '{"version": 1, "pid": "PID", "created": CREATED}',
        '{"version": 2, "pid": PID, "created": CREATED}',
        '{"version": 1, "created": CREATED}',
        "[" * 10_000,
        "",
        "null",
        " " * 5_000_000,
    ],
)
def test_a_record_that_is_damaged_is_set_aside_and_kills_nothing(state: StateFolder, text: str) -> None:
    state.open()
    with sleeper() as stranger:
        text = text.replace("PID", str(stranger.pid)).replace("CREATED", str(created(stranger.pid)))
        record_of(state).write_text(text)
        assert state.kill_orphan() is None
        assert stranger.poll() is None
        stranger.kill()
    assert not record_of(state).exists()
    assert (state.folder / "child.json.bad").read_text() == text
    state.close()


def test_a_record_behind_a_link_or_in_a_pipe_is_not_read(state: StateFolder, tmp_path: Path) -> None:
    state.open()
    (tmp_path / "elsewhere").write_text("{}")
    record_of(state).symlink_to(tmp_path / "elsewhere")
    assert state.kill_orphan() is None
    assert (tmp_path / "elsewhere").read_text() == "{}"
    os.mkfifo(record_of(state))
    assert state.kill_orphan() is None
    state.close()


def test_a_folder_that_was_deleted_is_taken_again(state: StateFolder) -> None:
    state.open(port=8080)
    state.keep()
    state.record_child(os.getpid())
    shutil.rmtree(state.folder)
    state.keep()
    assert state.folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(AlreadyRunning, match="8080"):
        StateFolder(state.folder).open()
    assert json.loads(record_of(state).read_text())["pid"] == os.getpid()
    state.remove_child_record()
    state.close()
    StateFolder(state.folder).open()


def test_a_proxy_that_took_the_deleted_folder_is_noticed(state: StateFolder) -> None:
    state.open(port=1)
    shutil.rmtree(state.folder)
    other = StateFolder(state.folder)
    other.open(port=2)
    with pytest.raises(AlreadyRunning):
        state.keep()
    other.close()
    state.keep()
    with pytest.raises(AlreadyRunning):
        other.open()


def test_a_folder_that_others_may_enter_is_closed_to_them(
    state: StateFolder, caplog: pytest.LogCaptureFixture
) -> None:
    state.folder.mkdir(parents=True)
    state.folder.chmod(0o777)
    state.open()
    assert state.folder.stat().st_mode & 0o777 == 0o700
    assert [record.getMessage() for record in caplog.records] == ["state_folder_was_open"]
    assert (state.folder / "lock").stat().st_mode & 0o777 == 0o600
    state.close()


def test_a_folder_of_another_user_is_not_used(state: StateFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="another user"):
        state.open()
