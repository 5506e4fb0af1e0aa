"""Pure. Remembers the tools of conversations, so that a compaction keeps the prompt that it compacts.

Codex compacts with the whole history, one more message and no tools. As templates put tools first, its prompt
would share nothing with the conversation's after them (26 % by measure), and the longest prompts of all would
be processed anew. With the same tools it shares everything.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from proxy.dialects.responses.forms import MessageItem, ResponsesForm, TextContent, ToolForm

#: Conversations whose tools are remembered; Codex's take some 20 KB each.
_REMEMBERED = 256
#: What the last message of a compaction has in it.
_COMPACTION = "CONTEXT CHECKPOINT COMPACTION"


class LastTools:
    """The last tools of each conversation, the latest conversations only. One per gateway."""

    def __init__(self) -> None:
        self._tools: dict[Hashable, Sequence[ToolForm]] = {}

    def restored(self, form: ResponsesForm, conversation: Hashable) -> ResponsesForm:
        """The request, with its conversation's tools if it is a compaction; its own are remembered."""
        if form.tools:
            self._tools.pop(conversation, None)
            self._tools[conversation] = form.tools
            while len(self._tools) > _REMEMBERED:
                del self._tools[next(iter(self._tools))]
            return form
        if not is_compaction(form) or conversation not in self._tools:
            return form
        return form.model_copy(update={"tools": list(self._tools[conversation]), "tool_choice": None})


def is_compaction(form: ResponsesForm) -> bool:
    """Whether Codex asks for a summary of the conversation: the user's last message says so."""
    last = form.input[-1] if form.input else None
    if not isinstance(last, MessageItem):
        return False
    return any(isinstance(part, TextContent) and _COMPACTION in part.text for part in last.content)
