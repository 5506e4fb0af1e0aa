"""Faults in the settings: where they are, in which words, and which name was probably meant."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from typing import Any, NamedTuple

from pydantic_core import ErrorDetails

from proxy.config.settings import RENAMED, SECTIONS

#: Table and key of a setting.
Key = tuple[str, str]

KEYS: tuple[Key, ...] = tuple((name, key) for name, schema in SECTIONS.items() for key in schema.model_fields)

#: Settings whose values are never shown.
_SECRET = {(section, key) for section, key in KEYS if not SECTIONS[section].model_fields[key].repr}

#: Longest value that a fault shows, in characters.
_SHOWN = 60

#: Type of a pydantic error -> what the value must be.
_EXPECTED = {
    "bool_type": "true or false",
    "float_type": "a number",
    "int_type": "a whole number",
    "string_type": "text in quotes",
    "path_type": "a path in quotes",
    "tuple_type": "a list",
    "string_too_short": "text that is not empty",
    "greater_than_equal": "at least {ge}",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "finite_number": "a finite number",
}


class SettingPlace(NamedTuple):
    """Where something was set. Places sort in this order: file, environment, options, defaults."""

    layer: int
    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong with the settings.

    Attributes:
        message: what is wrong, and what would be right.
        about: the setting, if known. Rules that involve it are not checked.
        unreadable: whether a whole file could not be read. Then no rule between settings is checked.
    """

    place: SettingPlace
    message: str
    about: Key | None = None
    unreadable: bool = False

    def __str__(self) -> str:
        return f"{self.place.name}: {self.message}"


def key_of(name: str) -> Key:
    """`server.port` as table and key."""
    section, _, key = name.partition(".")
    return section, key


def nearest(section: str, key: str) -> Key | None:
    """The most similar setting: in the table that was meant, else by its key alone in any table."""
    key = key or section
    meant = difflib.get_close_matches(section, SECTIONS, n=1)
    here = difflib.get_close_matches(key, [k for s, k in KEYS if s in meant], n=1, cutoff=0.7)
    if here:
        return meant[0], here[0]
    elsewhere = difflib.get_close_matches(key, [k for _, k in KEYS], n=1, cutoff=0.85)
    return next((known for known in KEYS if known[1] in elsewhere), None)


def hint(section: str, key: str, spell: Callable[[Key], str]) -> tuple[Key | None, str]:
    """The setting that was meant by an unknown name, if any, and the end of the fault that says so."""
    if (section, key) in RENAMED:
        known = RENAMED[section, key]
        return known, f"; it is now called {spell(known)}"
    meant = nearest(section, key)
    return meant, f"; did you mean {spell(meant)}?" if meant else ""


def value_faults(errors: list[ErrorDetails], places: Mapping[Key, SettingPlace]) -> Iterator[Fault]:
    """Reword pydantic's errors, one fault per value: the branches of a union become one sentence."""
    for (section, key, *item), group in groupby(errors, _value_of):
        about = (str(section), str(key))
        alternatives = list(group)
        expected = " or ".join(dict.fromkeys(map(_expected, alternatives)))
        part = f"item {item[0] + 1} of {key}" if item else key
        shown = "" if about in _SECRET else f", not {_show(alternatives[0]['input'])}"
        yield Fault(places[about], f"{part} must be {expected}{shown}", about)


def _value_of(error: ErrorDetails) -> tuple[Any, ...]:
    """Table, key and list index of an error, without pydantic's names for the branches of a union."""
    section, key, *rest = error["loc"]
    return (section, key, *(part for part in rest if isinstance(part, int)))


def _expected(error: ErrorDetails) -> str:
    context = error.get("ctx", {})
    if error["type"] == "literal_error":
        return str(context["expected"]).replace("'", '"')
    template = _EXPECTED.get(error["type"])
    return template.format(**context) if template else error["msg"]


def _show(value: object) -> str:
    try:
        text = json.dumps(value, ensure_ascii=False)
    except TypeError:  # a date or a time, which JSON does not have
        text = str(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."
