"""Pure. What a request demands of its answer's form: JSON, JSON by a schema, or a function call.

The server samples freely, so a form cannot be guaranteed. It can be told to the model, and the answer can be
checked: `wanted_output` reads `response_format` and `tool_choice`, `told` adds a fixed text at the end of the
system text, where it is the same in every turn of a session, and `examine` says what an answer lacks. The
relay asks again with that until an answer fits (proxy/prompt/output_check.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from proxy.request.fields import mapping, refuse
from proxy.request.mends import json_text
from proxy.request.messages import Message

#: A code fence around the whole of an answer, which models write whatever they are told.
_FENCED = re.compile(r"\s*```[A-Za-z]*\s*\n(.*?)\n?\s*```\s*", re.DOTALL)
_ANY_OBJECT: dict[str, Any] = {"type": "object"}
#: Characters of a wrong answer that the model is shown again.
_LONGEST_ANSWER = 20_000


@dataclass(frozen=True, slots=True)
class WantedOutput:
    """The form that an answer must have.

    Attributes:
        param: the field that demands it.
        schema: of a JSON answer; None if a call is demanded.
        functions: the parameters of the functions by name, one of which must be called; empty if none has to.
    """

    param: str
    schema: dict[str, Any] | None
    functions: Mapping[str, dict[str, Any]]

    def told(self, *, tools: bool) -> str:
        """What the model is told. `tools`: it may also call functions before it answers."""
        if self.schema is None:
            names = list(self.functions)
            which = f"the function {names[0]}" if len(names) == 1 else "one of the functions"
            return f"Do not answer with text: call {which}."
        subject = "An answer that is not a function call" if tools else "Your answer"
        alone = f"{subject} must be JSON alone, without any text before or after it and without a code fence."
        if self.schema == _ANY_OBJECT:
            return f"{alone} It must be an object."
        return f"{alone} It must be valid by this JSON Schema:\n{json_text(self.schema)}"

    def correction(self, problem: str) -> str:
        """What the model is told about an answer that does not fit."""
        how = "with a function call" if self.schema is None else "with the corrected JSON alone"
        return f"This answer cannot be used: {problem} Answer again, {how}."


@dataclass(frozen=True, slots=True)
class Check:
    """A value of an answer that must be valid by a schema; `name` says which one it is."""

    name: str
    value: Any
    schema: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Examined:
    """What an answer lacks, or else what of it must still be checked. `content`: the JSON alone."""

    problem: str | None = None
    checks: tuple[Check, ...] = ()
    content: str | None = None


def wanted_output(
    fields: Mapping[str, Any], tools: Sequence[dict[str, Any]] | None, mode: str
) -> tuple[WantedOutput | None, tuple[str, ...]]:
    """The form that the answer must have, and the fields that are ignored. Raises InvalidRequest.

    `mode`: "retry", "ignore" or "refuse", as in `[request] structured_output`.
    """
    schema, unknown = _schema(fields.get("response_format"))
    choice = fields.get("tool_choice")
    forced = bool(tools) and (choice == "required" or type(choice) is dict)
    if mode == "refuse":
        if schema is not None or unknown:
            refuse("response_format.type", "must be text: this server holds its answers to no form")
        if forced:
            refuse("tool_choice", "must be auto or none: this server forces no calls")
    ignored = ("response_format",) * (unknown or (mode == "ignore" and schema is not None))
    if mode == "ignore":
        return None, ignored + ("tool_choice",) * forced
    if forced:
        functions = {
            tool["function"]["name"]: tool["function"].get("parameters") or {} for tool in tools or ()
        }
        return WantedOutput("tool_choice", None, functions), ignored
    return (None if schema is None else WantedOutput("response_format", schema, {})), ignored


def _schema(wanted: Any) -> tuple[dict[str, Any] | None, bool]:
    """The schema that `response_format` demands, and whether it demands something unknown."""
    if wanted is None:
        return None, False
    kind = wanted.get("type") if type(wanted) is dict else None
    if kind == "text":
        return None, False
    if kind == "json_object":
        return mapping(wanted.get("schema") or _ANY_OBJECT, "response_format.schema"), False
    if kind != "json_schema":
        return None, True
    holder = wanted.get("json_schema") or wanted
    schema = mapping(holder, "response_format.json_schema").get("schema")
    return mapping(schema, "response_format.json_schema.schema"), False


def with_told(messages: Sequence[Message], text: str) -> tuple[Message, ...]:
    """The conversation with `text` at the end of the system text that it begins with."""
    leading = next((i for i, message in enumerate(messages) if message["role"] != "system"), len(messages))
    if not leading:
        return ({"role": "system", "content": text}, *messages)
    last = messages[leading - 1]
    content = last["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{text}" if content else text
    else:
        content = [*content, {"type": "text", "text": f"\n\n{text}"}]
    return (*messages[: leading - 1], {**last, "content": content}, *messages[leading:])


def with_correction(
    messages: Sequence[Message], answer: Mapping[str, Any], wanted: WantedOutput, problem: str
) -> tuple[Message, ...]:
    """The conversation with an answer that does not fit, and what is wrong with it."""
    said = answer.get("content") or ""
    if calls := answer.get("tool_calls"):
        said = "\n".join(filter(None, (said, json_text([call["function"] for call in calls]))))
    return (
        *messages,
        {"role": "assistant", "content": said[:_LONGEST_ANSWER]},
        {"role": "user", "content": wanted.correction(problem)},
    )


def examine(wanted: WantedOutput, message: Mapping[str, Any]) -> Examined:
    """What is wrong with the message of an answer by itself, or what must be valid by a schema."""
    calls = message.get("tool_calls") or []
    if wanted.schema is None:
        return _examine_calls(wanted, calls)
    if calls:
        return Examined()
    text = (message.get("content") or "").strip()
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1].strip()
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return Examined(problem=f"it is not JSON ({str(error)[:80]}).")
    return Examined(checks=(Check("the answer", value, wanted.schema),), content=text)


def _examine_calls(wanted: WantedOutput, calls: Sequence[Mapping[str, Any]]) -> Examined:
    if not calls:
        return Examined(problem="it calls no function.")
    checks = []
    for call in calls:
        name, text = call["function"]["name"], call["function"].get("arguments")
        if name not in wanted.functions:
            return Examined(problem=f"{name} is none of the functions that may be called.")
        try:
            value = orjson.loads(text) if isinstance(text, str) else None
        except orjson.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            return Examined(problem=f"the arguments of {name} are no JSON object.")
        checks.append(Check(f"the arguments of {name}", value, wanted.functions[name]))
    return Examined(checks=tuple(checks))
