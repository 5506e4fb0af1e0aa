"""Pure. Merges values into JSON text as people write it: comments, trailing commas and layout stay.

Editors and agents (Zed, OpenCode, Qwen Code) allow comments in their settings, which a parser of plain JSON
would refuse and a writer would lose.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from proxy.clients.merging import NotMergeable, is_entries, overlaid, same_entry

_INDENT = "  "

#: An object or list with at most this many members, and this many characters, is written on one line.
_SHORT, _WIDTH = 3, 90
_TOKEN = re.compile(
    r"""
    (?P<space> \s+ | //[^\n]* | /\*.*?\*/ )
  | (?P<string> "(?:\\.|[^"\\\n])*" )
  | (?P<mark> [\[\]{},:] )
  | (?P<literal> [^\s"\[\]{},:/]+ )
    """,
    re.VERBOSE | re.DOTALL,
)

#: An edit: the span that is replaced, and the new text.
_Edit = tuple[int, int, str]


def render(values: Any) -> str:
    """The text of a new file."""
    return _pretty(values, "") + "\n"


def parse(text: str) -> Any:
    """The data of JSON with comments and trailing commas; None if there is none. Raises NotMergeable."""
    root = _Reader(text).document()
    return None if root is None else root.value


def merge(text: str, values: dict[str, Any]) -> str:
    """The text with the values laid over it. Raises NotMergeable."""
    root = _Reader(text).document()
    if root is None:
        return text + render(values)
    merged = text
    in_order = sorted(_edits(text, root, values), key=lambda edit: edit[0])
    for start, end, new in reversed(in_order):
        merged = merged[:start] + new + merged[end:]
    if parse(merged) != overlaid(root.value, values):
        raise NotMergeable("its layout is unusual")
    return merged


@dataclass(slots=True)
class _JsonNode:
    """A value with its place in the text."""

    start: int
    end: int = 0
    value: Any = None
    members: dict[str, _JsonNode] = field(default_factory=dict)
    items: list[_JsonNode] = field(default_factory=list)
    comma: int | None = None  # the end of a comma after the last child

    def last(self) -> _JsonNode | None:
        """The last child in the text."""
        children = [*self.members.values(), *self.items]
        return max(children, key=lambda child: child.end) if children else None


class _Reader:
    """Reads a document into nodes."""

    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def document(self) -> _JsonNode | None:
        """The only value of the text, or None if it has none."""
        if self._peek() == "":
            return None
        try:
            root = self._value()
        except (ValueError, RecursionError) as error:
            raise NotMergeable("it is not JSON, not even with comments") from error
        if self._peek():
            raise NotMergeable("there is something after its JSON")
        return root

    def _peek(self) -> str:
        """The next token; "" at the end."""
        while match := _TOKEN.match(self._text, self._at):
            if match.lastgroup != "space":
                return match[0]
            self._at = match.end()
        if self._at < len(self._text):
            raise NotMergeable("it is not JSON, not even with comments")
        return ""

    def _take(self, expected: str = "") -> str:
        token = self._peek()
        if not token or (expected and token != expected):
            raise ValueError(token)
        self._at += len(token)
        return token

    def _value(self) -> _JsonNode:
        token = self._peek()
        node = _JsonNode(self._at)
        if token == "{":
            node.value = {}
            for _ in self._children(node, "{", "}"):
                key = json.loads(self._take())
                if not isinstance(key, str):
                    raise ValueError(key)
                self._take(":")
                child = self._value()
                node.members[key], node.value[key] = child, child.value
        elif token == "[":
            for _ in self._children(node, "[", "]"):
                node.items.append(self._value())
            node.value = [item.value for item in node.items]
        else:
            node.value = json.loads(self._take())
        node.end = self._at
        return node

    def _children(self, node: _JsonNode, opening: str, closing: str) -> Iterator[None]:
        """Once per child, which the caller reads."""
        self._take(opening)
        while self._peek() != closing:
            node.comma = None
            yield
            if self._peek() != closing:
                self._take(",")
                node.comma = self._at
        self._take(closing)


def _edits(text: str, node: _JsonNode, value: Any) -> Iterator[_Edit]:
    if isinstance(value, dict) and isinstance(node.value, dict):
        missing = {}
        for key, new in value.items():
            if key in node.members:
                yield from _edits(text, node.members[key], new)
            else:
                missing[key] = new
        pieces = [(f"{json.dumps(key)}: ", new) for key, new in missing.items()]
        yield from _insertions(text, node, pieces)
    elif is_entries(value) and isinstance(node.value, list):
        pieces = []
        for new in value:
            old = next((item for item in node.items if same_entry(item.value, new)), None)
            if old is None:
                pieces.append(("", new))
            else:
                yield from _edits(text, old, new)
        yield from _insertions(text, node, pieces)
    elif node.value != value or type(node.value) is not type(value):
        yield node.start, node.end, _rendered(value, _indent_at(text, node.start))


def _insertions(text: str, node: _JsonNode, pieces: list[tuple[str, Any]]) -> Iterator[_Edit]:
    """Add children after the last one, in its layout."""
    if not pieces:
        return
    last, outer = node.last(), _indent_at(text, node.start)
    if last is None:
        inner = outer + _INDENT
        added = ",".join(f"\n{inner}{name}{_rendered(new, inner)}" for name, new in pieces)
        rest = text[node.start + 1 : node.end - 1]
        yield node.start + 1, node.start + 1, added + ("" if "\n" in rest else f"\n{outer}")
        return
    one_line = "\n" not in text[node.start : node.end]
    inner = " " if one_line else "\n" + _indent_at(text, last.end if last.end else last.start, last.start)
    added = ",".join(
        f"{inner}{name}{_rendered(new, None if one_line else inner[1:])}" for name, new in pieces
    )
    if node.comma is None:
        yield last.end, last.end, ","
    at = last.end if node.comma is None else node.comma
    # A comment at the end of that line is about the child before it.
    comment = re.compile(r"[ \t]*(//[^\n]*|/\*[^\n]*?\*/[ \t]*(?=\n))").match(text, at)
    yield (end := comment.end() if comment else at), end, added + ("," if node.comma is not None else "")


def _indent_at(text: str, at: int, start: int | None = None) -> str:
    """The white space with which the line of a position begins."""
    at = at if start is None else start
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip())]


def _rendered(value: Any, indent: str | None) -> str:
    """JSON whose further lines are indented by `indent`; on one line if that is None."""
    if indent is None:
        return json.dumps(value, ensure_ascii=False)
    return _pretty(value, indent)


def _pretty(value: Any, indent: str) -> str:
    """JSON as people write it: what contains nothing nested and is short stays on one line."""
    compact = json.dumps(value, ensure_ascii=False)
    children = list(value.values() if isinstance(value, dict) else value if isinstance(value, list) else ())
    nested = any(isinstance(child, dict | list) and child for child in children)
    if not children or (not nested and len(children) <= _SHORT and len(compact) <= _WIDTH):
        return compact
    inner = indent + _INDENT
    names = (
        [f"{json.dumps(key, ensure_ascii=False)}: " for key in value]
        if isinstance(value, dict)
        else [""] * len(value)
    )
    rows = [f"{inner}{name}{_pretty(child, inner)}" for name, child in zip(names, children, strict=True)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(rows) + f"\n{indent}{closing}"
