"""How much of a prompt stays when an agent goes on: what the child's prompt cache lives on.

The conversations have the shape and the sizes of recorded ones. A prompt is rendered as most templates do:
the system's text, the tools, the messages.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.messages.translate import messages_request
from proxy.dialects.responses.last_tools import LastTools
from proxy.dialects.responses.translate import responses_request
from proxy.request.completion import Bounds, ChatPrompt, CompletionRequest

MARK = {"cache_control": {"type": "ephemeral"}}
DEFERRED = {
    "name": "WebFetch",
    "description": "w" * 900,
    "input_schema": {"type": "object"},
    "defer_loading": True,
}
TOOLS = [
    {"name": f"Tool{n}", "description": "t" * 2500, "input_schema": {"type": "object"}} for n in range(12)
]


def rendered(request: CompletionRequest) -> str:
    prompt = request.prompt
    assert isinstance(prompt, ChatPrompt)
    system, rest = ("", prompt.messages)
    if prompt.messages[0]["role"] == "system":
        system, rest = prompt.messages[0]["content"], prompt.messages[1:]
    tools = "\n".join(json.dumps(tool) for tool in prompt.tools or ())
    turns = "".join(f"<{m['role']}>{json.dumps({k: m[k] for k in m if k != 'role'})}" for m in rest)
    return f"<system>{system}<tools>{tools}{turns}"


def kept(old: str, new: str) -> int:
    """Characters that both have at their beginning."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(old), len(new)))


# Claude Code


def claude(
    *turns: dict[str, Any], billing: str = "b24", first: str = "do it", tools: list[Any] | None = None
) -> str:
    system = [
        {
            "type": "text",
            "text": f"x-anthropic-billing-header: cc_version=2.1.332.{billing}; cc_entrypoint=cli;",
        },
        {"type": "text", "text": "You are Claude Code.", **MARK},
        {"type": "text", "text": "s" * 6900, **MARK},
    ]
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "r" * 5000}, {"type": "text", "text": first}]},
        {"role": "system", "content": "d" * 4000},
        *turns,
    ]
    # The mark sits on the last block of all, and moves with each turn; a string becomes a list for it.
    last = messages[-1]
    blocks = last["content"] if type(last["content"]) is list else [{"type": "text", "text": last["content"]}]
    messages[-1] = {**last, "content": [*blocks[:-1], {**blocks[-1], **MARK}]}
    body = {
        "model": "m",
        "system": system,
        "messages": messages,
        "tools": [*(tools or TOOLS), DEFERRED],
        "metadata": {"user_id": json.dumps({"session": billing})},
    }
    return rendered(messages_request(json.dumps(body).encode(), Bounds()).request)


CALL = {
    "role": "assistant",
    "content": [
        {"type": "thinking", "thinking": "hm", "signature": "x"},
        {"type": "tool_use", "id": "toolu_1", "name": "Tool1", "input": {"command": "ls"}},
    ],
}
RESULT = {
    "role": "user",
    "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "a\nb"}],
}
ANSWER = {"role": "assistant", "content": [{"type": "text", "text": "done"}]}


@pytest.mark.parametrize(
    "turns", [[CALL, RESULT], [CALL, RESULT, ANSWER, {"role": "user", "content": "go on"}]]
)
def test_claude_keeps_all_of_the_turn_before(turns: list[Any]) -> None:
    old = claude(*turns[:-2])
    assert kept(old, claude(*turns)) == len(old)


def test_claude_keeps_system_and_tools_in_a_new_session() -> None:
    old, new = claude(CALL, RESULT), claude(billing="c11", first="another task")
    assert kept(old, new) / len(new) >= 0.8


def test_claude_keeps_system_and_tools_after_a_compaction() -> None:
    summary = {"role": "user", "content": "This session is being continued. " + "x" * 3000}
    old, new = claude(CALL, RESULT), claude(summary, billing="c11", first="x")
    assert kept(old, new) / len(new) >= 0.8


def test_claude_keeps_nearly_all_in_its_compaction_request() -> None:
    """It leaves out the last round and adds its instruction."""
    asked = {"role": "user", "content": "Respond with TEXT ONLY. " + "i" * 6000}
    old, new = (
        claude(CALL, RESULT, ANSWER, {"role": "user", "content": "go on"}),
        claude(CALL, RESULT, ANSWER, asked),
    )
    assert kept(old, new) / len(old) >= 0.9


def test_claude_keeps_all_when_it_finds_a_tool() -> None:
    found = {
        "role": "user",
        "content": [
            {
                "type": "tool_result",
                "tool_use_id": "toolu_1",
                "content": [{"type": "tool_reference", "tool_name": "Search"}],
            }
        ],
    }
    search = {**DEFERRED, "name": "Search"}
    old = claude(CALL)
    new = claude(CALL, found, tools=[*TOOLS[:6], search, *TOOLS[6:]])
    assert kept(old, new) == len(old)
    assert "Search" in new


def test_claude_keeps_the_tools_result_wherever_the_cache_mark_is() -> None:
    assert claude(CALL, RESULT) in claude(CALL, RESULT, ANSWER)


# Codex


def codex(*items: Any, last: LastTools, tools: list[Any] | None = None, number: int = 0) -> str:
    def message(role: str, *texts: str) -> dict[str, Any]:
        content = [{"type": "input_text", "text": text} for text in texts]
        return {"type": "message", "id": f"msg_{number}", "role": role, "content": content}

    given = [
        message("developer", "b" * 17000),
        message("developer", "s" * 2100, "p" * 400),
        message("user", "<environment_context>Monday</environment_context>"),
        message("user", "do it"),
        *items,
    ]
    body = {
        "model": "m",
        "input": given,
        "tools": CODEX_TOOLS if tools is None else tools,
        "prompt_cache_key": "thread",
        "client_metadata": {"turn": str(number)},
    }
    return rendered(responses_request(json.dumps(body).encode(), Bounds(), last).request)


CODEX_TOOLS = [
    *({"type": "function", "name": f"tool{n}", "description": "t" * 2000, "strict": False} for n in range(7)),
    {"type": "namespace", "name": "agents", "tools": [{"type": "function", "name": "spawn_agent"}]},
    {"type": "web_search"},
]
CODEX_ROUND = [
    {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    {"type": "function_call", "id": "fc_1", "name": "tool1", "arguments": '{"cmd": "ls"}', "call_id": "c1"},
    {"type": "function_call_output", "call_id": "c1", "output": "Chunk ID: 1\nOutput:\na"},
]


def test_codex_keeps_all_of_the_turn_before() -> None:
    last = LastTools()
    old = codex(last=last)
    assert kept(old, codex(*CODEX_ROUND, last=last, number=1)) == len(old)


def test_codex_keeps_all_in_its_compaction_request() -> None:
    last = LastTools()
    old = codex(*CODEX_ROUND, last=last)
    asked = {
        "type": "message",
        "role": "user",
        "content": "You are performing a CONTEXT CHECKPOINT COMPACTION.",
    }
    assert kept(old, codex(*CODEX_ROUND, asked, last=last, tools=[], number=1)) == len(old)
    assert kept(old, codex(*CODEX_ROUND, asked, last=LastTools(), tools=[])) / len(old) < 0.6, (
        "as it was sent"
    )


def test_codex_keeps_system_and_tools_after_a_compaction() -> None:
    last = LastTools()
    old = codex(*CODEX_ROUND, last=last)
    summary = {"type": "message", "role": "user", "content": "Summary."}
    new = codex(summary, last=last)
    assert kept(old, new) / len(new) >= 0.95


def test_codex_without_tools_shares_the_system_at_least() -> None:
    last = LastTools()
    old, title = codex(last=last), codex(last=last, tools=[], number=2)
    assert kept(old, title) >= 19_500
