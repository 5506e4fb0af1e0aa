"""Random histories as agents leave them: interrupted, reordered, with late reminders and lost results."""

from __future__ import annotations

import random
from typing import Any

ARGUMENTS = ("{}", '{"a": 1}', "null", "[1]", '{"path": "."}')


def odd_history(seed: int) -> list[dict[str, Any]]:
    """Up to a dozen messages in an order that few templates take as it is; every field is well-formed."""
    draw = random.Random(seed)
    messages: list[dict[str, Any]] = []
    for _ in range(draw.randint(1, 8)):
        match draw.choice(("system", "user", "user", "assistant", "calls", "calls", "result")):
            case "system":
                messages.append({"role": "system", "content": f"reminder {draw.randint(0, 99)}"})
            case "user":
                messages.append({"role": "user", "content": f"question {draw.randint(0, 99)}"})
            case "assistant":
                messages.append({"role": "assistant", "content": draw.choice(["", "an answer"])})
            case "calls":
                messages += _calls(draw)
            case "result":
                messages.append({"role": "tool", "tool_call_id": "lost", "content": "a lost result"})
    return messages


def _calls(draw: random.Random) -> list[dict[str, Any]]:
    ids = [f"call_{draw.randint(0, 999)}" for _ in range(draw.randint(1, 2))]
    functions = [{"name": "f", "arguments": draw.choice(ARGUMENTS)} for _ in ids]
    calls = [{"type": "function", "id": id, "function": f} for id, f in zip(ids, functions, strict=True)]
    results = [{"role": "tool", "tool_call_id": id, "content": "done"} for id in ids if draw.random() < 0.8]
    return [{"role": "assistant", "content": "", "tool_calls": calls}, *results]
