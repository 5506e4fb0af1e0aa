"""One random conversation, as a chat request, as a Messages request and as a Responses request."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from typing import Any

from tests.support.conversations import words

PATHS = ("/v1/chat/completions", "/v1/messages", "/v1/responses")


@dataclass
class Told:
    """The same conversation in the three protocols; each is a body without model and limits."""

    chat: dict[str, Any]
    messages: dict[str, Any]
    responses: dict[str, Any]

    def bodies(self) -> dict[str, dict[str, Any]]:
        return dict(zip(PATHS, (self.chat, self.messages, self.responses), strict=True))


def told(seed: int) -> Told:
    """What all three can say: texts, thoughts, parallel calls and their results, tools."""
    draw = random.Random(seed)
    chat: list[dict[str, Any]] = []
    messages: list[dict[str, Any]] = []
    items: list[dict[str, Any]] = []
    found = Told({"messages": chat}, {"messages": messages}, {"input": items})
    if draw.random() < 0.7:
        system = text(draw)
        chat.append({"role": "system", "content": system})
        found.messages["system"] = system
        found.responses["instructions"] = system
    for number in range(draw.randint(1, 4)):
        _say(found, text(draw))
        for round in range(draw.randint(0, 2)):
            _call(draw, found, f"c{number}-{round}")
        _answer(found, text(draw), text(draw) if draw.random() < 0.5 else "", [])
    _say(found, text(draw))
    if draw.random() < 0.7:
        _offer(draw, found)
    return found


def text(draw: random.Random) -> str:
    """Never empty, and without NUL, which chat refuses."""
    return words(draw).replace("\0", "") or "a"


def _say(found: Told, said: str) -> None:
    found.chat["messages"].append({"role": "user", "content": said})
    # A tool's results are the user's too in Messages; what follows them is in the same message.
    last = found.messages["messages"][-1] if found.messages["messages"] else None
    if last is not None and last["role"] == "user":
        last["content"].append({"type": "text", "text": said})
    else:
        found.messages["messages"].append({"role": "user", "content": said})
    content = [{"type": "input_text", "text": said}]
    found.responses["input"].append({"type": "message", "role": "user", "content": content})


def _call(draw: random.Random, found: Told, id: str) -> None:
    calls = [
        (f"{id}-{index}", draw.choice(("ls", "cat")), {"path": text(draw), "n": draw.randint(0, 9)})
        for index in range(draw.randint(1, 3))
    ]
    _answer(found, draw.choice(("", text(draw))), draw.choice(("", text(draw))), calls)
    results = []
    for call_id, _, _ in calls:
        output = text(draw)
        found.chat["messages"].append({"role": "tool", "tool_call_id": call_id, "content": output})
        results.append({"type": "tool_result", "tool_use_id": call_id, "content": output})
        found.responses["input"].append(
            {"type": "function_call_output", "call_id": call_id, "output": output}
        )
    found.messages["messages"].append({"role": "user", "content": results})


def _answer(found: Told, said: str, thought: str, calls: list[tuple[str, str, dict[str, Any]]]) -> None:
    message: dict[str, Any] = {"role": "assistant", "content": said}
    blocks: list[dict[str, Any]] = []
    items = found.responses["input"]
    if thought:
        message["reasoning_content"] = thought
        blocks.append({"type": "thinking", "thinking": thought, "signature": "x"})
        content = [{"type": "reasoning_text", "text": thought}]
        items.append({"type": "reasoning", "summary": [], "content": content})
    if said:
        blocks.append({"type": "text", "text": said})
        content = [{"type": "output_text", "text": said}]
        items.append({"type": "message", "role": "assistant", "content": content})
    for call_id, name, given in calls:
        blocks.append({"type": "tool_use", "id": call_id, "name": name, "input": given})
        items.append(
            {"type": "function_call", "call_id": call_id, "name": name, "arguments": json.dumps(given)}
        )
    if calls:
        message["tool_calls"] = [
            {"id": call_id, "type": "function", "function": {"name": name, "arguments": given}}
            for call_id, name, given in calls
        ]
    found.chat["messages"].append(message)
    found.messages["messages"].append({"role": "assistant", "content": blocks})


def _offer(draw: random.Random, found: Told) -> None:
    tools = []
    for name in ("ls", "cat"):
        schema = {"type": "object", "properties": {"path": {"type": "string"}}}
        tools.append({"name": name, "description": text(draw), "parameters": schema})
    found.chat["tools"] = [{"type": "function", "function": tool} for tool in tools]
    found.messages["tools"] = [
        {"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in tools
    ]
    found.responses["tools"] = [{"type": "function", **tool} for tool in tools]
