"""Small JSON files: replaced as a whole, and ignored if they are of another version."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from supervisor.state.json_file import MOST_BYTES, DamagedState, read_document, read_json, write_json


def test_files_are_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"value": 1})

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_json(path, {"value": 2})
    assert read_json(path) == {"version": 1, "value": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, '{"version": 99}', '{"value": 1}'])
def test_a_file_that_is_not_understood_counts_as_missing(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert read_json(path) is None
    assert read_json(tmp_path / "none.json") is None


def test_a_file_is_for_its_owner_alone_and_never_written_through_a_link(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "new" / "x.json", tmp_path / "elsewhere"
    write_json(path, {"value": 1})
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    elsewhere.write_text("untouched")
    path.unlink()
    path.symlink_to(elsewhere)
    assert read_json(path) is None
    write_json(path, {"value": 2})
    assert elsewhere.read_text() == "untouched"
    assert not path.is_symlink()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"version": 1, "x": NaN}', '{"version": 1, "x": "' + "a" * MOST_BYTES + '"}']
)
def test_what_would_be_fatal_elsewhere_is_damaged(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    assert read_json(path) is None
    with pytest.raises(DamagedState):
        read_document(path)
