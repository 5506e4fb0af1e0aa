"""Makes a chat template's lookups quick, with the same outcome. For worker processes: changes jinja2 there.

Templates say `message.role`, and Jinja's sandbox looks for an attribute first, by an exception that is
raised for every field of every message: half the time of rendering a long conversation.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from jinja2.runtime import LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment

#: What a plain dict has as attributes; every other name can only be one of its keys.
_OF_DICTS = frozenset(dir(dict))
#: Numbers and truths, which neither of these environments finds unsafe on a loop.
_OF_LOOPS = frozenset({"first", "index", "index0", "last"})
_PLAIN = (SandboxedEnvironment, ImmutableSandboxedEnvironment)

_by_attribute_first = SandboxedEnvironment.getattr


def _getattr(self: SandboxedEnvironment, obj: Any, attribute: str) -> Any:
    """`SandboxedEnvironment.getattr`, without what is known to be in vain."""
    kind = type(obj)
    if kind is dict and attribute not in _OF_DICTS:
        if attribute in obj:
            return obj[attribute]
        return self.undefined(None, obj, attribute)
    if kind is LoopContext and attribute in _OF_LOOPS and type(self) in _PLAIN:
        return getattr(obj, attribute)
    return _by_attribute_first(self, obj, attribute)


@contextlib.contextmanager
def fast_lookups() -> Iterator[None]:
    """In the block, every sandbox of this process looks up quickly. For one thread."""
    SandboxedEnvironment.getattr = _getattr  # type: ignore[method-assign]
    try:
        yield
    finally:
        SandboxedEnvironment.getattr = _by_attribute_first  # type: ignore[method-assign]
