"""Makes a request fit: refuses or cuts a prompt over the limit, and sets or clamps max_tokens.

What is sent has been rendered and counted exactly as it is sent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from proxy.errors import InvalidRequest, PromptTooLong
from proxy.prompt import truncation
from proxy.prompt.characters import characters
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.truncation import Conversation
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt

#: Cuts are this fraction of the limit apart. Far apart keeps the server's prefix cache, close keeps more
#: turns; with two, a session whose limit holds twenty turns keeps its prefix in nine turns of ten.
_BLOCKS_PER_LIMIT = 2
#: Bytes of JSON per token, for the distance between cuts. Code has 2.5 to 4.5; only its constancy matters.
_BYTES_PER_TOKEN = 3
#: A cut leaves room for the completion that is asked for, up to this fraction of the context. A cut with room
#: for one token of completion would be useless.
_CONTEXT_PER_COMPLETION = 8
#: A prompt of at most this many characters is always counted: that takes a few seconds at most.
_EXACT_CHARACTERS = 1_000_000
#: More characters than this per token have only prompts that are one long run of spaces, or the like.
_MOST_CHARACTERS_PER_TOKEN = 32


class Counter(Protocol):
    """The part of `proxy.prompt.counter.TokenCounter` that fitting uses."""

    async def count(self, prompt: Prompt, limit: int | None = None) -> int: ...
    async def shared(self, prompt: Prompt, other: Prompt) -> int: ...
    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of prompts and completions, in tokens; None means no limit.

    Attributes:
        context_length, max_kv_size: limits of prompt and completion together.
        compaction_headroom: by how much the compaction of a refused conversation may exceed the limit.
        fits_alone: the longest prompt that fits alone according to the plan. A configured limit still
        applies.
    """

    max_prompt_tokens: int | None
    policy: Literal["error", "truncate"]
    keep_tokens: int
    default_max_tokens: int
    max_kv_size: int | None
    context_length: int | None
    compaction_headroom: int = 0
    trim_tool_output: bool = False
    fits_alone: int | None = None

    @property
    def total(self) -> int | None:
        """Most tokens of prompt and completion together."""
        return _least(self.max_kv_size, self.context_length)

    @property
    def longest_prompt(self) -> int | None:
        """The longest prompt that is served: within its limit, leaving one token for the completion."""
        return _least(self.max_prompt_tokens, None if self.total is None else self.total - 1)

    @property
    def longest_compaction(self) -> int | None:
        """The longest prompt of a compaction; at least `longest_prompt`."""
        limit, most = self.longest_prompt, self.max_prompt_tokens
        total = None if self.total is None else self.total - 1
        longer = _least(None if most is None else most + self.compaction_headroom, total, self.fits_alone)
        return None if limit is None or longer is None else max(limit, longer)

    def cut_target(self, limit: int, wanted: int) -> int:
        """Prompt tokens to cut down to, leaving room for `wanted` tokens of completion or for a fraction."""
        if self.total is None:
            return limit
        return max(0, min(limit, self.total - min(wanted, self.total // _CONTEXT_PER_COMPLETION)))


def _least(*sizes: int | None) -> int | None:
    return min([size for size in sizes if size is not None], default=None)


@dataclass(frozen=True, slots=True)
class Fitted:
    """What is sent to the child.

    Attributes:
        prompt_tokens: exact.
        clamped: whether the client asked for more than `max_tokens`.
        positions: indexes of the request's messages that are sent; None if nothing was cut.
    """

    prompt: Prompt
    prompt_tokens: int
    max_tokens: int
    clamped: bool
    dropped_messages: int
    dropped_tokens: int
    positions: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class _Sendable:
    """A prompt to send and its exact count; `positions` as in `Fitted`."""

    prompt: Prompt
    count: int
    positions: tuple[int, ...] | None = None


async def fit(
    request: CompletionRequest,
    counter: Counter,
    limits: Limits,
    *,
    refusals: OverflowHistory | None = None,
    now: float = 0.0,
) -> Fitted:
    """Count the prompt and make it fit.

    `refusals` remembers refused conversations; `now` is its time in seconds.

    Raises PromptTooLong with exact numbers, and what `counter.count` raises.
    """
    limit, longest = limits.longest_prompt, limits.longest_compaction
    far_over = None if longest is None or limits.policy == "truncate" else _far_over(request.prompt, longest)
    count = far_over or await counter.count(request.prompt, longest)
    if count < 1:
        raise InvalidRequest("The prompt has no tokens.", param=request.prompt_field)
    whole = _Sendable(request.prompt, count)
    if limit is None or longest is None or count <= limit:
        return _fitted(request, whole, count, limits)
    cut = await _cut(request, counter, limits, limit) if limits.policy == "truncate" else None
    if cut is not None:
        return _fitted(request, cut, count, limits)
    if refusals is not None and isinstance(request.prompt, ChatPrompt):
        if count <= longest and refusals.admit_compaction(request.prompt.messages, now):
            return _fitted(request, whole, count, limits)
        refusals.record_refusal(request.prompt.messages, now)
    raise PromptTooLong(
        prompt_tokens=count,
        max_tokens=request.max_tokens or limits.default_max_tokens,
        limit=limit,
        param=request.prompt_field,
    )


def _far_over(prompt: Prompt, limit: int) -> int | None:
    """An estimate of the tokens of a prompt that is certainly far over the limit, else None.

    Tools, and the arguments of calls, count as well: rendering tens of megabytes of them keeps the worker
    from the prompts of others for a minute.
    """
    size = characters(list(prompt.fields().values()))
    if size <= max(_EXACT_CHARACTERS, limit * _MOST_CHARACTERS_PER_TOKEN):
        return None
    return max(2 * limit, size // _BYTES_PER_TOKEN)


def _fitted(request: CompletionRequest, sent: _Sendable, before: int, limits: Limits) -> Fitted:
    wanted = request.max_tokens or limits.default_max_tokens
    allowed = wanted if limits.total is None else min(wanted, limits.total - sent.count)
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


async def _cut(request: CompletionRequest, counter: Counter, limits: Limits, limit: int) -> _Sendable | None:
    """A prompt of at most `limit` tokens, or None if what must be kept does not fit."""
    target = limits.cut_target(limit, request.max_tokens or limits.default_max_tokens)
    cut: _Sendable | None = None
    if isinstance(request.prompt, ChatPrompt):
        cut = await _cut_turns(request.prompt, counter, limits, target)
    elif limits.keep_tokens < target:
        with contextlib.suppress(InvalidRequest):  # the tokenizer cannot give the offsets of its tokens
            cut = _Sendable(*await counter.trim(request.prompt, limits.keep_tokens, target))
    return cut if cut is not None and 0 < cut.count <= limit else None


async def _cut_turns(prompt: ChatPrompt, counter: Counter, limits: Limits, target: int) -> _Sendable | None:
    """The prompt after the mildest cut that brings it to `target`, or else after the deepest.

    None if nothing may be cut, or if the template accepts nothing shorter.
    """
    conversation = truncation.split(prompt.messages)
    for head in await _heads(prompt, conversation, counter, limits.keep_tokens):
        cut = await _cut_after(head, prompt, conversation, counter, limits, target)
        if cut is not None:
            return cut
    return None


async def _cut_after(  # noqa: PLR0917 - one question with all its inputs
    head: int, prompt: ChatPrompt, conversation: Conversation, counter: Counter, limits: Limits, target: int
) -> _Sendable | None:
    """The same, keeping the first `head` messages."""
    block = max(1, target * _BYTES_PER_TOKEN // _BLOCKS_PER_LIMIT)
    cuts = truncation.cuts(conversation, head, block, trim=limits.trim_tool_output)
    seen: dict[int, _Sendable] = {}

    async def fits(index: int) -> bool:
        cut = cuts[index]
        shorter = replace(prompt, messages=conversation.shortened(head, cut))
        try:
            count = await counter.count(shorter, target)
        except InvalidRequest:  # the template refuses what the cut has left
            return False
        seen[index] = _Sendable(shorter, count, conversation.positions(head, cut))
        return count <= target

    found = await _first(len(cuts), fits)
    return seen.get(min(found, len(cuts) - 1))


async def _heads(
    prompt: ChatPrompt, conversation: Conversation, counter: Counter, keep_tokens: int
) -> list[int]:
    """Numbers of messages at the start that contain the first `keep_tokens` tokens of the prompt.

    First the least number, then the number up to the end of that turn: a template may insist that users and
    assistants alternate, and refuse a user message after another.
    """
    if not keep_tokens:
        return [conversation.lead.stop]

    async def covers(index: int) -> bool:
        end = conversation.ends[index]
        head = prompt.messages[:end]
        if end == conversation.lead.stop:
            # The server itself adds an empty user message to find the end of the system messages: most
            # templates refuse a conversation without a user.
            head = (*head, {"role": "user", "content": ""})
        try:
            return await counter.shared(prompt, replace(prompt, messages=head)) >= keep_tokens
        except InvalidRequest:  # it accepts the whole, so it accepts some longer head
            return False

    found = await _first(len(conversation.ends) - 1, covers)
    head = conversation.ends[found]
    return list(dict.fromkeys((head, conversation.turn_end(head))))


async def _first(end: int, holds: Callable[[int], Awaitable[bool]]) -> int:
    """The least index below `end` for which `holds` is true, or `end`; found by bisection.

    `holds` should stay true once it is. Token counts are not quite additive, so it may not; the index found
    satisfies it all the same.
    """
    low, high = 0, end
    while low < high:
        middle = (low + high) // 2
        if await holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
