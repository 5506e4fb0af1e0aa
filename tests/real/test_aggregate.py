"""Streamed and aggregated must equal what the child answers unstreamed: the child is asked both ways."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.stream.aggregate import Aggregator, WholeBody
from proxy.stream.answer import Answer
from tests.real.processes import Running, bare_server
from tests.support.canaries import PROMPT
from tests.support.scripted import ANSWER, CALLS, THOUGHT, TOOLS

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def server(scripted_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """The unmodified server, with the model that thinks, calls tools and answers."""
    with bare_server(scripted_model, tmp_path_factory.mktemp("aggregate")) as server:
        yield server


def asked(server: Running, path: str, body: dict[str, Any]) -> bytes:
    request = urllib.request.Request(
        f"{server.base_url}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=60) as reply:
        whole: bytes = reply.read()
    return whole


def both_ways(server: Running, path: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the child's own answer, ours from its stream), without what differs in every answer."""
    body = {"model": "default_model", "temperature": 0, **body}
    streamed = {**body, "stream": True, "stream_options": {"include_usage": True}}
    asked(server, path, body)  # fills the prompt cache, so that both see the same cached tokens
    own = json.loads(asked(server, path, body))
    answer = Answer.new(unique="ours", created=own["created"], model=own["model"], is_chat="chat" in path)
    aggregator = Aggregator(answer)
    aggregator.feed(asked(server, path, streamed))
    assert aggregator.seen.done
    ours = json.loads(aggregator.body())
    assert own.pop("id").split("-")[0] == ours.pop("id").split("-")[0]
    message = ours["choices"][0].get("message", {})
    assert message.pop("reasoning_content", None) == message.get("reasoning")
    for each in (own, ours):
        for call in each["choices"][0].get("message", {}).get("tool_calls", ()):
            call.pop("id")  # random in each run
    return own, ours


def user(text: str, **more: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"{PROMPT} {text}"}], "max_tokens": 400, **more}


def test_reasoning_and_text(server: Running) -> None:
    own, ours = both_ways(server, "/chat/completions", user("Weather?"))
    assert ours == own
    message = ours["choices"][0]["message"]
    assert (message["reasoning"].strip(), message["content"].strip()) == (THOUGHT, ANSWER)
    assert ours["choices"][0]["finish_reason"] == "stop"


def test_tool_calls(server: Running) -> None:
    own, ours = both_ways(server, "/chat/completions", user("Weather?", tools=TOOLS))
    assert ours == own
    choice = ours["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    calls = [
        (call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in choice["message"]["tool_calls"]
    ]
    assert calls == list(CALLS)


@pytest.mark.parametrize("max_tokens", [1, 5, 12])
def test_cut_by_length(server: Running, max_tokens: int) -> None:
    """Within reasoning, there is no content: null, as the child says."""
    own, ours = both_ways(server, "/chat/completions", user("Weather?", max_tokens=max_tokens))
    assert ours == own
    assert ours["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize("max_tokens", [20, 30, 40, 50])
def test_tool_calls_cut_by_length(server: Running, max_tokens: int) -> None:
    """A call that does not parse is dropped by the child."""
    own, ours = both_ways(server, "/chat/completions", user("Weather?", tools=TOOLS, max_tokens=max_tokens))
    assert ours == own


def test_a_stop_word(server: Running) -> None:
    own, ours = both_ways(server, "/chat/completions", user("Weather?", stop=["Paris"]))
    assert ours == own


def test_text(server: Running) -> None:
    own, ours = both_ways(server, "/completions", {"prompt": "The weather", "max_tokens": 20})
    assert ours == own
    assert ours["object"] == "text_completion"


def test_log_probabilities(server: Running) -> None:
    body = {
        "model": "default_model",
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": 3,
        **user("Weather?"),
    }
    own = json.loads(asked(server, "/chat/completions", body))
    whole = WholeBody(Answer.new(unique="ours", created=own["created"], model=own["model"], is_chat=True))
    whole.feed(json.dumps(own).encode())
    whole.end()

    ours = json.loads(whole.body())

    assert ours["choices"][0]["logprobs"]["content"]
    assert ours["usage"] == own["usage"]
    assert ours["choices"][0]["message"]["content"] == own["choices"][0]["message"]["content"]
