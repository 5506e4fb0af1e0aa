"""Pure. Parses request bodies into `CompletionRequest`: strictly, and normalized where the meaning is clear.

Normalized means: nulls are left out, `developer` is `system`, one stop string is a list of one, integers
become floats where the server wants floats, -1 means "off", text parts are joined. What cannot be served is
refused with the name of its field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import orjson

from proxy.errors import InvalidRequest
from proxy.request import sampling
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest, Prompt, TextPrompt
from proxy.request.fields import boolean, integer, mapping, refuse, string, too_deep
from proxy.request.images import Images
from proxy.request.mend import mend
from proxy.request.mends import Mend, Mends, has_nul, loads_leniently, replaced, without_nuls
from proxy.request.messages import DEEPEST, parse_messages, parse_tools
from proxy.request.structured import wanted_output, with_told
from proxy.request.thinking import thinking_arguments

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
#: Those of them that ask for nothing that could show in an answer.
_WITHOUT_EFFECT = frozenset(
    {
        "cache_prompt", "include_reasoning", "metadata", "parallel_tool_calls", "prompt_cache_key",
        "prompt_cache_retention", "safety_identifier", "service_tier", "store", "user",
    }
)  # fmt: skip
#: Wishes about the output that other servers know.
_HINTS = frozenset(
    {
        "extra_body", "format", "grammar", "guided_choice", "guided_decoding_backend", "guided_grammar",
        "guided_json", "guided_regex", "json_schema", "keep_alive", "options", "structured_outputs", "system",
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
#: The names that are told back. Others were chosen by strangers, and no answer repeats what was sent.
_KNOWN = MEANINGLESS | _HINTS | _READ


def parse_chat(body: bytes, bounds: Bounds) -> CompletionRequest:
    """Parse a chat completion request. Raises InvalidRequest naming the field."""
    mends = Mends()
    return chat_request(load_body(body, mends), bounds, mends)


def chat_request(fields: dict[str, Any], bounds: Bounds, mends: Mends) -> CompletionRequest:
    """Mend and parse the fields of a chat completion request. Raises InvalidRequest naming the field."""
    fields = mend(fields, bounds.images, mends)
    images = Images(bounds.images)
    explicit = bounds.allowlist.template_kwargs(fields)
    arguments, switches = thinking_arguments(fields, bounds.template, explicit, bounds.allowlist.allows)
    messages = parse_messages(fields.get("messages"), images)
    tools = parse_tools(fields.get("tools"), fields.get("tool_choice"))
    wanted, unhonoured = wanted_output(fields, tools, bounds.structured_output)
    if wanted is not None:
        messages = with_told(messages, wanted.told(tools=bool(tools)))
    prompt = ChatPrompt(
        messages=messages,
        tools=tools,
        template_kwargs=arguments,
        role_mapping=bounds.allowlist.roles(fields),
    )
    request = _request(fields, prompt, bounds)
    dropped = sorted({*request.dropped, *unhonoured} - switches)
    return replace(request, remote=tuple(images.remote), mends=mends, dropped=tuple(dropped), wanted=wanted)


def parse_text(body: bytes, bounds: Bounds) -> CompletionRequest:
    """Parse a text completion request. Raises InvalidRequest naming the field."""
    mends = Mends()
    fields = load_body(body, mends)
    text = fields.get("prompt")
    if type(text) is list and len(text) == 1:
        text = text[0]
    if type(text) is not str or not text:
        refuse("prompt", "must be one string that is not empty")
    if fields.get("echo") not in (None, False):
        refuse("echo", "is not supported by this server")
    if fields.get("suffix") not in (None, ""):
        refuse("suffix", "is not supported by this server")
    mode = "refuse" if bounds.structured_output == "refuse" else "ignore"
    _, unhonoured = wanted_output(fields, None, mode)  # a text prompt has no place to tell of it
    request = _request(fields, TextPrompt(text), bounds)
    return replace(request, mends=mends, dropped=tuple(sorted({*request.dropped, *unhonoured})))


def ignored(dropped: Iterable[str]) -> list[str]:
    """Of the dropped fields those that ask for something that the answer lacks; unknown ones are `other`."""
    names = (name if name in _KNOWN else "other" for name in dropped if name not in _WITHOUT_EFFECT)
    return list(dict.fromkeys(names))


def load_body(body: bytes, mends: Mends) -> dict[str, Any]:
    """Read a JSON object, mending odd characters and numbers. Raises InvalidRequest."""
    body = body.removeprefix(_BYTE_ORDER_MARK)
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        value = _load_leniently(body, mends)
    fields = mapping(value, None)
    if too_deep(fields, DEEPEST):
        refuse(None, f"body must not nest deeper than {DEEPEST} levels")
    if b"\\u0000" in body:  # JSON has no other way to write a NUL
        replaced(fields, has_nul, without_nuls, Mend.NUL, mends)
    return fields


def _load_leniently(body: bytes, mends: Mends) -> Any:
    try:
        return loads_leniently(body, mends)
    except (ValueError, RecursionError) as error:
        # Its text gives the position in digits that agents may mistake for a status, so it is not shown.
        raise InvalidRequest("The request body must be valid JSON in UTF-8.") from error


def _request(fields: dict[str, Any], prompt: Prompt, bounds: Bounds) -> CompletionRequest:
    _refuse_impossible(fields)
    is_chat = isinstance(prompt, ChatPrompt)
    chosen = sampling.parse(fields)
    added = {name: value for name, value in bounds.sampling.items() if fields.get(name) is None}
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
        sampling={**chosen, **added},
        from_model=tuple(added),
        dropped=tuple(sorted(fields.keys() - _READ - sampling.NAMES)),
        variant=bounds.allowlist.variant(fields),
    )
    return request if bounds.vocab_size is None else request.bounded(bounds.vocab_size)


def _refuse_impossible(fields: Mapping[str, Any]) -> None:
    """Refuse what could only be served with several answers."""
    for name in ("n", "best_of"):
        if fields.get(name) is not None:
            integer(fields[name], name, 1, 1)


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
