"""Secrets that tests put into prompts and keys, and the search for them in all that a test run leaves behind.

Whoever sends a request in a test takes `PROMPT` into its text, and `KEY` as the key it holds. Neither may be
in any line that we log, in the tests' own process or in others', nor in any file that a test's processes
write: logs of proxies and, through them, of children and workers; crash reports, state, caches. What a test
writes itself to be read by a process is an input, and says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy.config.folders import cache_folder
from proxy.log.format import JsonFormatter

PROMPT = "kestrel-3f9c1a-of-a-prompt"
KEY = "sk-kestrel-8d20b7-of-a-client"
_SECRETS = tuple(secret.encode() for secret in (PROMPT, KEY))

#: Larger files are models.
_LARGEST = 50_000_000

_inputs: set[Path] = set()


def is_input(path: Path) -> Path:
    """This file, or folder, was written by a test."""
    _inputs.add(path.resolve())
    return path


class _Listener(logging.Handler):
    """Reads each line of ours as it would be written."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.found: list[str] = []
        self.setFormatter(JsonFormatter(str))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.format(record)
        except Exception:  # noqa: BLE001 - as every handler does: what a line holds may be anything
            self.handleError(record)
            return
        self.found += [line for secret in (PROMPT, KEY) if secret in line]


@pytest.fixture(scope="session", autouse=True)
def nothing_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The first fixture to begin and the last to end: by then all processes have ended and written."""
    listener, ours = _Listener(), logging.getLogger("mlxguard")
    ours.addHandler(listener)
    ours.setLevel(logging.DEBUG)  # what would be written at its most talkative
    yield
    ours.removeHandler(listener)
    folders = (tmp_path_factory.getbasetemp(), cache_folder())
    files = [str(path) for folder in folders for path in _files(folder) if holds_secret(path)]
    assert not files, f"a prompt or a key is in these files: {files}"
    assert not listener.found, f"a prompt or a key was logged: {listener.found[:5]}"


def holds_secret(path: Path) -> bool:
    data = path.read_bytes()
    return any(secret in data for secret in _SECRETS)


def _files(folder: Path) -> Iterator[Path]:
    """What was left there, without what is an input."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file() or path.stat().st_size > _LARGEST:
            continue
        if not _inputs.intersection((path.resolve(), *path.resolve().parents)):
            yield path
