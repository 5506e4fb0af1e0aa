"""What would become of a request, and why: the body of POST /mlxguard/api/explain. Nothing is run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from proxy.api.cost_preview import memory_limits, prospect
from proxy.config.settings import MemorySettings, PromptSettings
from proxy.errors import InvalidRequest, PromptTooLong
from proxy.gate.gate import Gate
from proxy.prompt.fit import Counter, Fitted, Limits, fit
from proxy.request.completion import ChatPrompt, CompletionRequest
from supervisor.memory_model.plan import Plan

#: Entries that a long conversation is divided into: each takes a count of all that is before it.
_MOST_ENTRIES = 200
#: Tokens of a prompt that is still told by message: the counts together take some seconds.
_MOST_TOKENS = 400_000


@dataclass(frozen=True, slots=True)
class Explainer:
    """Everything that a request is decided by. `plan`: the one that the child was started by, if any."""

    tokens: Counter
    gate: Gate
    plan: Callable[[], Plan | None]
    prompt: PromptSettings
    memory: MemorySettings

    async def document(self, request: CompletionRequest, limits: Limits, client: str) -> dict[str, Any]:
        """What would become of the request if `client` sent it now. Raises what `tokens.count` raises."""
        document = await explain(request, self.tokens, limits, self.prompt)
        document["limits"] += memory_limits(self.gate, self.plan(), self.memory)
        sent = document["sent"]
        document["cost"] = sent and prospect(self.gate, client, sent["prompt_tokens"], sent["max_tokens"])
        return document


async def explain(
    request: CompletionRequest, tokens: Counter, limits: Limits, settings: PromptSettings
) -> dict[str, Any]:
    """Sizes in tokens. Raises what `tokens.count` raises.

    A message's tokens are those that the prompt grows by when the message joins those before it; the first
    entry has what the template itself adds. Messages and tools together are the whole prompt. A template
    that rewrites earlier turns can make a message's tokens negative. A huge prompt is not told by message.
    """
    prompt = request.prompt
    assert isinstance(prompt, ChatPrompt)
    count = await tokens.count(prompt, limits.longest_prompt)
    document: dict[str, Any] = {
        "prompt_tokens": count,
        "limits": _limits(limits, settings),
    }
    fitted: Fitted | None = None
    try:
        fitted = await fit(request, tokens, limits)
    except PromptTooLong as refusal:
        document |= {"verdict": "refused", "reason": refusal.message, "sent": None}
    else:
        document |= _verdict(fitted, limits)
    if count > _MOST_TOKENS:
        return document
    document["tools_tokens"] = await _tools(prompt, tokens, count)
    document["messages"] = [
        {**entry, "sent": _fate(prompt, entry, fitted)} async for entry in _entries(prompt, tokens)
    ]
    if document["messages"]:
        document["messages"][0]["tokens"] -= document["tools_tokens"]
    return document


def _verdict(fitted: Fitted, limits: Limits) -> dict[str, Any]:
    cut = fitted.positions is not None
    limit = limits.longest_prompt
    reason = "There is no limit." if limit is None else f"The limit is {limit} tokens."
    if cut:
        reason += " What is oldest is left out, in blocks, so that consecutive turns share their prefix."
    return {
        "verdict": "cut" if cut else "whole",
        "reason": reason,
        "sent": {
            "prompt_tokens": fitted.prompt_tokens,
            "dropped_messages": fitted.dropped_messages,
            "dropped_tokens": fitted.dropped_tokens,
            "max_tokens": fitted.max_tokens,
            "max_tokens_clamped": fitted.clamped,
        },
    }


def _limits(limits: Limits, settings: PromptSettings) -> list[dict[str, Any]]:
    """Each limit with the place where it was made."""
    fixed, longest = settings.max_prompt_tokens != "auto", limits.max_prompt_tokens
    auto = _planned if longest == limits.fits_alone else _context
    found = (
        ("max_prompt_tokens", longest, _setting if fixed else auto),
        ("context_length", limits.context_length, _context),
        ("fits_alone", limits.fits_alone, _planned),
        ("max_kv_size", limits.max_kv_size, _setting),
        ("compaction_headroom_tokens", limits.compaction_headroom, _setting),
        ("prompt_keep_tokens", limits.keep_tokens, _setting),
        ("default_max_tokens", limits.default_max_tokens, _setting),
        ("longest_prompt", limits.longest_prompt, lambda _: "the least of these, with room for one token"),
    )
    return [{"name": name, "tokens": size, "from": place(name)} for name, size, place in found if size]


def _context(_: str) -> str:
    return "the model's own files"


def _planned(_: str) -> str:
    return "the plan: what there is memory for alone, with room for an answer"


def _setting(name: str) -> str:
    return f"[prompt] {name}"


async def _tools(prompt: ChatPrompt, tokens: Counter, count: int) -> int:
    return count - await tokens.count(replace(prompt, tools=None)) if prompt.tools else 0


async def _entries(prompt: ChatPrompt, tokens: Counter) -> AsyncIterator[dict[str, Any]]:
    """Messages that the template accepts as an end, each with those before it that it does not."""
    count, first = 0, 0
    step = -(-len(prompt.messages) // _MOST_ENTRIES)
    for stop in [*range(step, len(prompt.messages), step), len(prompt.messages)]:
        try:
            grown = await tokens.count(replace(prompt, messages=prompt.messages[:stop]))
        except InvalidRequest:
            continue
        roles = [message["role"] for message in prompt.messages[first:stop]]
        yield {"first": first, "last": stop - 1, "roles": roles, "tokens": grown - count}
        count, first = grown, stop


def _fate(prompt: ChatPrompt, entry: dict[str, Any], fitted: Fitted | None) -> str:
    """`whole`, `changed` (a note or a shortened result), `dropped`, or `partly` of several messages."""
    if fitted is None:
        return "refused"
    if fitted.positions is None:
        return "whole"
    assert isinstance(fitted.prompt, ChatPrompt)
    sent = dict(zip(fitted.positions, fitted.prompt.messages, strict=True))
    span = range(entry["first"], entry["last"] + 1)
    kept = [index for index in span if index in sent]
    if len(kept) < len(span):
        return "partly" if kept else "dropped"
    return "whole" if all(sent[index] is prompt.messages[index] for index in kept) else "changed"
