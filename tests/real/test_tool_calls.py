"""Tool calls of a sloppy model, from the real server's parser to the client: whole or not at all."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from proxy.stream.tool_calls import UNREADABLE
from tests.conftest import MakeTiny
from tests.real.processes import Gateway, guard
from tests.support.relay_stand import events_of
from tests.support.scripted import TOOLS

pytestmark = pytest.mark.real

#: What a model writes between the marks of a call, and the server then makes of it.
DROPPED = '{"name": "get_weather", "arguments": {"city": "Paris"}}}'
CHOKED_ON = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
QUOTED = json.dumps({"name": "get_weather", "arguments": json.dumps({"city": "Paris"})})
ODD_NUMBER = '{"name": "get_weather", "arguments": {"city": "Oslo", "degrees": NaN}}'

WAYS = [{"stream": True}, {"stream": False}, {"logprobs": True}]


@pytest.fixture(scope="module", params=["dropped", "choked on", "odd"])
def case(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def proxy(case: str, make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    calls = {"dropped": [DROPPED], "choked on": [CHOKED_ON], "odd": [QUOTED, ODD_NUMBER]}[case]
    said = "\n".join(f"<tool_call>\n{call}\n</tool_call>" for call in calls)
    model: Path = make_tiny(say="Fine.", say_with_tools=said)
    with guard(model, tmp_path_factory.mktemp("guard")) as proxy:
        yield proxy


@pytest.mark.parametrize("way", WAYS, ids=["streamed", "whole", "logprobs"])
def test_calls_come_whole_or_not_at_all(proxy: Gateway, case: str, way: dict[str, Any]) -> None:
    before = _counts(proxy, case)
    message, finish, headers = _ask(proxy, way)
    assert _counts(proxy, case) == [count + 1 for count in before]
    if case == "odd":
        assert finish == "tool_calls"
        arguments = [json.loads(call["function"]["arguments"]) for call in message["tool_calls"]]
        assert arguments == [{"city": "Paris"}, {"city": "Oslo", "degrees": None}]
        # Headers of a stream have left before its calls come.
        assert (
            way.get("stream") or headers["x-mlxguard-tool-calls"] == "arguments_unquoted=1, number_to_null=1"
        )
    else:
        assert finish == "stop"
        assert "tool_calls" not in message
        assert message["content"].strip() == UNREADABLE
        assert headers["x-mlxguard-tool-calls"].startswith("asked_again=1")
        assert headers["x-mlxguard-attempts"] == "2"

    assert proxy.status()["child"]["generation"] == 1


def _counts(proxy: Gateway, case: str) -> list[float]:
    """The metrics that one request moves by one; a prompt that was miscounted would add one more."""
    _, metrics = proxy.get("/metrics")
    kinds = {"odd": ("arguments_unquoted", "number_to_null")}.get(case, ("asked_again", "unreadable"))
    names = [f'mlxguard_mended_tool_calls_total{{kind="{kind}"}}' for kind in kinds]
    names.append('mlxguard_requests_total{outcome="ok",reason=""}')
    assert "mlxguard_prompt_count_mismatches_total 0.0" in metrics
    lines = dict(line.rsplit(" ", 1) for line in metrics.splitlines() if not line.startswith("#"))
    return [float(lines.get(name, 0)) for name in names]


def _ask(proxy: Gateway, way: dict[str, Any]) -> tuple[dict[str, Any], str, dict[str, str]]:
    """The message, its finish reason and the response's headers."""
    messages = [{"role": "user", "content": f"The weather in Paris? {way}"}]
    body = json.dumps({"messages": messages, "tools": TOOLS, **way}).encode()
    with urllib.request.urlopen(f"{proxy.base_url}/chat/completions", body, timeout=60) as response:
        answer, headers = response.read(), dict(response.headers)
    if not way.get("stream"):
        choice = json.loads(answer)["choices"][0]
        return choice["message"], choice["finish_reason"], headers
    choices = [event["choices"][0] for event in events_of(answer) if event["choices"]]
    message: dict[str, Any] = {"content": "".join(each["delta"].get("content") or "" for each in choices)}
    if calls := [call for each in choices for call in each["delta"].get("tool_calls") or ()]:
        message["tool_calls"] = calls
    return message, choices[-1]["finish_reason"], headers
