"""The learned state: one bounded JSON file in the state folder, with a typed section for each owner.

Each owner declares the form of its section (a pydantic TypeAdapter over its own dataclasses, whose
annotations have the ranges); everything about the file is here. Content that is damaged, out of range or of
another version is never acted on and never fatal: the default is used, the log says so once, and the file is
copied to `learned.json.bad` before the next write. Version 0.1 had a file for each section; such a file is
read while `learned.json` has no such section, and removed once the section has been written.
"""

from __future__ import annotations

import logging
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter, ValidationError
from pydantic_core import to_json

from supervisor.aio import Tasks
from supervisor.state.json_file import DamagedState, read_document, read_json, write_json
from supervisor.state.saver import Saver

log = logging.getLogger("mlxguard.learned")

FILE = "learned.json"

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class StateSection(Generic[_T]):
    """One part of the document."""

    name: str  # its key in the file
    form: TypeAdapter[_T]  # checks and writes its content
    former: str  # the file that had this content in version 0.1


class LearnedFile:
    """The file as one gateway reads and writes it; writes happen in a thread, one after the other.

    Args:
        folder: the state folder; None keeps nothing on disk.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._tasks = Tasks()
        self._saver = Saver(self._tasks)
        self._on_disk: set[str] = set()
        self._damaged: set[Path] = set()

    def load(self, section: StateSection[_T]) -> _T | None:
        """The section; None if there is none that can be used."""
        if self._folder is None:
            return None
        try:
            value = read_section(self._folder, section)
        except OSError as error:
            log.warning("learned_state_not_read", extra={"section": section.name, "error": str(error)})
            return None
        except DamagedState as error:
            self._damaged.add(error.file)
            found = {"section": section.name, "error": str(error), "copy": str(_copy_of(error.file))}
            log.warning("learned_state_set_aside", extra=found)
            return None
        if value is not None:
            self._on_disk.add(section.name)
        return value

    def save(self, section: StateSection[_T], value: _T) -> None:
        """Write the section soon."""
        if self._folder is not None:
            folder, content = self._folder, section.form.dump_python(value, mode="json")
            self._saver.save(section.name, lambda: self._write(folder, section, content))

    def removed(self, section: StateSection[Any]) -> bool:
        """Whether another process has removed the section from the disk (`limits reset`)."""
        if self._folder is None or section.name not in self._on_disk:
            return False
        try:
            return read_section(self._folder, section) is None
        except (OSError, DamagedState):
            return False

    async def stop(self) -> None:
        """Wait until everything is written."""
        await self._tasks.finish()

    def _write(self, folder: Path, section: StateSection[Any], content: object) -> None:
        while self._damaged:
            damaged = self._damaged.pop()
            with suppress(FileNotFoundError):
                shutil.copyfile(damaged, _copy_of(damaged))
        # Only this section: another one may have been removed meanwhile, and must not come back.
        write_json(folder / FILE, {**(read_json(folder / FILE) or {}), section.name: content})
        (folder / section.former).unlink(missing_ok=True)
        self._on_disk.add(section.name)


def read_section(folder: Path, section: StateSection[_T]) -> _T | None:
    """The section in the state folder, or what version 0.1 left there; None if there is neither.

    Raises:
        OSError: a file cannot be read.
        DamagedState: its content is not ours, or out of range.
    """
    file = folder / FILE
    if (content := (read_document(file) or {}).get(section.name)) is None:
        file = folder / section.former
        content = read_document(file)
    if content is None:
        return None
    try:
        return section.form.validate_json(to_json(content), strict=True)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        raise DamagedState(file, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def forget(folder: Path, section: StateSection[Any]) -> bool:
    """Remove the section from the disk, or the whole file if it is damaged; tells whether there was anything.

    Raises:
        OSError: a file cannot be written.
    """
    file, former = folder / FILE, folder / section.former
    there = former.exists()
    former.unlink(missing_ok=True)
    document = read_json(file) or {}
    if section.name in document:
        write_json(file, {name: content for name, content in document.items() if name != section.name})
        return True
    if not document and file.exists():
        file.unlink()
        return True
    return there


def _copy_of(file: Path) -> Path:
    return file.with_name(f"{file.name}.bad")
