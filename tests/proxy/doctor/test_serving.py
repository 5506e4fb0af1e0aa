"""Serving once where that cannot be; that it can is in tests/real/test_doctor.py."""

from __future__ import annotations

from pathlib import Path

from proxy.doctor.serving import serve_once


async def test_a_cache_folder_that_cannot_be_written_is_a_fault_and_no_exception(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.touch()
    seen = await serve_once(blocked / "cache")
    assert seen.fault is not None
    assert "could not be made" in seen.fault
    assert (seen.ready_s, seen.telemetry, seen.left) == (None, None, False)
    assert seen.stop_s is not None
