"""Makes a request fit: refuse or cut a prompt over the limit, default and clamp max_tokens.

What is sent was rendered and counted exactly as it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from proxy.errors import InvalidRequest, PromptTooLong
from proxy.prompt import truncation
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.truncation import Conversation
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt

#: Cuts are this share of the limit apart. Far apart keeps the server's prefix cache, close keeps more turns;
#: with two, a session whose limit holds twenty turns keeps its prefix in nine turns of ten.
_BLOCKS_PER_LIMIT = 2
#: Bytes of JSON per token, for the distance between cuts. Code has 2.5 to 4.5; only its constancy matters.
_BYTES_PER_TOKEN = 3
#: A cut that left room for one token of answer would be of no use: it leaves what is asked for, up to this.
_ROOMS_PER_ANSWER = 8


class Counter(Protocol):
    """What fitting needs of `proxy.prompt.counter.TokenCounter`."""

    async def count(self, prompt: Prompt, limit: int | None = None) -> int: ...
    async def shared(self, prompt: Prompt, other: Prompt) -> int: ...
    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """All in tokens; None: no limit. `context_length` and `max_kv_size` bound prompt plus completion."""

    max_prompt_tokens: int | None
    policy: Literal["error", "truncate"]
    keep_tokens: int
    default_max_tokens: int
    max_kv_size: int | None
    context_length: int | None
    compaction_headroom: int = 0
    trim_tool_output: bool = False
    #: The longest prompt that the plan says fits alone. A limit that somebody has set holds all the same.
    fits_alone: int | None = None

    @property
    def room(self) -> int | None:
        """Tokens that prompt and completion may have together."""
        return _least(self.max_kv_size, self.context_length)

    @property
    def longest_prompt(self) -> int | None:
        """The longest prompt that is served: within its own limit, with room for one token of completion."""
        return _least(self.max_prompt_tokens, None if self.room is None else self.room - 1)

    @property
    def longest_compaction(self) -> int | None:
        """The longest prompt of a refused conversation's compaction: never shorter than any other."""
        limit, most = self.longest_prompt, self.max_prompt_tokens
        room = None if self.room is None else self.room - 1
        longer = _least(None if most is None else most + self.compaction_headroom, room, self.fits_alone)
        return None if limit is None or longer is None else max(limit, longer)

    def aim(self, limit: int, wanted: int) -> int:
        """What a cut to `limit` aims at: room for `wanted` tokens of completion too, or for a share."""
        if self.room is None:
            return limit
        return max(0, min(limit, self.room - min(wanted, self.room // _ROOMS_PER_ANSWER)))


def _least(*sizes: int | None) -> int | None:
    return min([size for size in sizes if size is not None], default=None)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is sent. `prompt_tokens` is exact; `clamped`: the client asked for more than `max_tokens`."""

    prompt: Prompt
    prompt_tokens: int
    max_tokens: int
    clamped: bool
    dropped_messages: int
    dropped_tokens: int
    #: Indexes of the request's messages that stay; None where nothing was cut.
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Shorter:
    """A prompt and its exact count; `positions` as in `Fitted`."""

    prompt: Prompt
    count: int
    positions: tuple[int, ...] | None = None


async def fit(
    request: CompletionRequest,
    tokens: Counter,
    limits: Limits,
    *,
    refusals: OverflowHistory | None = None,
    now: float = 0.0,
) -> Fitted:
    """Raises PromptTooLong with exact numbers, and what `tokens.count` raises.

    `refusals`: where refused conversations are remembered, at `now` in seconds.
    """
    limit, longest = limits.longest_prompt, limits.longest_compaction
    count = await tokens.count(request.prompt, longest)
    if count < 1:
        raise InvalidRequest("The prompt has no tokens.", param="messages" if request.is_chat else "prompt")
    whole = _Shorter(request.prompt, count)
    if limit is None or longest is None or count <= limit:
        return _fitted(request, whole, count, limits)
    cut = await _cut(request, tokens, limits, limit) if limits.policy == "truncate" else None
    if cut is not None:
        return _fitted(request, cut, count, limits)
    if refusals is not None and isinstance(request.prompt, ChatPrompt):
        if count <= longest and refusals.take(request.prompt.messages, now):
            return _fitted(request, whole, count, limits)
        refusals.remember(request.prompt.messages, now)
    raise _too_long(request, count, limits, limit)


def _fitted(request: CompletionRequest, sent: _Shorter, before: int, limits: Limits) -> Fitted:
    wanted = request.max_tokens or limits.default_max_tokens
    allowed = wanted if limits.room is None else min(wanted, limits.room - sent.count)
    return Fitted(
        prompt=sent.prompt,
        prompt_tokens=sent.count,
        max_tokens=allowed,
        clamped=request.max_tokens is not None and allowed < wanted,
        dropped_messages=_messages(request.prompt) - _messages(sent.prompt),
        dropped_tokens=before - sent.count,
        positions=sent.positions,
    )


def _messages(prompt: Prompt) -> int:
    return len(prompt.messages) if isinstance(prompt, ChatPrompt) else 0


def _too_long(request: CompletionRequest, count: int, limits: Limits, limit: int) -> PromptTooLong:
    return PromptTooLong(
        prompt_tokens=count,
        max_tokens=request.max_tokens or limits.default_max_tokens,
        limit=limit,
        param="messages" if request.is_chat else "prompt",
    )


async def _cut(request: CompletionRequest, tokens: Counter, limits: Limits, limit: int) -> _Shorter | None:
    """A prompt of at most `limit` tokens, or None where what must stay does not fit."""
    aim = limits.aim(limit, request.max_tokens or limits.default_max_tokens)
    cut: _Shorter | None = None
    if isinstance(request.prompt, ChatPrompt):
        cut = await _cut_turns(request.prompt, tokens, limits, aim)
    elif limits.keep_tokens < aim:
        with contextlib.suppress(InvalidRequest):  # a tokenizer that cannot say where its tokens are
            cut = _Shorter(*await tokens.trim(request.prompt, limits.keep_tokens, aim))
    return cut if cut is not None and 0 < cut.count <= limit else None


async def _cut_turns(prompt: ChatPrompt, tokens: Counter, limits: Limits, aim: int) -> _Shorter | None:
    """The prompt with the mildest cut that brings it to `aim`, or with the deepest.

    None where nothing may go, or where the template accepts nothing shorter.
    """
    conversation = truncation.split(prompt.messages)
    for head in await _heads(prompt, conversation, tokens, limits.keep_tokens):
        cut = await _cut_after(head, prompt, conversation, tokens, limits, aim)
        if cut is not None:
            return cut
    return None


async def _cut_after(  # noqa: PLR0917 - one question with all that it depends on
    head: int, prompt: ChatPrompt, conversation: Conversation, tokens: Counter, limits: Limits, aim: int
) -> _Shorter | None:
    """The same, where the first `head` messages stay."""
    block = max(1, aim * _BYTES_PER_TOKEN // _BLOCKS_PER_LIMIT)
    cuts = truncation.cuts(conversation, head, block, trim=limits.trim_tool_output)
    seen: dict[int, _Shorter] = {}

    async def fits(index: int) -> bool:
        cut = cuts[index]
        shorter = replace(prompt, messages=conversation.shortened(head, cut))
        count = await _count_if_accepted(tokens, shorter, aim)
        if count is not None:
            seen[index] = _Shorter(shorter, count, conversation.positions(head, cut))
        return count is not None and count <= aim

    found = await _first(len(cuts), fits)
    return seen.get(min(found, len(cuts) - 1))


async def _heads(
    prompt: ChatPrompt, conversation: Conversation, tokens: Counter, keep_tokens: int
) -> list[int]:
    """How many messages at the start hold the first `keep_tokens` tokens of the prompt.

    The least number, and that to the end of the turn: a template may insist that users and assistants take
    turns, and refuse a user's message after a user's.
    """
    if not keep_tokens:
        return [conversation.lead.stop]

    async def covers(index: int) -> bool:
        end = conversation.ends[index]
        head = prompt.messages[:end]
        if end == conversation.lead.stop:
            # An empty user message after the system's, as the server itself does to find their end: most
            # templates refuse a conversation without a user.
            head = (*head, {"role": "user", "content": ""})
        try:
            return await tokens.shared(prompt, replace(prompt, messages=head)) >= keep_tokens
        except InvalidRequest:  # it accepts the whole, so it accepts some longer part
            return False

    found = await _first(len(conversation.ends) - 1, covers)
    head = conversation.ends[found]
    return list(dict.fromkeys((head, conversation.turn_end(head))))


async def _count_if_accepted(tokens: Counter, prompt: Prompt, limit: int) -> int | None:
    """The count, or None where the template refuses what a cut has left."""
    try:
        return await tokens.count(prompt, limit)
    except InvalidRequest:
        return None


async def _first(end: int, holds: Callable[[int], Awaitable[bool]]) -> int:
    """The least index below `end` that holds, or `end`, for a property that stays once it holds.

    Token counts are not quite additive, so it may not quite stay: then the index found holds all the same.
    """
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if await holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
