"""Pure. Merges values into YAML text in block style: comments, order and layout stay."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from proxy.clients.merging import NotMergeable, is_entries, overlaid, same_entry

#: Text that means itself without quotes: it is no number, no switch and no date.
_PLAIN = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*(:[A-Za-z0-9_./-]+)*")
_Edit = tuple[int, int, str]


def render(values: Any) -> str:
    """The text of a new file: mappings and lists in blocks, lists of plain values in one line."""
    return "\n".join(_block(values)) + "\n"


def parse(text: str) -> Any:
    """The data; None for a text without any. Raises NotMergeable."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise NotMergeable("it is not YAML") from error


def merge(text: str, values: Any) -> str:
    """The text with the values laid over it. Raises NotMergeable."""
    before = parse(text)
    separated = text if not text or text.endswith("\n") else text + "\n"
    if before is None:
        return separated + render(values)
    root = yaml.compose(separated, Loader=yaml.SafeLoader)
    merged = separated
    in_order = sorted(_edits(separated, root, values, 0), key=lambda edit: edit[0])
    for start, end, new in reversed(in_order):
        merged = merged[:start] + new + merged[end:]
    if parse(merged) != overlaid(before, values):
        raise NotMergeable("its layout is unusual")
    return merged


def _edits(text: str, node: yaml.Node, value: Any, column: int) -> Iterator[_Edit]:
    """`column`: the indentation of the key that the node belongs to."""
    if isinstance(value, dict) and isinstance(node, yaml.MappingNode) and not node.flow_style:
        known = {key.value: child for key, child in node.value}
        indent = node.start_mark.column
        for key, new in value.items():
            if key in known:
                yield from _edits(text, known[key], new, indent)
        missing = {key: new for key, new in value.items() if key not in known}
        if missing:
            yield _insertion(text, node, _block(missing), indent)
    elif is_entries(value) and isinstance(node, yaml.SequenceNode) and not node.flow_style:
        entries = [(child, _data(text, child)) for child in node.value]
        for new in value:
            old = next((child for child, data in entries if same_entry(data, new)), None)
            if old is None:
                yield _insertion(text, node, _block([new]), node.start_mark.column)
            else:
                yield from _edits(text, old, new, node.start_mark.column)
    elif _data(text, node) != value:
        if isinstance(value, dict) or is_entries(value):
            if isinstance(node, yaml.CollectionNode) and node.value:
                raise NotMergeable("it is written in one line where several are needed")
            lines = "".join(f"\n{' ' * (column + 2)}{line}" for line in _block(value))
        else:
            lines = _scalar(value)
        gap = "" if text[node.start_mark.index - 1 : node.start_mark.index] in {" ", ""} else " "
        yield node.start_mark.index, node.end_mark.index, lines if lines[0] == "\n" else gap + lines


def _insertion(text: str, node: yaml.Node, lines: list[str], indent: int) -> _Edit:
    """New lines after the last one of a node."""
    last = node
    while isinstance(last, yaml.CollectionNode) and last.value and not last.flow_style:
        last = last.value[-1][1] if isinstance(last, yaml.MappingNode) else last.value[-1]
    end = last.end_mark.index
    if text[end - 1 : end] != "\n":
        end = text.index("\n", end) + 1
    return end, end, "".join(f"{' ' * indent}{line}\n" for line in lines)


def _data(text: str, node: yaml.Node) -> Any:
    """The data of a node."""
    loader = yaml.SafeLoader(text)
    try:
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise NotMergeable("it has anchors or tags") from error


def _block(value: Any) -> list[str]:
    """The lines of a mapping or list."""
    lines = []
    if isinstance(value, list):
        for item in value:
            first, *rest = _block(item) if isinstance(item, dict) else [_scalar(item)]
            lines += [f"- {first}", *(f"  {line}" for line in rest)]
        return lines
    for key, item in value.items():
        if isinstance(item, dict) or is_entries(item):
            lines += [f"{key}:", *(f"  {line}" for line in _block(item))]
        else:
            lines.append(f"{key}: {_scalar(item)}")
    return lines


def _scalar(value: Any) -> str:
    """A plain value; JSON's strings and lists are YAML's too."""
    if isinstance(value, str) and _PLAIN.fullmatch(value) and parse(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)
