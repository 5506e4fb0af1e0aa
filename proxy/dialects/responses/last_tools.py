"""Pure. Remembers the tools of conversations, so that a compaction keeps the prompt that it compacts.

Codex compacts with the whole history, one more message and no tools. As templates put tools first, its prompt
would share nothing with the conversation's after them (26 % by measure), and the longest prompts of all would
be processed anew. With the same tools it shares everything.
"""

from __future__ import annotations

from collections.abc import Hashable

import orjson
from pydantic import TypeAdapter

from proxy.dialects.responses.forms import MessageItem, ResponsesForm, TextContent, ToolForm

#: Conversations whose tools are remembered, as JSON. Codex's take some 20 KB each.
_REMEMBERED = 256
#: Larger ones are not remembered, so that all together take at most 64 MB, whatever clients send.
_LARGEST_BYTES = 256 * 1024
#: What the last message of a compaction has in it.
_COMPACTION = "CONTEXT CHECKPOINT COMPACTION"

_TOOLS = TypeAdapter(list[ToolForm])


class LastTools:
    """The last tools of each conversation, the latest conversations only. One per gateway."""

    def __init__(self) -> None:
        self._tools: dict[Hashable, bytes] = {}

    def restored(self, form: ResponsesForm, conversation: Hashable) -> ResponsesForm:
        """The request, with its conversation's tools if it is a compaction; its own are remembered."""
        if form.tools:
            self._remember(form.tools, conversation)
            return form
        if not is_compaction(form) or conversation not in self._tools:
            return form
        tools = _TOOLS.validate_json(self._tools[conversation])
        return form.model_copy(update={"tools": tools, "tool_choice": None})

    def _remember(self, tools: list[ToolForm], conversation: Hashable) -> None:
        self._tools.pop(conversation, None)
        packed = orjson.dumps([tool.model_dump() for tool in tools])
        if len(packed) <= _LARGEST_BYTES:
            self._tools[conversation] = packed
            while len(self._tools) > _REMEMBERED:
                del self._tools[next(iter(self._tools))]


def is_compaction(form: ResponsesForm) -> bool:
    """Whether Codex asks for a summary of the conversation: the user's last message says so."""
    last = form.input[-1] if form.input else None
    if not isinstance(last, MessageItem):
        return False
    return any(isinstance(part, TextContent) and _COMPACTION in part.text for part in last.content)
