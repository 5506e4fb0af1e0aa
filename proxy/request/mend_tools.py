"""Pure. Mends past tool calls, tools and `tool_choice` in forms that the server does not read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import orjson

from proxy.request.mends import Mend, Mends, has_nul, json_text, loads_leniently, replaced, without_nuls

#: Arguments of a past call that are no JSON are shown to the model under this name. No program reads them.
UNPARSED = "unparsed_arguments"


def mended_call(raw: Any, mends: Mends) -> Iterator[dict[str, Any]]:
    """A past call as a function call. Its arguments are an object or the text of valid JSON afterwards."""
    if type(raw) is not dict:
        mends.counts[Mend.CALL_OMITTED] += 1
        return
    call = _as_function_call(raw, mends)
    function = call.get("function")
    if type(function) is not dict or type(function.get("name")) is not str:
        mends.counts[Mend.CALL_OMITTED] += 1
        return
    if (identity := call.get("id")) is not None and type(identity) is not str:
        call = {**call, "id": json_text(identity)}
        mends.counts[Mend.NAME] += 1
    arguments = _arguments(function.get("arguments"), mends)
    if arguments is not function.get("arguments"):
        call = {**call, "function": {**function, "arguments": arguments}}
    yield call


def _as_function_call(raw: dict[str, Any], mends: Mends) -> dict[str, Any]:
    if type(raw.get("function")) is dict and raw.get("type") in (None, "function"):
        return raw
    if type(raw.get("function")) is dict:
        inner: Any = raw["function"]
    elif type(custom := raw.get("custom")) is dict:
        inner = {"name": custom.get("name"), "arguments": {"input": custom.get("input", "")}}
    elif type(raw.get("name")) is str:
        inner = {"name": raw["name"], "arguments": raw.get("input", raw.get("arguments"))}
    else:
        return raw
    mends.counts[Mend.CALL] += 1
    return {"type": "function", "function": inner, **({"id": raw["id"]} if raw.get("id") is not None else {})}


def _arguments(value: Any, mends: Mends) -> Any:
    """Arguments that the server's json.loads takes.

    A value that is valid JSON and no object stays: the template decides, as it does behind the bare server.
    """
    if type(value) is not str or not value.strip():
        return value
    try:
        parsed = orjson.loads(value)
    except orjson.JSONDecodeError:
        return _as_the_server_reads(value, mends)
    if "\\u0000" in value:  # the child would decode it to a NUL
        return replaced(json.loads(value), has_nul, without_nuls, Mend.NUL, mends)
    if type(parsed) is str:
        try:
            inner = orjson.loads(parsed)
        except orjson.JSONDecodeError:
            return value
        if type(inner) is dict:
            mends.counts[Mend.UNQUOTED] += 1
            return inner
    return value


def _as_the_server_reads(value: str, mends: Mends) -> Any:
    """What Python's json reads and the strict parser does not, or else the text itself."""
    inner = Mends()
    try:
        parsed = loads_leniently(value.encode(), inner)
    except (ValueError, RecursionError):
        parsed = None
    mends.counts[Mend.ARGUMENTS] += 1
    return parsed if type(parsed) is dict else {UNPARSED: value}


def mended_tool(raw: Any, mends: Mends) -> Iterator[Any]:
    """A tool as a function; nothing for one that the model cannot call."""
    if type(raw) is not dict:
        yield raw
        return
    if type(function := raw.get("function")) is dict:
        yield from _nested_tool(raw, function, mends)
        return
    kind, name = raw.get("type", "function"), raw.get("name")
    parameters = raw.get("parameters", raw.get("input_schema"))
    if type(name) is str and (kind in (None, "function") or "input_schema" in raw):
        mends.counts[Mend.TOOL] += 1
        function = {"name": name, "description": raw.get("description"), "parameters": parameters}
        yield {
            "type": "function",
            "function": {key: value for key, value in function.items() if value is not None},
        }
    elif kind in (None, "function"):
        yield raw
    else:
        mends.counts[Mend.TOOL_OMITTED] += 1
        mends.omitted_tools.append(str(name or kind))


def _nested_tool(raw: dict[str, Any], function: dict[str, Any], mends: Mends) -> Iterator[Any]:
    if type(function.get("name")) is not str or not function["name"]:
        mends.counts[Mend.TOOL_OMITTED] += 1
        mends.omitted_tools.append("(no name)")
        return
    odd = {
        name
        for name, kind in (("parameters", dict), ("description", str))
        if function.get(name) is not None and type(function[name]) is not kind
    }
    if odd or raw.get("type") not in (None, "function"):
        mends.counts[Mend.TOOL] += 1
        kept = {name: value for name, value in function.items() if name not in odd}
        yield {**raw, "type": "function", "function": kept}
    else:
        yield raw


def mended_functions(fields: dict[str, Any], mends: Mends) -> None:
    """Turn `functions` and `function_call`, which `tools` replaced, into those, in place."""
    functions, call = fields.pop("functions", None), fields.pop("function_call", None)
    if not functions or fields.get("tools"):
        return
    fields["tools"] = functions
    if call is not None:
        fields.setdefault(
            "tool_choice", call if type(call) is str else {"type": "function", "function": call}
        )


def mended_choice(choice: Any, mends: Mends) -> Any:
    """`tool_choice` in the chat API's form: `any` is `required`, and a name needs no nesting."""
    if choice == "any":
        converted: Any = "required"
    elif type(choice) is not dict or type(choice.get("function")) is dict:
        return choice
    elif (kind := choice.get("type")) in ("auto", "none", "required", "any"):
        converted = "required" if kind == "any" else kind
    elif kind in ("function", "tool") and type(choice.get("name")) is str:
        converted = {"type": "function", "function": {"name": choice["name"]}}
    else:
        return choice
    mends.counts[Mend.CHOICE] += 1
    return converted
