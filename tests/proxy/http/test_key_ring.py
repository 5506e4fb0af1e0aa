"""A keys file that changes while the proxy runs."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from proxy.config.api_keys import KeysUnreadable
from proxy.config.settings import ServerSettings
from proxy.http.key_ring import KeyRing, follow
from tests.proxy.config.test_api_keys import write


def ring_of(path: Path) -> KeyRing:
    return KeyRing(ServerSettings(api_keys=("fixed:sk-0",), api_keys_file=path))


def test_a_changed_file_is_taken_over_into_the_same_mapping(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "laptop:sk-old")
    ring = ring_of(file)
    names = ring.keys
    assert not ring.refresh(), "nothing has changed"
    write(file, "laptop:sk-new-1")
    assert ring.refresh()
    assert names == {"sk-0": "fixed", "sk-new-1": "laptop"}


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "sk-a")
    ring = ring_of(file)
    write(tmp_path / "fresh", "sk-b").rename(file)
    assert ring.refresh()
    assert "sk-b" in ring.keys


@pytest.mark.parametrize("spoil", ["open", "gone", "faulty"])
def test_an_unusable_file_is_reported_once_and_the_old_keys_hold(tmp_path: Path, spoil: str) -> None:
    file = write(tmp_path / "keys", "laptop:sk-a")
    ring = ring_of(file)
    if spoil == "open":
        file.chmod(0o644)
    elif spoil == "gone":
        file.unlink()
    else:
        write(file, "two words")
    with pytest.raises(KeysUnreadable):
        ring.refresh()
    assert not ring.refresh(), "raised once"
    assert "sk-a" in ring.keys
    write(file, "laptop:sk-again")
    assert ring.refresh()


def test_an_emptied_file_does_not_let_everyone_in(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "sk-a")
    ring = KeyRing(ServerSettings(api_keys_file=file))
    write(file, "")
    with pytest.raises(KeysUnreadable, match="no key"):
        ring.refresh()
    assert ring.keys == {"sk-a": "key-1"}


async def test_following_reports_and_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "keys", "sk-a")
    ring = ring_of(file)
    following = asyncio.create_task(follow(ring, every_s=0))
    with caplog.at_level(logging.INFO, "mlxguard.keys"):
        file.chmod(0o644)
        while "keys_not_reloaded" not in caplog.text:
            await asyncio.sleep(0)
        write(file, "sk-b")
        while "keys_reloaded" not in caplog.text:
            await asyncio.sleep(0)
    following.cancel()
    assert "sk-b" in ring.keys
