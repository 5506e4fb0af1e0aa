"""Pure. Parses request bodies into `CompletionRequest`: strictly, and normalized where the meaning is clear.

Normalized means: nulls are left out, `developer` is `system`, one stop string is a list of one, integers
become floats where the server wants floats, -1 means "off", text parts are joined. What cannot be served is
refused with the name of its field.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import orjson

from proxy.errors import InvalidRequest
from proxy.request import sampling
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest, Prompt, TextPrompt
from proxy.request.fields import boolean, contains_nul, integer, mapping, refuse, string, too_deep
from proxy.request.images import Images
from proxy.request.messages import DEEPEST, MESSAGE_FIELDS, parse_messages, parse_tools

#: Longest model name, in characters.
_LONGEST_MODEL_NAME = 512
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"

#: Fields that clients are known to send and that have no meaning here: dropped silently, and counted.
MEANINGLESS = frozenset(
    {
        "audio", "cache_prompt", "enable_thinking", "include_reasoning", "metadata", "modalities",
        "parallel_tool_calls", "prediction", "prompt_cache_key", "prompt_cache_retention", "reasoning",
        "reasoning_effort", "safety_identifier", "service_tier", "store", "thinking", "user", "verbosity",
        "web_search_options",
    }
)  # fmt: skip
#: Fields that are read here, in addition to the sampling fields.
_READ = frozenset(
    {
        "adapters", "best_of", "chat_template_kwargs", "draft_model", "echo", "function_call", "functions",
        "logprobs", "max_completion_tokens", "max_tokens", "messages", "model", "n", "prompt",
        "response_format", "role_mapping", "stream", "stream_options", "suffix", "tool_choice", "tools",
        "top_logprobs",
    }
)  # fmt: skip


def parse_chat(body: bytes, bounds: Bounds) -> CompletionRequest:
    """Parse a chat completion request. Raises InvalidRequest naming the field."""
    fields = _load(body)
    if fields.get("functions") or fields.get("function_call") not in (None, "none", "auto"):
        refuse("functions", "is not supported: use tools")
    images = Images(bounds.images)
    prompt = ChatPrompt(
        messages=parse_messages(fields.get("messages"), images),
        tools=parse_tools(fields.get("tools"), fields.get("tool_choice")),
        template_kwargs=bounds.allowlist.template_kwargs(fields),
        role_mapping=bounds.allowlist.roles(fields),
    )
    return replace(_request(fields, prompt, bounds), remote=tuple(images.remote))


def parse_text(body: bytes, bounds: Bounds) -> CompletionRequest:
    """Parse a text completion request. Raises InvalidRequest naming the field."""
    fields = _load(body)
    text = fields.get("prompt")
    if type(text) is list and len(text) == 1:
        text = text[0]
    if type(text) is not str or not text:
        refuse("prompt", "must be one string that is not empty")
    if fields.get("echo") not in (None, False):
        refuse("echo", "is not supported by this server")
    if fields.get("suffix") not in (None, ""):
        refuse("suffix", "is not supported by this server")
    return _request(fields, TextPrompt(text), bounds)


def _load(body: bytes) -> dict[str, Any]:
    """Read strict JSON (no NaN, no lone surrogates, UTF-8 only): an object, not too deep, without NULs."""
    try:
        value = orjson.loads(body.removeprefix(_BYTE_ORDER_MARK))
    except orjson.JSONDecodeError as error:
        # Its text gives the position in digits that agents may mistake for a status, so it is not shown.
        raise InvalidRequest("The request body must be valid JSON in UTF-8.") from error
    fields = mapping(value, None)
    if too_deep(fields, DEEPEST):
        refuse(None, f"body must not nest deeper than {DEEPEST} levels")
    if b"\\u0000" in body:  # JSON has no other way to write a NUL
        _refuse_nul(fields)
    return fields


def _refuse_nul(fields: Mapping[str, Any]) -> None:
    messages = fields.get("messages")
    for index, message in enumerate(messages if type(messages) is list else ()):
        for name in MESSAGE_FIELDS if type(message) is dict else ():
            if contains_nul(message.get(name)):
                refuse(f"messages[{index}].{name}", "must not contain NUL characters")
    for name in _READ | sampling.NAMES:
        if contains_nul(fields.get(name)):
            refuse(name, "must not contain NUL characters")


def _request(fields: dict[str, Any], prompt: Prompt, bounds: Bounds) -> CompletionRequest:
    _refuse_impossible(fields)
    is_chat = isinstance(prompt, ChatPrompt)
    chosen = sampling.parse(fields)
    logprobs, top_logprobs = sampling.parse_logprobs(fields, is_chat=is_chat)
    if top_logprobs:
        chosen["top_logprobs"] = top_logprobs
    stream = _flag(fields.get("stream"), "stream")
    request = CompletionRequest(
        prompt=prompt,
        model=None if fields.get("model") is None else string(fields["model"], "model", _LONGEST_MODEL_NAME),
        stream=stream,
        include_usage=stream and _include_usage(fields.get("stream_options")),
        logprobs=logprobs,
        max_tokens=_max_tokens(fields),
        sampling=chosen,
        dropped=tuple(sorted(fields.keys() - _READ - sampling.NAMES)),
        variant=bounds.allowlist.variant(fields),
    )
    return request if bounds.vocab_size is None else request.bounded(bounds.vocab_size)


def _refuse_impossible(fields: Mapping[str, Any]) -> None:
    """Refuse what the server would silently ignore, or could only serve with several answers."""
    for name in ("n", "best_of"):
        if fields.get(name) is not None:
            integer(fields[name], name, 1, 1)
    wanted = fields.get("response_format")
    if wanted is not None and mapping(wanted, "response_format").get("type") != "text":
        refuse(
            "response_format.type", "must be text: this server cannot hold its output to JSON or to a schema"
        )


def _flag(value: Any, param: str) -> bool:
    return value is not None and boolean(value, param)


def _include_usage(options: Any) -> bool:
    if options is None:
        return False
    return _flag(mapping(options, "stream_options").get("include_usage"), "stream_options.include_usage")


def _max_tokens(fields: Mapping[str, Any]) -> int | None:
    """`max_completion_tokens` wins, as in the server; -1 means "no limit" in llama.cpp: the default here."""
    for name in ("max_completion_tokens", "max_tokens"):
        if fields.get(name) is not None:
            if fields[name] == -1 and fields[name] is not True:
                return None
            return integer(fields[name], name, 1, 2**63)
    return None
