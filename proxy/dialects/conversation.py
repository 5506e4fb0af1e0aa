"""Pure. Builds the messages of a chat request in the order and shape that strict chat templates accept.

Real templates refuse much that the two dialects allow: a system message that is not the first, two messages
of the user in a row, a message between the results of parallel calls. What is built here has none of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from proxy.request.images import ImagePolicy, image_part
from proxy.request.messages import Message

#: Stands between texts that were parts of one message, or messages of their own.
_GAP = "\n\n"
#: Told to the model in place of an image that it cannot be shown.
NO_IMAGE = "[image: not shown, this model takes no images]"
#: Told in place of the oldest images of a request that has more than the server takes.
_OLD_IMAGE = "[image: not shown, later images take its place]"
#: Told before the images that tools have returned: only a user's message may have images.
_RESULT_IMAGES = "[images returned by the tools]"

Piece = str | dict[str, Any]


def reminder(text: str) -> str:
    """A later system message as the user's text: the form that Claude Code itself falls back to.

    It is never moved to the front: there it would change the beginning of the prompt with each turn.
    """
    return f"<system-reminder>\n{text}\n</system-reminder>"


def image(url: str) -> dict[str, Any]:
    """An image as a piece of the user's message."""
    return image_part(url)


class ConversationBuilder:
    """The messages so far. Each method takes `origin`, the client's own name for where its part came from."""

    def __init__(self, images: ImagePolicy) -> None:
        self._most_images = 0 if images.obstacle is not None else images.most
        self._takes_images = images.obstacle is None
        self._messages: list[Message] = []
        self._origins: list[str] = []
        self._returned: list[dict[str, Any]] = []  # images of the tool results just added

    def instruct(self, text: str, origin: str) -> None:
        """Add a text of the system: to the first message, or once there are others as a reminder."""
        if not text:
            return
        if not self._messages:
            self._add({"role": "system", "content": text}, origin)
        elif len(self._messages) == 1 and self._messages[0]["role"] == "system":
            self._messages[0]["content"] += _GAP + text
        else:
            self.say([reminder(text)], origin)

    def say(self, pieces: Iterable[Piece], origin: str) -> None:
        """Add to what the user says; consecutive messages of the user become one."""
        returned, self._returned = self._returned, []
        if returned:
            returned = [_RESULT_IMAGES, *returned]  # type: ignore[list-item]
        if self._last_role() != "user":
            self._add({"role": "user", "content": []}, origin)
        self._messages[-1]["content"] += [*returned, *(piece for piece in pieces if piece)]

    def answer(
        self, origin: str, *, reasoning: str = "", text: str = "", calls: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Add to what the assistant said; consecutive parts are one generation of the child, so they join
        without a gap. An answer without any content is left out, since some templates refuse one."""
        if not (reasoning or text or calls):
            return
        self._flush(origin)
        if self._last_role() != "assistant":
            self._add({"role": "assistant", "content": ""}, origin)
        message = self._messages[-1]
        message["content"] += text
        if reasoning:
            message["reasoning_content"] = message.get("reasoning_content", "") + reasoning
        if calls:
            message.setdefault("tool_calls", []).extend(calls)

    def result(self, call_id: str, pieces: Sequence[Piece], origin: str) -> None:
        """Add a tool's result. Its images follow in a user's message, after all results of the turn."""
        texts = [piece for piece in pieces if isinstance(piece, str)]
        images = [piece for piece in pieces if not isinstance(piece, str)]
        if self._takes_images:
            self._returned += images
        else:
            texts += [NO_IMAGE] * len(images)
        content = _GAP.join(filter(None, texts))
        self._add({"role": "tool", "tool_call_id": call_id, "content": content}, origin)

    def finish(self) -> tuple[list[Message], list[str]]:
        """The messages, and the origin of each."""
        self._flush(self._origins[-1] if self._origins else "")
        last_turn = 1 + max((i for i, m in enumerate(self._messages) if m["role"] == "assistant"), default=-1)
        allowed = self._most_images
        for index in range(len(self._messages) - 1, -1, -1):
            message = self._messages[index]
            if message["role"] == "user":
                # In its last turn a user is told that an image cannot be taken; in an older one the same
                # error would come back with each request.
                strict = index >= last_turn
                message["content"], allowed = self._settled(message["content"], allowed, strict=strict)
        return self._messages, self._origins

    def _settled(self, pieces: list[Piece], allowed: int, *, strict: bool) -> tuple[Any, int]:
        """The content of a user's message with at most `allowed` images, and how many are left for others."""
        kept: list[Piece] = []
        for piece in reversed(pieces):
            if isinstance(piece, str) or strict or allowed > 0:
                kept.append(piece)
            else:
                kept.append(_OLD_IMAGE if self._takes_images else NO_IMAGE)
            allowed -= not isinstance(piece, str)
        kept.reverse()
        texts = [piece for piece in kept if isinstance(piece, str)]
        if len(texts) == len(kept):
            return _GAP.join(texts), allowed
        return [{"type": "text", "text": p} if isinstance(p, str) else p for p in kept], allowed

    def _flush(self, origin: str) -> None:
        if self._returned:
            self.say((), origin)

    def _last_role(self) -> str:
        return self._messages[-1]["role"] if self._messages else ""

    def _add(self, message: Message, origin: str) -> None:
        self._messages.append(message)
        self._origins.append(origin)
