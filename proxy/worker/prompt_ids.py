"""The token ids of prompts, at the price of what is new in them, and where the server cuts them. For workers.

The server reads a prompt in up to three segments and keeps what it has read after each in its prompt cache
(`ResponseGenerator._tokenize` and `_generate` of mlx_lm/server.py); the mirror must know them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.cache.radix_tree import GrowthKind, Ids
from proxy.worker.segments import common
from proxy.worker.server_tokenizer import ServerTokenizer

#: A tail of a prompt that opens a thought is kept apart; it is searched for among this many last tokens.
_THINKING_TAIL = 11


@dataclass(frozen=True, slots=True)
class SegmentEnd:
    """The end of a segment, in tokens of the prompt, and what the cache calls what was read up to there."""

    end: int
    kind: GrowthKind


class PromptIds:
    """Of one tokenizer. A prompt here is the fields of a request body that make it, without images."""

    def __init__(self, tokenizer: ServerTokenizer) -> None:
        self._tokenizer = tokenizer

    def of(self, prompt: dict[str, Any]) -> Ids:
        """For reading only. Raises what the template or the tokenizer raises."""
        segments = self._tokenizer.segments
        found = segments.ids(self._tokenizer.render(prompt)) if segments and "messages" in prompt else None
        return array("i", self._tokenizer.encode(prompt)) if found is None else found

    def cuts(self, prompt: dict[str, Any], ids: Ids) -> list[SegmentEnd]:
        """Where the server cuts the prompt whose tokens are `ids`; the last cut is its end."""
        wrapper, end = self._tokenizer.wrapper, len(ids)
        messages = prompt.get("messages") or [{}]
        if not wrapper.has_chat_template or messages[-1].get("role") != "user":
            return [SegmentEnd(end, "assistant")]
        system_end, tail = self._system_end(prompt, ids), self._tail(ids)
        cuts = [SegmentEnd(system_end, "system")] if 0 < system_end < end else []
        if system_end < tail:
            cuts.append(SegmentEnd(tail, "user"))
        if tail < end:
            cuts.append(SegmentEnd(end, "assistant"))
        return cuts or [SegmentEnd(end, "assistant")]

    def texts(self, prompt: dict[str, Any]) -> list[str]:
        """What a completion with the same tokens may say: encoding puts some first tokens there itself."""
        text, first = self._tokenizer.render(prompt), getattr(self._tokenizer.wrapper, "bos_token", None)
        return [text, text.removeprefix(first)] if first and text.startswith(first) else [text]

    def ends(self) -> list[str]:
        """The text of a token that merges with none before it, if there is one."""
        end = getattr(self._tokenizer.wrapper, "eos_token", None)
        return [end] if end else []

    def _system_end(self, prompt: dict[str, Any], ids: Ids) -> int:
        system = system_messages(prompt["messages"])
        if not system:
            return 0
        opened = self.of({**prompt, "messages": [*system, {"role": "user", "content": ""}]})
        return common(opened, ids)

    def _tail(self, ids: Ids) -> int:
        wrapper = self._tokenizer.wrapper
        if not wrapper.has_thinking:
            return len(ids)
        start = wrapper.rfind_think_start(ids, start=max(0, len(ids) - _THINKING_TAIL))
        return start if start >= 0 else len(ids)


def system_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those at the start."""
    count = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return list(messages[:count])


def kept(cuts: Sequence[SegmentEnd], cached: int) -> list[SegmentEnd]:
    """What the server keeps while it reads a prompt of which `cached` tokens came from its cache.

    It reads the last token by itself: the last segment is kept without it, and nothing at the very end.
    """
    left = [cut for cut in cuts if cut.end > cached]
    if not left:
        return []
    last, before = left[-1], left[-2].end if len(left) > 1 else cached
    end = [SegmentEnd(last.end - 1, last.kind)] if last.end - before > 1 else []
    return [*left[:-1], *end]
