"""Keys and their names, from the settings and from their file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proxy.config.api_keys import KeysUnreadable, known_keys, read
from proxy.config.settings import ServerSettings


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


def test_a_file_that_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """Reading a pipe would wait for its writer for ever."""
    os.mkfifo(tmp_path / "keys", 0o600)
    with pytest.raises(KeysUnreadable, match="no regular file"):
        read(tmp_path / "keys")
