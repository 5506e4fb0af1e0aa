"""Speeds up attribute lookups in chat templates, with the same results, by patching jinja2's sandbox.

Templates say `message.role`, and the sandbox first looks for an attribute, which raises an exception for
every field of every message: half of the time of rendering a long conversation.

Tested with jinja2 3.1.4, 3.1.5 and 3.1.6: tests/proxy/worker/test_jinja_speedup.py compares every kind of
lookup with the original. Run it against a new release, since this module replaces
`SandboxedEnvironment.getattr`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

#: Attributes of a plain dict; every other name can only be a key.
_DICT_ATTRIBUTES = frozenset(dir(dict))
#: Attributes of a loop that are numbers or booleans; neither of these environments finds them unsafe.
_LOOP_ATTRIBUTES = frozenset({"first", "index", "index0", "last"})
#: Environments whose `is_safe_attribute` is known.
_PLAIN = (SandboxedEnvironment, ImmutableSandboxedEnvironment)

_original_getattr = SandboxedEnvironment.getattr


def _getattr(self: SandboxedEnvironment, obj: Any, attribute: str) -> Any:
    """`SandboxedEnvironment.getattr` without the lookups that are known to fail."""
    kind = type(obj)
    if kind is dict and attribute not in _DICT_ATTRIBUTES:
        if attribute in obj:
            return obj[attribute]
        return self.undefined(None, obj, attribute)
    if kind is LoopContext and attribute in _LOOP_ATTRIBUTES and type(self) in _PLAIN:
        return getattr(obj, attribute)
    return _original_getattr(self, obj, attribute)


@contextlib.contextmanager
def fast_lookups() -> Iterator[None]:
    """Patch every sandbox of this process within the block. Not thread-safe."""
    SandboxedEnvironment.getattr = _getattr  # type: ignore[method-assign]
    try:
        yield
    finally:
        SandboxedEnvironment.getattr = _original_getattr  # type: ignore[method-assign]
