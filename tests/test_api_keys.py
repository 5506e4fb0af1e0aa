"""Keys and their names, from the settings and from their file."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from proxy.api_keys import KeyRing, KeysUnreadable, follow, known_keys, read
from proxy.config import ServerSettings


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(mode)
    return path


def test_keys_from_both_places_with_their_names(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "  # for the laptop\r\n\nlaptop:sk-b==\n sk-c \n")
    server = ServerSettings(api_keys=("sk-a", "aider:sk-b2", "aider:sk-b3"), api_keys_file=file)
    assert known_keys(server) == {
        "sk-a": "key-1",
        "sk-b2": "aider",
        "sk-b3": "aider",
        "sk-b==": "laptop",
        "sk-c": "key-5",
    }


def test_no_keys() -> None:
    assert known_keys(ServerSettings()) == {}


def test_the_first_name_of_a_repeated_key_holds() -> None:
    assert known_keys(ServerSettings(api_keys=("a:k", "b:k"))) == {"k": "a"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o644, 0o660, 0o610])
def test_a_file_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    with pytest.raises(KeysUnreadable, match=f"mode {mode:04o}"):
        read(write(tmp_path / "keys", "sk-a", mode))


@pytest.mark.parametrize("mode", [0o600, 0o400])
def test_a_file_of_ones_own_is_read(tmp_path: Path, mode: int) -> None:
    assert read(write(tmp_path / "keys", "sk-a", mode)) == ("sk-a",)


def test_a_faulty_line_is_named_but_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(KeysUnreadable) as caught:
        read(write(tmp_path / "keys", "sk-a\n\nsk 4711\n"))
    assert caught.value.line == 3
    assert "4711" not in str(caught.value)


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = write(tmp_path / "keys", "")
    path.write_bytes(b"\xff")
    with pytest.raises(KeysUnreadable, match="not UTF-8"):
        read(path)


# --- a file that changes while the proxy runs -------------------------------------------------------


def ring_of(path: Path) -> KeyRing:
    return KeyRing(ServerSettings(api_keys=("fixed:sk-0",), api_keys_file=path))


def test_a_changed_file_is_taken_over_into_the_same_mapping(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "laptop:sk-old")
    ring = ring_of(file)
    names = ring.names
    assert not ring.refresh(), "nothing has changed"
    write(file, "laptop:sk-new-1")
    assert ring.refresh()
    assert names == {"sk-0": "fixed", "sk-new-1": "laptop"}


def test_a_file_that_is_replaced_as_editors_do_is_seen(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "sk-a")
    ring = ring_of(file)
    write(tmp_path / "fresh", "sk-b").rename(file)
    assert ring.refresh()
    assert "sk-b" in ring.names


@pytest.mark.parametrize("spoil", ["open", "gone", "faulty"])
def test_a_spoilt_file_is_told_of_once_and_the_old_keys_hold(tmp_path: Path, spoil: str) -> None:
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
    assert not ring.refresh(), "told once"
    assert "sk-a" in ring.names
    write(file, "laptop:sk-again")
    assert ring.refresh()


def test_an_emptied_file_does_not_let_everyone_in(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", "sk-a")
    ring = KeyRing(ServerSettings(api_keys_file=file))
    write(file, "")
    with pytest.raises(KeysUnreadable, match="no key"):
        ring.refresh()
    assert ring.names == {"sk-a": "key-1"}


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
    assert "sk-b" in ring.names
