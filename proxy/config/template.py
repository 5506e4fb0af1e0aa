"""Writes proxy.toml from the schema: every key with its default and description."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from proxy.config.settings import SECTIONS, Section

#: Longest line, in characters.
_WIDTH = 110
#: Column of the comments, unless a value is too long.
_COMMENT_COLUMN = 34

#: How "not set" is written; for text it is the empty string.
_UNSET = {"max_kv_size": "0"}

_HEAD = """\
# Settings of mlxguard-proxy. Every key is here with its default; remove the "# " to change one.
# Sizes: 24GB (powers of 1000), 24GiB (of 1024), 0.75 (of this machine's RAM) or bytes. Times: seconds.
# Paths are relative to this file. "auto": chosen for the model and the machine at start-up.
# Other ways: MLXGUARD_SERVER__PORT=9000 in the environment, or --set server.port=9000.
# To check this file and see what will run: mlxguard-proxy check
"""


def render(values: Mapping[str, object]) -> str:
    """The text of a proxy.toml that sets `values` (`server.port` -> value); all else is a comment."""
    sections = (_section(name, schema, values) for name, schema in SECTIONS.items())
    return "\n".join([_HEAD, *sections])


def _section(name: str, schema: type[Section], values: Mapping[str, object]) -> str:
    lines = [f"# {schema.__doc__}", f"[{name}]"]
    for key, field in schema.model_fields.items():
        setting = f"{name}.{key}"
        value = _toml(key, values.get(setting, field.default))
        assignment = f"{key} = {value}" if setting in values else f"# {key} = {value}"
        lines += _commented(assignment, field.description or "")
    return "\n".join(lines) + "\n"


def _commented(assignment: str, description: str) -> Iterator[str]:
    """The assignment and its description, on one line or, if that is too long, above it."""
    line = f"{assignment:<{_COMMENT_COLUMN}}  # {description}"
    if len(assignment) <= _COMMENT_COLUMN and len(line) <= _WIDTH:
        yield line
    else:
        yield f"# {description}"
        yield assignment


def _toml(key: str, value: object) -> str:
    """A value in TOML as a person would write it: sizes with a unit, seconds without a zero fraction."""
    if value is None:
        return _UNSET.get(key, '""')
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and key.endswith("_bytes"):
        return _size(value)
    if isinstance(value, int | float):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(key, item) for item in value)}]"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


def _size(value: int) -> str:
    for power, unit in ((12, "TB"), (9, "GB"), (6, "MB")):
        if value and value % 10**power == 0:
            return f'"{value // 10**power}{unit}"'
    return str(value)
