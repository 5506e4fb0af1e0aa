"""Token ids of prompts, at the cost of what is new in them, and the segments in which the server reads.

The server reads a prompt in up to three segments, and stores what it has read after each in its prompt cache
(`ResponseGenerator._tokenize` and `_generate` of mlx_lm/server.py). The cache simulator must know them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.cache.radix_tree import EntryKind, Ids
from proxy.worker.segments import common_prefix
from proxy.worker.server_tokenizer import ServerTokenizer

#: A tail of the prompt that opens a thought is a segment; the server searches this many last tokens for it.
_THINKING_TAIL = 11


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """The end of a segment in tokens of the prompt, and the kind of cache entry that is stored there."""

    end: int
    kind: EntryKind


class PromptIds:
    """Ids and segments by one tokenizer. Prompts are the fields of a request body that determine them."""

    def __init__(self, tokenizer: ServerTokenizer) -> None:
        self._tokenizer = tokenizer

    def of(self, prompt: dict[str, Any]) -> Ids:
        """The token ids, read-only, of a prompt without images. Raises what tokenizer and template raise."""
        segments = self._tokenizer.segments
        found = segments.ids(self._tokenizer.render(prompt)) if segments and "messages" in prompt else None
        return array("i", self._tokenizer.encode(prompt)) if found is None else found

    def segment_ends(self, prompt: dict[str, Any], ids: Ids) -> list[SegmentEnd]:
        """The segments of the prompt whose tokens are `ids`; the last one ends with the prompt."""
        wrapper, end = self._tokenizer.wrapper, len(ids)
        messages = prompt.get("messages") or [{}]
        if not wrapper.has_chat_template or messages[-1].get("role") != "user":
            return [SegmentEnd(end, "assistant")]
        system_end, tail = self._system_end(prompt, ids), self._tail(ids)
        ends = [SegmentEnd(system_end, "system")] if 0 < system_end < end else []
        if system_end < tail:
            ends.append(SegmentEnd(tail, "user"))
        if tail < end:
            ends.append(SegmentEnd(end, "assistant"))
        return ends or [SegmentEnd(end, "assistant")]

    def texts(self, prompt: dict[str, Any]) -> list[str]:
        """Texts whose completion may have the same tokens; encoding adds some first tokens by itself."""
        text, first = self._tokenizer.render(prompt), getattr(self._tokenizer.wrapper, "bos_token", None)
        return [text, text.removeprefix(first)] if first and text.startswith(first) else [text]

    def ends(self) -> list[str]:
        """Texts of tokens that never merge with the token before; empty if none is known."""
        end = getattr(self._tokenizer.wrapper, "eos_token", None)
        return [end] if end else []

    def _system_end(self, prompt: dict[str, Any], ids: Ids) -> int:
        system = system_messages(prompt["messages"])
        if not system:
            return 0
        opened = self.of({**prompt, "messages": [*system, {"role": "user", "content": ""}]})
        return common_prefix(opened, ids)

    def _tail(self, ids: Ids) -> int:
        wrapper = self._tokenizer.wrapper
        if not wrapper.has_thinking:
            return len(ids)
        start = wrapper.rfind_think_start(ids, start=max(0, len(ids) - _THINKING_TAIL))
        return start if start >= 0 else len(ids)


def system_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The system messages at the start."""
    count = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return list(messages[:count])


def stored_ends(segments: Sequence[SegmentEnd], cached: int) -> list[SegmentEnd]:
    """What the server stores while it reads a prompt, if `cached` of its tokens came from its cache.

    It reads the last token by itself, so the last segment is stored without it, and nothing at the very end.
    """
    left = [segment for segment in segments if segment.end > cached]
    if not left:
        return []
    last, before = left[-1], left[-2].end if len(left) > 1 else cached
    end = [SegmentEnd(last.end - 1, last.kind)] if last.end - before > 1 else []
    return [*left[:-1], *end]
