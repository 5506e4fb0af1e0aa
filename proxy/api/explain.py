"""Explains what would happen to a request, and why: the body of POST /mlxguard/api/explain."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

from proxy.api.cost_preview import cost_preview, memory_limits
from proxy.config.settings import MemorySettings, PromptSettings
from proxy.errors import InvalidRequest, PromptTooLong
from proxy.gate.gate import Gate
from proxy.prompt.fit import Counter, Fitted, Limits, fit
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.request.parse import ignored
from supervisor.memory_model.plan import Plan

#: Groups that a long conversation is divided into: each needs a count of everything before it.
_MAX_GROUPS = 200

#: Tokens of the longest prompt that is broken down by message: the counts together take some seconds.
_MAX_TOKENS = 400_000


@dataclass(frozen=True, slots=True)
class Explainer:
    """Everything that decides about a request. `plan`: the plan that the child was started by, if any."""

    counter: Counter
    gate: Gate
    plan: Callable[[], Plan | None]
    prompt: PromptSettings
    memory: MemorySettings

    async def document(self, request: CompletionRequest, limits: Limits, client: str) -> dict[str, Any]:
        """Explain the request as if `client` sent it now. Raises what `counter.count` raises."""
        document = await explain(request, self.counter, limits, self.prompt)
        document["limits"] += memory_limits(self.gate, self.plan(), self.memory)
        sent = document["sent"]
        document["cost"] = sent and cost_preview(self.gate, client, sent["prompt_tokens"], sent["max_tokens"])
        return document


async def explain(
    request: CompletionRequest, counter: Counter, limits: Limits, settings: PromptSettings
) -> dict[str, Any]:
    """The part that needs no gate; sizes in tokens. Raises what `counter.count` raises.

    A message's tokens are those by which the prompt grows when the message is added to the ones before it;
    the first entry includes what the template itself adds. Messages and tools together are the whole prompt.
    Where a template rewrites earlier turns, a message's tokens can be negative. Beyond `_MAX_TOKENS`, there
    is no breakdown by message.
    """
    prompt = request.prompt
    assert isinstance(prompt, ChatPrompt)
    count = await counter.count(prompt, limits.longest_prompt)
    document: dict[str, Any] = {
        "prompt_tokens": count,
        "limits": _limits(limits, settings),
        "template_arguments": prompt.template_kwargs,
        "sampling": {"fields": request.sampling, "from_model": list(request.from_model)},
        "ignored": ignored(request.dropped),
        "mended": {kind.value: number for kind, number in request.mends.counts.items() if number},
    }
    fitted: Fitted | None = None
    try:
        fitted = await fit(request, counter, limits)
    except PromptTooLong as refusal:
        document |= {"verdict": "refused", "reason": refusal.message, "sent": None}
    else:
        document |= _verdict(fitted, limits)
    if count > _MAX_TOKENS:
        return document
    tools = count - await counter.count(replace(prompt, tools=None)) if prompt.tools else 0
    document["tools_tokens"] = tools
    document["messages"] = [
        {**group, "sent": _sent(prompt, group, fitted)} async for group in _groups(prompt, counter)
    ]
    if document["messages"]:
        document["messages"][0]["tokens"] -= tools
    return document


def _verdict(fitted: Fitted, limits: Limits) -> dict[str, Any]:
    truncated = fitted.positions is not None
    limit = limits.longest_prompt
    reason = "There is no limit." if limit is None else f"The limit is {limit} tokens."
    if truncated:
        reason += " The oldest messages are dropped, in blocks, so that consecutive turns share their prefix."
    return {
        "verdict": "truncated" if truncated else "unchanged",
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
    """Each limit in tokens, with its source; limits that are not set are left out."""
    model, plan = "the model's own files", "the plan: what there is memory for alone, with room for an answer"
    longest = limits.max_prompt_tokens
    auto = plan if longest == limits.fits_alone else model
    found = (
        ("max_prompt_tokens", longest, auto if settings.max_prompt_tokens == "auto" else None),
        ("context_length", limits.context_length, model),
        ("fits_alone", limits.fits_alone, plan),
        ("max_kv_size", limits.max_kv_size, None),
        ("compaction_headroom_tokens", limits.compaction_headroom, None),
        ("prompt_keep_tokens", limits.keep_tokens, None),
        ("default_max_tokens", limits.default_max_tokens, None),
        ("longest_prompt", limits.longest_prompt, "the least of these, with room for one token"),
    )
    return [
        {"name": name, "tokens": size, "from": source or f"[prompt] {name}"}
        for name, size, source in found
        if size
    ]


async def _groups(prompt: ChatPrompt, counter: Counter) -> AsyncIterator[dict[str, Any]]:
    """Groups of messages: each ends where the template accepts an end of the conversation."""
    count, first = 0, 0
    step = -(-len(prompt.messages) // _MAX_GROUPS)
    for stop in [*range(step, len(prompt.messages), step), len(prompt.messages)]:
        try:
            grown = await counter.count(replace(prompt, messages=prompt.messages[:stop]))
        except InvalidRequest:
            continue
        roles = [message["role"] for message in prompt.messages[first:stop]]
        yield {"first": first, "last": stop - 1, "roles": roles, "tokens": grown - count}
        count, first = grown, stop


def _sent(prompt: ChatPrompt, group: dict[str, Any], fitted: Fitted | None) -> str:
    """What is sent of a group: `unchanged`, `changed` (a note, a shortened result), `partly`, `dropped`."""
    if fitted is None:
        return "refused"
    if fitted.positions is None:
        return "unchanged"
    assert isinstance(fitted.prompt, ChatPrompt)
    sent = dict(zip(fitted.positions, fitted.prompt.messages, strict=True))
    indices = range(group["first"], group["last"] + 1)
    kept = [index for index in indices if index in sent]
    if len(kept) < len(indices):
        return "partly" if kept else "dropped"
    return "unchanged" if all(sent[index] is prompt.messages[index] for index in kept) else "changed"
