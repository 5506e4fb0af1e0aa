"""Pure. Messages and tools of a chat request, checked and reduced to what chat templates read.

The checks are hand-written over plain dicts: a conversation of an agent is megabytes in hundreds of messages,
sent again every turn, and they run on the event loop.
"""

from __future__ import annotations

from typing import Any

import orjson

from proxy.request.fields import mapping, refuse, string, too_deep
from proxy.request.images import KINDS, ImagePolicy, Images

#: Role of the client -> role that templates know.
ROLES = {
    "system": "system",
    "developer": "system",  # OpenAI's newer name for it; no template knows the word
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
}
#: Most messages and tools per request. Real conversations have hundreds; the limits bound the time that the
#: checks take on the event loop.
_MOST_MESSAGES, _MOST_TOOLS = 20_000, 2_000
#: Longest name or id, in characters. Call ids of some providers carry a signed state of a few thousand.
_LONGEST_NAME = 65_536
#: Nesting levels of a body, a JSON Schema or tool arguments: far above real use (thirty nested objects of
#: a schema take sixty), below the depth at which recursive writers fail (orjson: 254).
DEEPEST = 200

#: Type of a text part -> the field that contains its text.
_TEXT_PARTS = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal"}

Message = dict[str, Any]


def parse_messages(value: Any, images: Images | None = None) -> tuple[Message, ...]:
    """The conversation. Raises InvalidRequest naming the field.

    The content of a message is one string, or a list of parts if it has images, which `images` checks.
    """
    images = images or Images(ImagePolicy())
    if type(value) is not list or not value:
        refuse("messages", "must be a list with at least one message")
    if len(value) > _MOST_MESSAGES:
        refuse("messages", f"must have at most {_MOST_MESSAGES} messages")
    return tuple([_message(raw, index, images) for index, raw in enumerate(value)])


def _message(raw: Any, index: int, images: Images) -> Message:
    where = f"messages[{index}]"
    role = ROLES.get(_role(raw, where))
    if role is None:
        refuse(f"{where}.role", "must be one of system, developer, user, assistant and tool")
    message: Message = {"role": role, "content": _content(raw.get("content"), index, images)}
    if raw.get("name") is not None:
        message["name"] = string(raw["name"], f"{where}.name", _LONGEST_NAME)
    if role == "assistant":
        _add_assistant_fields(message, raw, where)
    elif role == "tool" and raw.get("tool_call_id") is not None:
        message["tool_call_id"] = string(raw["tool_call_id"], f"{where}.tool_call_id", _LONGEST_NAME)
    return message


def _role(raw: Any, where: str) -> str:
    role = mapping(raw, where).get("role")
    return role if type(role) is str else ""


def _content(value: Any, index: int, images: Images) -> str | list[dict[str, Any]]:
    """The text, its parts joined as the server joins them; null is the empty text, as in the server."""
    if type(value) is str:
        return value
    if value is None:
        return ""
    where = f"messages[{index}].content"
    if type(value) is not list:
        refuse(where, "must be a string or a list of parts")
    parts: list[str | dict[str, Any]] = [
        images.part(part, f"{where}[{number}]", index, number)
        if _is_image(part)
        else _text(part, f"{where}[{number}]")
        for number, part in enumerate(value)
    ]
    texts = [part for part in parts if isinstance(part, str)]
    if len(texts) == len(parts):
        return "".join(texts)
    return [{"type": "text", "text": part} if isinstance(part, str) else part for part in parts]


def _is_image(part: Any) -> bool:
    return type(part) is dict and type(kind := part.get("type")) is str and kind in KINDS


def _text(part: Any, where: str) -> str:
    if type(part) is str:
        return part
    kind = mapping(part, where).get("type", "text")
    field = _TEXT_PARTS.get(kind) if type(kind) is str else None
    if field is None:
        refuse(f"{where}.type", "must be text or image_url: this server takes no audio or files")
    if type(part.get(field)) is not str:
        refuse(f"{where}.{field}", "must be a string")
    text: str = part[field]
    return text


def _add_assistant_fields(message: Message, raw: dict[str, Any], where: str) -> None:
    """Add tool calls, and reasoning under the two names that transformers aliases for templates."""
    for field in ("reasoning_content", "reasoning"):
        if raw.get(field) is not None:
            if type(raw[field]) is not str:
                refuse(f"{where}.{field}", "must be a string")
            message[field] = raw[field]
    if raw.get("function_call") is not None:
        refuse(f"{where}.function_call", "is not supported: use tool_calls")
    calls = raw.get("tool_calls")
    if calls is None or calls == []:
        return
    if type(calls) is not list:
        refuse(f"{where}.tool_calls", "must be a list")
    message["tool_calls"] = [_call(call, f"{where}.tool_calls[{index}]") for index, call in enumerate(calls)]


def _call(call: Any, where: str) -> dict[str, Any]:
    if mapping(call, where).get("type", "function") not in ("function", None):
        refuse(f"{where}.type", "must be function")
    function = mapping(call.get("function"), f"{where}.function")
    name = string(function.get("name"), f"{where}.function.name", _LONGEST_NAME)
    arguments = _arguments(function.get("arguments"), f"{where}.function.arguments")
    checked: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    if call.get("id") is not None:
        checked["id"] = string(call["id"], f"{where}.id", _LONGEST_NAME)
    return checked


def _arguments(value: Any, where: str) -> Any:
    """Tool arguments as JSON or as its text, which the server parses; null or empty means none.

    The text is passed on unchanged: the server's own parser keeps integers of any size. Arguments that are no
    object are left to the template, as they are behind the bare server.
    """
    if value is None or (type(value) is str and not value.strip()):
        return {}
    parsed = value
    if type(value) is str:
        try:
            parsed = orjson.loads(value)
        except orjson.JSONDecodeError:
            refuse(where, "must be JSON text")
    if too_deep(parsed, DEEPEST):
        refuse(where, f"must not nest deeper than {DEEPEST} levels")
    return value


def parse_tools(tools: Any, choice: Any) -> tuple[dict[str, Any], ...] | None:
    """The tools that the model is shown. Raises InvalidRequest.

    The server cannot force a call, so `tool_choice` only selects what is offered: nothing for `none`, one
    function for its name, everything for `required` as for `auto`. Refusing the last two would stop agents
    that work well without the guarantee.
    """
    if tools is not None and type(tools) is not list:
        refuse("tools", "must be a list")
    if len(tools or ()) > _MOST_TOOLS:
        refuse("tools", f"must have at most {_MOST_TOOLS} tools")
    checked = tuple([_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools or ())])
    return _chosen(checked, choice) or None


def _tool(tool: Any, where: str) -> dict[str, Any]:
    if mapping(tool, where).get("type", "function") not in ("function", None):
        refuse(f"{where}.type", "must be function: this server runs no tools of its own")
    function = mapping(tool.get("function"), f"{where}.function")
    string(function.get("name"), f"{where}.function.name", _LONGEST_NAME)
    if not function["name"]:
        refuse(f"{where}.function.name", "must not be empty")
    if function.get("parameters") is not None:
        mapping(function["parameters"], f"{where}.function.parameters")
    if function.get("description") is not None and type(function["description"]) is not str:
        refuse(f"{where}.function.description", "must be a string")
    present = {name: value for name, value in function.items() if value is not None}
    return {"type": "function", "function": present}


def _chosen(tools: tuple[dict[str, Any], ...], choice: Any) -> tuple[dict[str, Any], ...]:
    if choice in (None, "auto", "required"):
        return tools
    if choice == "none":
        return ()
    function = choice.get("function") if type(choice) is dict else None
    name = function.get("name") if type(function) is dict else None
    if type(name) is not str:
        refuse("tool_choice", "must be auto, none, required or a function by name")
    chosen = tuple([tool for tool in tools if tool["function"]["name"] == name])
    if not chosen:
        refuse("tool_choice", "names a function that is not among the tools")
    return chosen
