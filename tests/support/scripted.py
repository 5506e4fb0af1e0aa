"""What the scripted model says (the fixture `scripted_model`), for tests of reasoning and tool calls."""

from __future__ import annotations

import json
from typing import Any

THOUGHT = "The user asks for the weather. A function gives it."
ANSWER = "It is sunny in Paris (天気 🙂)."
CALLS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("get_weather", {"city": "Paris"}),
    ("get_weather", {"city": "Zürich", "unit": "C"}),
)
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "The weather in a city.",
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}},
                "required": ["city"],
            },
        },
    }
]

_CALLS = (json.dumps({"name": name, "arguments": given}, ensure_ascii=False) for name, given in CALLS)
SAY = f"<think>\n{THOUGHT}\n</think>\n\n{ANSWER}"
SAY_WITH_TOOLS = f"<think>\n{THOUGHT}\n</think>\n\n" + "\n".join(
    f"<tool_call>\n{call}\n</tool_call>" for call in _CALLS
)
