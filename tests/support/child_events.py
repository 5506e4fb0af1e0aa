"""Events as mlx_lm.server 0.32.2 writes them (generate_response, completion_usage_response), for tests."""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"


def head(run: str = "aaaa", *, chat: bool = True) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{run}" if chat else f"cmpl-{run}",
        "system_fingerprint": "0.32.2-0.32.4-Linux",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "model": "default_model",
        "created": 1_700_000_000,
    }


def event(value: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(value)}\n\n".encode()


def delta(run: str = "aaaa", finish: str | None = None, **parts: Any) -> bytes:
    """One chat event; parts: content, reasoning, tool_calls."""
    choice = {"index": 0, "finish_reason": finish, "delta": {"role": "assistant", **parts}}
    return event({**head(run), "choices": [choice]})


def text(piece: str, run: str = "aaaa", finish: str | None = None) -> bytes:
    """One text completion event."""
    choice = {"index": 0, "finish_reason": finish, "text": piece}
    return event({**head(run, chat=False), "choices": [choice]})


def usage(prompt: int = 7, completion: int = 3, cached: int | None = 2, run: str = "aaaa") -> bytes:
    counts: dict[str, Any] = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
    if cached is not None:
        counts["prompt_tokens_details"] = {"cached_tokens": cached}
    return event({**head(run), "object": "chat.completion", "choices": [], "usage": counts})


def chat_stream(*pieces: str, run: str = "aaaa", finish: str = "stop") -> bytes:
    """A whole chat answer."""
    body = b"".join(delta(run, content=piece) for piece in pieces)
    return body + delta(run, finish=finish) + usage(completion=len(pieces) + 1, run=run) + DONE


def tool_call(name: str, arguments: str, *, index: int = 0) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"function": function, "type": "function", "id": f"call-{index}", "index": index}
