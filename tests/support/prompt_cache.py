"""The installed server's own prompt cache, without mlx: importing that changes a process's limits."""

from __future__ import annotations

import ast
import copy
from collections import deque
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Optional

_NAMES = ("can_trim_prompt_cache", "trim_prompt_cache", "PromptTrieResult", "PromptTrie", "LRUPromptCache")


def _source() -> str:
    spec = find_spec("mlx_lm")
    assert spec is not None and spec.origin is not None
    return (Path(spec.origin).parent / "models/cache.py").read_text()


def definitions(*, counting: type[list[int]] | None = None) -> dict[str, Any]:
    """Those of mlx_lm/models/cache.py; with `counting`, the lists that its search copies are of that type."""
    source = _source()
    if counting is not None:
        for old, new in (
            ("[(current, [])]", "[(current, Counting())]"),
            ("[:index] + best", "[:index] + [*best]"),
        ):
            assert source.count(old) == 1, "the search is another now: look at it again"
            source = source.replace(old, new)
    tree = ast.parse(source)
    tree.body = [node for node in tree.body if getattr(node, "name", None) in _NAMES]
    scope: dict[str, Any] = {
        "Any": Any, "List": list, "Optional": Optional, "dataclass": dataclass, "deque": deque, "copy": copy,
        "Counting": counting, "__name__": __name__,
    }  # fmt: skip
    exec(compile(tree, "cache.py", "exec"), scope)
    return scope
