"""Messages and Responses against the real server: the SDKs of both, and equal prompts for equal meaning."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.real.processes import Gateway
from tests.real.venvs import environment
from tests.support.canaries import KEY, PROMPT
from tests.support.dialect_conversations import told
from tests.support.messages_protocol import MessagesClient
from tests.support.responses_protocol import ResponsesClient

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

HERE = Path(__file__).parent
ENVIRON = os.environ | {"CANARY_PROMPT": PROMPT, "CANARY_KEY": KEY}


@pytest.fixture(scope="session")
def anthropic() -> Path:
    """The Python of an environment with the anthropic package."""
    return environment("anthropic==2.14.0") / "python"


@pytest.fixture(
    scope="session",
    params=["newest", pytest.param("openai==2.20.0", marks=pytest.mark.clients)],
)
def openai(request: pytest.FixtureRequest) -> Path:
    """The Python of an environment with a version of the openai package; the newest is in our own."""
    return Path(sys.executable) if request.param == "newest" else environment(request.param) / "python"


def _run(python: Path, session: str, url: str, *names: str) -> None:
    command = [str(python), str(HERE / session), url, *names]
    done = subprocess.run(command, env=ENVIRON, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.clients
def test_anthropic(anthropic: Path, shared_guard: Gateway) -> None:
    names = ("plain", "counts", "events", "errors", "asynchronous")
    _run(anthropic, "anthropic_session.py", shared_guard.url, *names)


@pytest.mark.clients
def test_anthropic_with_tools(anthropic: Path, scripted_guard: Gateway) -> None:
    _run(anthropic, "anthropic_session.py", scripted_guard.url, "tools")


def test_responses(openai: Path, shared_guard: Gateway) -> None:
    _run(openai, "responses_session.py", shared_guard.base_url, "plain", "errors", "asynchronous")


def test_responses_with_tools(openai: Path, scripted_guard: Gateway) -> None:
    _run(openai, "responses_session.py", scripted_guard.base_url, "tools")


def _post(guard: Gateway, path: str, body: dict[str, Any], **headers: str) -> tuple[int, Any, bytes]:
    request = urllib.request.Request(
        f"{guard.url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json", **headers}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.headers, error.read()


CALL = {"id": "c1", "name": "get_weather", "arguments": {"city": "Paris"}}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Weather?"},
    {
        "role": "assistant",
        "content": "Looking.",
        "reasoning_content": "A function gives it.",
        "tool_calls": [
            {
                "id": "c1",
                "type": "function",
                "function": {"name": "get_weather", "arguments": '{"city": "Paris"}'},
            }
        ],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
    {"role": "user", "content": "Thanks."},
]
FUNCTION = {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object"}}
REQUESTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": CHAT, "tools": [{"type": "function", "function": FUNCTION}]},
    "/v1/messages": {
        "system": "Be brief.",
        "messages": [
            {"role": "user", "content": "Weather?"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "A function gives it.", "signature": "x"},
                    {"type": "text", "text": "Looking."},
                    {"type": "tool_use", "id": "c1", "name": "get_weather", "input": {"city": "Paris"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": "sunny"},
                    {"type": "text", "text": "Thanks."},
                ],
            },
        ],
        "tools": [{"name": "get_weather", "description": "The weather.", "input_schema": {"type": "object"}}],
    },
    "/v1/responses": {
        "instructions": "Be brief.",
        "input": [
            {"role": "user", "content": "Weather?"},
            {
                "type": "reasoning",
                "id": "rs_1",
                "summary": [],
                "content": [{"type": "reasoning_text", "text": "A function gives it."}],
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Looking."}],
            },
            {
                "type": "function_call",
                "name": "get_weather",
                "arguments": '{"city": "Paris"}',
                "call_id": "c1",
            },
            {"type": "function_call_output", "call_id": "c1", "output": "sunny"},
            {"role": "user", "content": "Thanks."},
        ],
        "tools": [{"type": "function", **FUNCTION}],
    },
}


def test_the_same_conversation_is_the_same_prompt_in_each_dialect(scripted_guard: Gateway) -> None:
    """The server's own count and cache: the second and third find all of the first."""
    usage = []
    for path, body in REQUESTS.items():
        limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
        status, headers, answer = _post(scripted_guard, path, {**body, limit: 1})
        assert status == 200, answer
        found = json.loads(answer)["usage"]
        match path:
            case "/v1/chat/completions":
                counts = found["prompt_tokens"], found["prompt_tokens_details"]["cached_tokens"]
            case "/v1/messages":
                cached = found["cache_read_input_tokens"]
                counts = found["input_tokens"] + cached, cached
            case _:
                counts = found["input_tokens"], found["input_tokens_details"]["cached_tokens"]
        assert int(headers["x-mlxguard-prompt-tokens"]) == counts[0]
        usage.append(counts)
    (prompt, _), *others = usage
    assert [count for count, _ in others] == [prompt, prompt]
    assert all(cached >= prompt - 1 for _, cached in others), usage


def test_counts_are_the_servers_own_in_each_dialect(scripted_guard: Gateway) -> None:
    for seed in range(20):
        counts = set()
        for path, body in told(seed).bodies().items():
            limit = "max_output_tokens" if path == "/v1/responses" else "max_tokens"
            status, headers, answer = _post(scripted_guard, path, {**body, limit: 1})
            assert status == 200, answer
            counts.add(int(headers["x-mlxguard-prompt-tokens"]))
        body = told(seed).messages
        counts.add(json.loads(_post(scripted_guard, "/v1/messages/count_tokens", body)[2])["input_tokens"])
        assert len(counts) == 1, seed
    # The gateway compares each of its counts with the usage that the server reports.
    mismatches = re.search(
        r"^mlxguard_prompt_count_mismatches_total (\S+)", scripted_guard.get("/metrics")[1], re.M
    )
    assert mismatches is not None
    assert float(mismatches[1]) == 0


def test_streams_of_both_keep_their_protocol(scripted_guard: Gateway) -> None:
    body = {**REQUESTS["/v1/messages"], "stream": True, "max_tokens": 200}
    status, headers, stream = _post(scripted_guard, "/v1/messages?beta=true", body)
    assert (status, headers["Content-Type"]) == (200, "text/event-stream")
    message = MessagesClient().read(stream)
    assert message.stopped
    body = {**REQUESTS["/v1/responses"], "stream": True}
    status, _, stream = _post(scripted_guard, "/v1/responses", body)
    assert ResponsesClient().read(stream).ended


def test_what_claude_code_asks_at_its_start(shared_guard: Gateway) -> None:
    request = urllib.request.Request(f"{shared_guard.url}/api/hello", method="HEAD")
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200
    status, body = shared_guard.get("/v1/models?limit=1000")
    assert (status, json.loads(body)["data"][0]["type"]) == (200, "model")
    status, _, answer = _post(shared_guard, "/v1/messages/nothing", {})
    assert (status, json.loads(answer)["error"]["type"]) == (404, "not_found_error")
