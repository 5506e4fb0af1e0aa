"""The token ids of prompts, at the price of what is new in them, and where the server cuts them. For workers.

The server reads a prompt in up to three segments and keeps what it has read after each in its prompt cache
(`ResponseGenerator._tokenize` and `_generate` of mlx_lm/server.py); the mirror must know them.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from proxy.child_tokenizer import ChildTokenizer
from proxy.core.paths import Ids, Kind
from proxy.segments import Encode, common, split

#: Token ids of segments that are kept: twice this, 16 MB. A session of 100,000 tokens takes 0.4 MB.
_REMEMBERED = 2_000_000
#: A tail of a prompt that opens a thought is kept apart; it is searched for among this many last tokens.
_THINKING_TAIL = 11


@dataclass(frozen=True, slots=True)
class Cut:
    """The end of a segment, in tokens of the prompt, and what the cache calls what was read up to there."""

    end: int
    kind: Kind


class ChildIds:
    """Of one tokenizer. A prompt here is the fields of a request body that make it, without images."""

    def __init__(self, tokenizer: ChildTokenizer, *, remembered: int = _REMEMBERED) -> None:
        self._tokenizer = tokenizer
        self._remembered = remembered
        # Two generations, as in segments.py, by the interpreter's keyed hash of the segment's text.
        self._young: dict[int, Ids] = {}
        self._old: dict[int, Ids] = {}
        self._held = 0
        if tokenizer.segments is not None:
            # A prompt is counted first, so what it has of new segments is encoded once for both.
            tokenizer.segments.encode = self._remembering(tokenizer.segments.encode)

    def of(self, prompt: dict[str, Any]) -> Ids:
        """Raises what the template or the tokenizer raises."""
        segments = self._tokenizer.segments
        if segments is None or "messages" not in prompt:
            return array("i", self._tokenizer.encode(prompt))
        texts = split(self._tokenizer.render(prompt), segments.separators)
        new = [text for text in texts if not self._known(hash(text))]
        if new:
            segments.encode(new)
        ids = array("i")
        for text in texts:
            ids += self._young[hash(text)] if hash(text) in self._young else self._old[hash(text)]
        return ids

    def cuts(self, prompt: dict[str, Any], ids: Ids) -> list[Cut]:
        """Where the server cuts the prompt whose tokens are `ids`; the last cut is its end."""
        wrapper, end = self._tokenizer.wrapper, len(ids)
        messages = prompt.get("messages") or [{}]
        if not wrapper.has_chat_template or messages[-1].get("role") != "user":
            return [Cut(end, "assistant")]
        system_end, tail = self._system_end(prompt, ids), self._tail(ids)
        cuts = [Cut(system_end, "system")] if 0 < system_end < end else []
        if system_end < tail:
            cuts.append(Cut(tail, "user"))
        if tail < end:
            cuts.append(Cut(end, "assistant"))
        return cuts or [Cut(end, "assistant")]

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

    def _remembering(self, encode: Encode) -> Encode:
        """The same, and what it encodes is remembered."""

        def encode_and_remember(texts: Sequence[str]) -> list[Sequence[int]]:
            if self._held > self._remembered:
                self._young, self._old, self._held = {}, self._young, 0
            encoded = encode(texts)
            for text, found in zip(texts, encoded, strict=True):
                self._young[hash(text)] = array("i", found)
                self._held += len(found)
            return encoded

        return encode_and_remember

    def _known(self, key: int) -> bool:
        """Whether the ids are there, and if so, among the young."""
        if key in self._young:
            return True
        ids = self._old.get(key)
        if ids is None:
            return False
        self._young[key] = ids
        self._held += len(ids)
        return True


def system_messages(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those at the start."""
    count = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    return list(messages[:count])


def kept(cuts: Sequence[Cut], cached: int) -> list[Cut]:
    """What the server keeps while it reads a prompt of which `cached` tokens came from its cache.

    It reads the last token by itself: the last segment is kept without it, and nothing at the very end.
    """
    left = [cut for cut in cuts if cut.end > cached]
    if not left:
        return []
    last, before = left[-1], left[-2].end if len(left) > 1 else cached
    end = [Cut(last.end - 1, last.kind)] if last.end - before > 1 else []
    return [*left[:-1], *end]
