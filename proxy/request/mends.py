"""Pure. The kinds of mends, their count, and the mending of odd characters and numbers."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

_REPLACEMENT = "\ufffd"
_SURROGATES = re.compile("[\ud800-\udfff]")


class Mend(StrEnum):
    """What was mended. The values are the labels of the metric and the names in the header."""

    NUL = "nul_replaced"  # NUL characters became U+FFFD
    SURROGATE = "surrogate_replaced"  # halves of surrogate pairs became U+FFFD
    NUMBER = "number_to_null"  # NaN, Infinity and numbers beyond a double became null
    ARGUMENTS = "arguments_kept_as_text"  # arguments of a past call that are no JSON
    UNQUOTED = "arguments_unquoted"  # arguments that were JSON text inside of JSON text
    CALL = "call_converted"  # a past call in another protocol's form
    CALL_OMITTED = "call_omitted"  # a past call without a name
    CONTENT = "content_to_text"  # content that is an object, a number or a boolean
    PART = "part_converted"  # reasoning, tool use and tool results as parts of content
    PART_OMITTED = "part_omitted"  # audio, files and unknown parts in the history
    IMAGE = "image_omitted"  # images in the history that the model cannot take
    ROLE = "role_renamed"  # function, model, ai and human
    NAME = "name_mended"  # ids and names of another type
    TOOL = "tool_converted"  # a tool in another protocol's form
    TOOL_OMITTED = "tool_omitted"  # a tool that the model cannot call
    CHOICE = "tool_choice_converted"  # tool_choice in another protocol's form
    SYSTEM = "system_message_moved"  # a system message where the template takes none, or loses it
    TURNS = "turns_mended"  # turns in an order that the template refuses
    RESULT = "result_as_text"  # a tool result whose call is gone
    CALL_ID = "call_id_shortened"  # call ids that the template refuses
    TOOL_FIELD = "tool_field_added"  # a description or parameters that the template needs


@dataclass(slots=True)
class Mends:
    """The mends of one request, by kind, and the names of the tools that were left out."""

    counts: Counter[Mend] = field(default_factory=Counter)
    omitted_tools: list[str] = field(default_factory=list)

    def header(self) -> str:
        """`image_omitted=1, nul_replaced=3`: kinds in alphabetical order."""
        return ", ".join(f"{kind}={count}" for kind, count in sorted(self.counts.items()) if count)


def loads_leniently(body: bytes, mends: Mends) -> Any:
    """The body as the server's own parser reads it, where the strict one refuses it.

    Python's json takes half of a surrogate pair, NaN, Infinity and numbers beyond a double. None of them can
    be sent on: the first become U+FFFD, the others null.

    Raises:
        ValueError: it is no JSON, or no UTF-8.
        RecursionError: it is nested too deeply.
    """

    def constant(_: str) -> None:
        mends.counts[Mend.NUMBER] += 1

    def number(text: str) -> float | None:
        value = float(text)
        if math.isfinite(value):
            return value
        constant(text)
        return None

    value = json.loads(body.decode("utf-8"), parse_constant=constant, parse_float=number)
    return replaced(value, _SURROGATES.search, _without_surrogates, Mend.SURROGATE, mends)


def has_nul(text: str) -> bool:
    return "\0" in text


def without_nuls(text: str) -> str:
    return text.replace("\0", _REPLACEMENT)


def _without_surrogates(text: str) -> str:
    return _SURROGATES.sub(_REPLACEMENT, text)


def replaced(
    value: Any, odd: Callable[[str], object], cure: Callable[[str], str], kind: Mend, mends: Mends
) -> Any:
    """`value` with every odd string in it replaced, keys included. Iterative: depth is checked later."""
    root = [value]
    stack: list[Any] = [root]
    while stack:
        parent = stack.pop()
        items: list[tuple[Any, Any]]
        items = list(parent.items()) if type(parent) is dict else list(enumerate(parent))
        if type(parent) is dict and any(odd(name) for name in parent):
            parent.clear()
            items = [(cure(name), child) for name, child in items]
            parent.update(items)
            mends.counts[kind] += 1
        for place, child in items:
            if type(child) is str:
                if odd(child):
                    parent[place] = cure(child)
                    mends.counts[kind] += 1
            elif type(child) is dict or type(child) is list:
                stack.append(child)
    return root[0]


def json_text(value: Any) -> str:
    """`value` as JSON, integers of any size included."""
    return json.dumps(value, ensure_ascii=False)
