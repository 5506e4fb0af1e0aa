"""Pure. Adapts a conversation to what the model's chat template takes, as its probes have shown.

Templates refuse much that agents send: a later system message, two user messages in a row, call ids that
are not nine characters, a tool without a description. Others take it and lose its text. At load the worker
renders a few small conversations (`proxy/worker/template_probes.py`); what a template refused or lost there
is written here in a form that it accepted. No list of model names is involved, and for a template that
takes everything `adapt` changes nothing, so what the bare server would render is rendered.

Each change depends on neighbouring messages only, never on the end of the conversation: a growing session
keeps its prefix. A later system message becomes text of the user message that follows it, in
`<system-reminder>` marks; it is never moved to the front, where it would change the whole prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from proxy.request.mends import Mend, Mends, json_text
from proxy.request.template_traits import TemplateTraits

#: An id that the strictest templates take: nine letters and digits (mistral-common, `InvalidToolCallID`).
SHORT_ID_LENGTH = 9

INTERRUPTED = "(interrupted)"
NO_RESULT = "(no result)"
CONTINUED = "(continued)"

_EMPTY_ANSWER: dict[str, Any] = {"role": "assistant", "content": ""}

Message = dict[str, Any]
Messages = Sequence[Message]


def adapt(messages: Messages, traits: TemplateTraits, mends: Mends) -> tuple[Message, ...]:
    """The conversation in a form that the template takes; the same messages where it takes them already."""
    steps: tuple[tuple[bool, Callable[[Messages, Mends], list[Message]]], ...] = (
        (traits.orphan_result and traits.consecutive_users, _without_orphans),
        (traits.calls, _with_calls_as_text),
        (traits.parallel_calls, _with_single_calls),
        (traits.long_ids, _with_short_ids),
        (traits.other_arguments, _with_object_arguments),
        (traits.object_arguments, _with_text_arguments),
        (traits.two_systems, _with_one_system),
        (traits.later_system, _without_later_systems),
        (traits.system, _without_system),
        (traits.empty_assistant, _without_empty_answers),
        (traits.unanswered_call, _with_results),
        (traits.user_after_result, _with_answers_to_results),
        (traits.assistant_first, _with_user_first),
        (traits.no_user, _with_a_user),
        (traits.consecutive_users, _with_users_joined),
    )
    for taken, step in steps:
        if not taken:
            messages = step(messages, mends)
    return tuple(messages)


def adapt_tools(
    tools: Sequence[dict[str, Any]] | None, traits: TemplateTraits, mends: Mends
) -> tuple[dict[str, Any], ...] | None:
    """Tools with the fields that the template needs: an empty description, parameters without properties."""
    if tools is None or (traits.undescribed_tools and traits.tools_without_parameters):
        return None if tools is None else tuple(tools)
    needed: dict[str, Any] = {}
    if not traits.undescribed_tools:
        needed["description"] = ""
    if not traits.tools_without_parameters:
        needed["parameters"] = {"type": "object", "properties": {}}
    return tuple(_completed(tool, needed, mends) for tool in tools)


def _completed(tool: dict[str, Any], needed: dict[str, Any], mends: Mends) -> dict[str, Any]:
    missing = {name: value for name, value in needed.items() if name not in tool["function"]}
    if not missing:
        return tool
    mends.counts[Mend.TOOL_FIELD] += 1
    return {**tool, "function": {**tool["function"], **missing}}


def short_id(identity: str) -> str:
    """Nine letters and digits that stand for `identity`, the same each time."""
    return hashlib.sha256(identity.encode()).hexdigest()[:SHORT_ID_LENGTH]


def _is_short(identity: str) -> bool:
    return len(identity) == SHORT_ID_LENGTH and identity.isascii() and identity.isalnum()


def _with_short_ids(messages: Messages, mends: Mends) -> list[Message]:
    return [_short(message, mends) for message in messages]


def _short(message: Message, mends: Mends) -> Message:
    def short(holder: dict[str, Any], name: str) -> dict[str, Any]:
        # A call without an id is refused like one with a long id; its own text gives it a stable one.
        identity = holder.get(name) or orjson.dumps(holder, option=orjson.OPT_SORT_KEYS).decode()
        if _is_short(identity):
            return holder
        mends.counts[Mend.CALL_ID] += 1
        return {**holder, name: short_id(identity)}

    if calls := message.get("tool_calls"):
        return {**message, "tool_calls": [short(call, "id") for call in calls]}
    return short(message, "tool_call_id") if message["role"] == "tool" else message


def _with_object_arguments(messages: Messages, mends: Mends) -> list[Message]:
    def mended(call: dict[str, Any]) -> dict[str, Any]:
        parsed = _parsed(call)
        if type(parsed) is dict:
            return call
        mends.counts[Mend.ARGUMENTS] += 1
        kept = {} if parsed is None else {"value": parsed}
        return {**call, "function": {**call["function"], "arguments": kept}}

    return _with_calls(messages, mended)


def _with_text_arguments(messages: Messages, mends: Mends) -> list[Message]:
    """The text of arguments, written as JSON once more, since the server reads one layer of it."""

    def mended(call: dict[str, Any]) -> dict[str, Any]:
        mends.counts[Mend.ARGUMENTS] += 1
        text = json_text(json_text(_parsed(call)))
        return {**call, "function": {**call["function"], "arguments": text}}

    return _with_calls(messages, mended)


def _with_calls(messages: Messages, mended: Callable[[dict[str, Any]], dict[str, Any]]) -> list[Message]:
    return [
        {**message, "tool_calls": [mended(call) for call in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _parsed(call: dict[str, Any]) -> Any:
    value = call["function"]["arguments"]
    return json.loads(value) if type(value) is str else value


def _without_orphans(messages: Messages, mends: Mends) -> list[Message]:
    """Results that follow no call of theirs become text of a user message, marked as what they are."""
    adapted: list[Message] = []
    open_calls: list[dict[str, Any]] = []
    for message in messages:
        if message["role"] == "tool":
            call = _answered(message, open_calls)
            if call is None:
                mends.counts[Mend.RESULT] += 1
                adapted.append(_as_text(message))
                continue
            open_calls.remove(call)
        else:
            open_calls = list(message.get("tool_calls") or ())
        adapted.append(message)
    return adapted


def _answered(result: Message, calls: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The call that a result belongs to: by its id, or the first one where either has none."""
    identity = result.get("tool_call_id")
    for call in calls:
        if identity is None or call.get("id") in (None, identity):
            return call
    return None


def _as_text(result: Message) -> Message:
    return _prefixed({"role": "user", "content": result["content"]}, "[tool result]\n")


def _with_calls_as_text(messages: Messages, mends: Mends) -> list[Message]:
    """Calls and results as text, for a template that renders no conversation with calls."""
    return [_call_as_text(message, mends) for message in messages]


def _call_as_text(message: Message, mends: Mends) -> Message:
    if message["role"] == "tool":
        mends.counts[Mend.RESULT] += 1
        return _as_text(message)
    if not message.get("tool_calls"):
        return message
    mends.counts[Mend.CALL] += 1
    texts = [_plain(message["content"])] if message["content"] else []
    for call in message["tool_calls"]:
        called = {"name": call["function"]["name"], "arguments": _parsed(call)}
        texts.append(f"<tool_call>\n{json_text(called)}\n</tool_call>")
    kept = {name: value for name, value in message.items() if name != "tool_calls"}
    return {**kept, "content": "\n".join(texts)}


def _with_single_calls(messages: Messages, mends: Mends) -> list[Message]:
    """One assistant message for each call, each followed by its result."""
    adapted: list[Message] = []
    position = 0
    while position < len(messages):
        message = messages[position]
        position += 1
        calls = message.get("tool_calls") or []
        if len(calls) < 2:
            adapted.append(message)
            continue
        mends.counts[Mend.TURNS] += len(calls) - 1
        results = []
        while position < len(messages) and messages[position]["role"] == "tool":
            results.append(messages[position])
            position += 1
        for number, call in enumerate(calls):
            adapted.append({**(message if number == 0 else _EMPTY_ANSWER), "tool_calls": [call]})
            own = next((result for result in results if _answered(result, [call])), None)
            if own is not None:
                results.remove(own)
                adapted.append(own)
        adapted += results
    return adapted


def _with_one_system(messages: Messages, mends: Mends) -> list[Message]:
    leading = _leading_systems(messages)
    if leading < 2:
        return list(messages)
    mends.counts[Mend.SYSTEM] += leading - 1
    first = messages[0]
    for message in messages[1:leading]:
        first = _joined(first, message)
    return [first, *messages[leading:]]


def _leading_systems(messages: Messages) -> int:
    return next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))


def _without_later_systems(messages: Messages, mends: Mends) -> list[Message]:
    """Later system messages become text of the next message if it is a user's, or else one of their own."""
    leading = _leading_systems(messages)
    adapted, pending = list(messages[:leading]), ""
    for message in messages[leading:]:
        if message["role"] == "system":
            mends.counts[Mend.SYSTEM] += 1
            pending += f"<system-reminder>\n{_plain(message['content'])}\n</system-reminder>\n\n"
            continue
        if pending:
            if message["role"] == "user":
                message = _prefixed(message, pending)  # noqa: PLW2901
            else:
                adapted.append({"role": "user", "content": pending.rstrip()})
            pending = ""
        adapted.append(message)
    return [*adapted, {"role": "user", "content": pending.rstrip()}] if pending else adapted


def _without_system(messages: Messages, mends: Mends) -> list[Message]:
    leading = _leading_systems(messages)
    if not leading:
        return list(messages)
    mends.counts[Mend.SYSTEM] += leading
    text = "\n\n".join(_plain(message["content"]) for message in messages[:leading])
    rest = list(messages[leading:])
    if rest and rest[0]["role"] == "user":
        return [_prefixed(rest[0], f"{text}\n\n"), *rest[1:]]
    return [{"role": "user", "content": text}, *rest]


def _without_empty_answers(messages: Messages, mends: Mends) -> list[Message]:
    kept = [
        message
        for message in messages
        if message["role"] != "assistant" or message["content"] or message.get("tool_calls")
    ]
    mends.counts[Mend.TURNS] += len(messages) - len(kept)
    return kept


def _with_results(messages: Messages, mends: Mends) -> list[Message]:
    """Calls that nothing answered get a result that says so."""
    adapted: list[Message] = []
    waiting: list[dict[str, Any]] = []

    def close() -> None:
        mends.counts[Mend.TURNS] += len(waiting)
        for call in waiting:
            result = {"role": "tool", "content": NO_RESULT}
            adapted.append(result if call.get("id") is None else {**result, "tool_call_id": call["id"]})
        waiting.clear()

    for message in messages:
        if message["role"] == "tool":
            call = _answered(message, waiting)
            if call is not None:
                waiting.remove(call)
        else:
            close()
            waiting += message.get("tool_calls") or []
        adapted.append(message)
    return adapted  # a call at the very end is still being worked on


def _with_answers_to_results(messages: Messages, mends: Mends) -> list[Message]:
    adapted: list[Message] = []
    for message in messages:
        if message["role"] == "user" and adapted and adapted[-1]["role"] == "tool":
            mends.counts[Mend.TURNS] += 1
            adapted.append({"role": "assistant", "content": INTERRUPTED})
        adapted.append(message)
    return adapted


def _with_user_first(messages: Messages, mends: Mends) -> list[Message]:
    leading = _leading_systems(messages)
    if leading == len(messages) or messages[leading]["role"] == "user":
        return list(messages)
    mends.counts[Mend.TURNS] += 1
    return [*messages[:leading], {"role": "user", "content": CONTINUED}, *messages[leading:]]


def _with_a_user(messages: Messages, mends: Mends) -> list[Message]:
    if any(message["role"] == "user" for message in messages):
        return list(messages)
    mends.counts[Mend.TURNS] += 1
    leading = _leading_systems(messages)
    return [*messages[:leading], {"role": "user", "content": CONTINUED}, *messages[leading:]]


def _with_users_joined(messages: Messages, mends: Mends) -> list[Message]:
    """User messages in a row become one; so do assistant messages, which the same templates refuse."""
    adapted: list[Message] = []
    for message in messages:
        before = adapted[-1] if adapted else None
        if before is not None and _may_join(before, message):
            mends.counts[Mend.TURNS] += 1
            adapted[-1] = _joined(before, message)
        else:
            adapted.append(message)
    return adapted


def _may_join(first: Message, second: Message) -> bool:
    role = first["role"]
    return role == second["role"] and role in ("user", "assistant") and not first.get("tool_calls")


def _plain(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")


def _prefixed(message: Message, text: str) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return {**message, "content": text + content}
    return {**message, "content": [{"type": "text", "text": text}, *content]}


def _joined(first: Message, second: Message) -> Message:
    """Both messages as one, with a blank line between their texts."""
    one, two = first["content"], second["content"]
    if isinstance(one, str) and isinstance(two, str):
        content: Any = f"{one}\n\n{two}" if one and two else one or two
    else:
        parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in (one, two)]
        content = [*parts[0], *parts[1]]
    return {**first, **second, "content": content}
