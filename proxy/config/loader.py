"""Finds and reads the settings: proxy.toml, then the environment, then `--set`; later sources win.

Everything is validated together, and every fault is reported at once with its place: `proxy.toml:12`,
`MLXGUARD_SERVER__PORT` or `--set server.port`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from proxy.config import toml_lines
from proxy.config.faults import KEYS, Fault, Key, SettingPlace, hint, key_of, value_faults
from proxy.config.rules import conflicts
from proxy.config.settings import SECTIONS, Settings

#: Read if it exists and no other file is given.
DEFAULT_FILE = Path("proxy.toml")

_FILE, _ENVIRONMENT, _OPTION, _DEFAULT = range(4)
_PREFIX = "MLXGUARD_"

#: Settings that are paths. In a file they are relative to its folder, so that it works from everywhere.
_PATHS = {key for key in KEYS if Path in get_args(SECTIONS[key[0]].model_fields[key[1]].annotation)}


class ConfigurationError(Exception):
    """The settings cannot be used; `faults` has all reasons in the order of their places."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(sorted(faults, key=lambda fault: fault.place))
        super().__init__("\n".join(map(str, self.faults)))


@dataclass(frozen=True, slots=True)
class Loaded:
    """Valid settings; `places`: where each that does not have its default was set.

    `source`: the file that was read, or that there was none; for the log.
    """

    settings: Settings
    source: str
    places: Mapping[Key, SettingPlace]


class _Given(NamedTuple):
    """A setting from one source."""

    key: Key
    value: Any
    place: SettingPlace


def load(path: Path | None, environ: Mapping[str, str], sets: Sequence[str]) -> Loaded:
    """The settings from all sources.

    `path`: None reads ./proxy.toml if it exists. `sets`: options such as `server.port=9000`.

    Raises ConfigurationError with every fault.
    """
    file = path or (DEFAULT_FILE if DEFAULT_FILE.exists() else None)
    items = [*(_from_file(file) if file else ()), *_from_environment(environ), *_from_options(sets)]
    given = {item.key: item for item in items if isinstance(item, _Given)}
    faults = [item for item in items if isinstance(item, Fault)]
    places = {key: item.place for key, item in given.items()}

    errors = _errors(_tree(given.values()))
    faults += value_faults(errors, places)
    doubtful = {fault.about for fault in faults}
    settings = Settings.model_validate(_tree(item for item in given.values() if item.key not in doubtful))
    if not any(fault.unreadable for fault in faults):
        faults += _rule_faults(settings, places, doubtful)
    if faults:
        raise ConfigurationError(faults)
    return Loaded(settings, str(file.absolute()) if file else "no proxy.toml here: defaults", places)


def _from_file(file: Path) -> Iterator[_Given | Fault]:
    try:
        text = file.read_text(encoding="utf-8")
        document = tomllib.loads(text)
    except (OSError, ValueError) as error:
        yield _unreadable(file, error)
        return
    lines = toml_lines.lines(text)

    def place(*path: str) -> SettingPlace:
        line = toml_lines.line_of(lines, path) or 1
        return SettingPlace(_FILE, line, f"{file}:{line}")

    for section, table in document.items():
        if section not in SECTIONS:
            yield _unknown_table(section, table, place(section))
        elif not isinstance(table, dict):
            yield Fault(place(section), f"[{section}] must be a table")
        else:
            for key, value in table.items():
                yield _from_table(file, (section, key), value, place(section, key))


def _unreadable(file: Path, error: OSError | ValueError) -> Fault:
    """The fault of a file that does not exist, is not text or is not TOML."""
    line, message = 0, str(error)
    if isinstance(error, OSError):
        message = error.strerror or message
    elif isinstance(error, UnicodeDecodeError):
        line, message = error.object.count(b"\n", 0, error.start) + 1, "the file is not UTF-8 text"
    elif match := re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|end of document)\)", message):
        line = int(match[2] or file.read_bytes().count(b"\n") + 1)
        message = f"{match[1]} ({f'column {match[3]}' if match[3] else 'at the end'})"
    place = SettingPlace(_FILE, line, f"{file}:{line}" if line else str(file))
    return Fault(place, message, unreadable=True)


def _unknown_table(name: str, value: object, place: SettingPlace) -> Fault:
    if isinstance(value, dict):
        close = difflib.get_close_matches(name, SECTIONS, n=1)
        meant = f"did you mean [{close[0]}]?" if close else f"the tables are {', '.join(SECTIONS)}"
        return Fault(place, f"there is no table [{name}]; {meant}")
    known, meant = hint("", name, lambda key: f"{key[1]} in [{key[0]}]")
    return Fault(place, f"there is no key {name} outside tables{meant}", known)


def _from_table(file: Path, path: Key, value: object, place: SettingPlace) -> _Given | Fault:
    section, key = path
    if path in KEYS:
        return _Given(path, _anchored(file, path, value), place)
    known, meant = hint(section, key, lambda key: key[1] + ("" if key[0] == section else f" in [{key[0]}]"))
    return Fault(place, f"there is no key {key} in [{section}]{meant}", known)


def _anchored(file: Path, path: Key, value: object) -> object:
    """A path relative to the file's folder. A model may be a hub id, so its path must begin with a dot."""
    is_path = path in _PATHS or (path == ("model", "path") and str(value).startswith(("./", "../")))
    if not is_path or not isinstance(value, str) or not value:
        return value
    return str(file.absolute().parent / os.path.expanduser(value))  # noqa: PTH111 - pathlib raises


def _from_environment(environ: Mapping[str, str]) -> Iterator[_Given | Fault]:
    for name, text in environ.items():
        if not name.startswith(_PREFIX):
            continue
        place = SettingPlace(_ENVIRONMENT, 0, name)
        section, _, key = name.removeprefix(_PREFIX).lower().partition("__")
        if (section, key) in KEYS and name == _variable((section, key)):
            yield _Given((section, key), _meant((section, key), text), place)
        else:
            joined = next((known for known in KEYS if "_".join(known) == section), (section, key))
            known, meant = hint(*joined, _variable)
            yield Fault(place, f"there is no such setting{meant}", known)


def _variable(key: Key) -> str:
    return _PREFIX + "__".join(key).upper()


def _from_options(sets: Sequence[str]) -> Iterator[_Given | Fault]:
    for option in sets:
        name, equals, text = option.partition("=")
        place = SettingPlace(_OPTION, 0, f"--set {name}")
        section, key = key_of(name.strip())
        if not equals:
            yield Fault(place, "must be table.key=value, for example server.port=9000")
        elif (section, key) in KEYS:
            yield _Given((section, key), _meant((section, key), text), place)
        else:
            known, meant = hint(section, key, ".".join)
            yield Fault(place, f"there is no such setting{meant}", known)


def _meant(path: Key, text: str) -> object:
    """The value of a text: as TOML, else as a string, else as the only item of a list."""
    candidates: list[object] = [text.strip(), [text.strip()]]
    with suppress(tomllib.TOMLDecodeError):
        document = tomllib.loads(f"value = {text}")
        candidates[:0] = [document["value"]] if len(document) == 1 else []
    section, key = path
    fitting = (value for value in candidates if not _errors({section: {key: value}}))
    return next(fitting, candidates[0])


def _tree(given: Iterable[_Given]) -> dict[str, dict[str, Any]]:
    tree: dict[str, dict[str, Any]] = {}
    for (section, key), value, _ in given:
        tree.setdefault(section, {})[key] = value
    return tree


def _errors(tree: Mapping[str, Mapping[str, object]]) -> list[ErrorDetails]:
    try:
        Settings.model_validate(tree)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _rule_faults(
    settings: Settings, places: Mapping[Key, SettingPlace], doubtful: set[Key | None]
) -> Iterator[Fault]:
    for conflict in conflicts(settings):
        keys = [key_of(name) for name in conflict.settings]
        if doubtful.isdisjoint(keys):
            about = next((key for key in keys if key in places), keys[0])
            place = places.get(about, SettingPlace(_DEFAULT, 0, f"{'.'.join(about)} (default)"))
            yield Fault(place._replace(name=conflict.where or place.name), conflict.message, about)
