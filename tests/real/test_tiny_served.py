"""The unmodified server loads every kind of small model, and says with it what it should."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from supervisor.model.tiny import ARCHITECTURES
from tests.conftest import MakeTiny
from tests.real.processes import Running, bare_server
from tests.support.scripted import ANSWER, CALLS, SAY, SAY_WITH_TOOLS, THOUGHT, TOOLS

pytestmark = pytest.mark.real


def ask(server: Running, **body: Any) -> dict[str, Any]:
    request = urllib.request.Request(f"{server.base_url}/chat/completions", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as answer:
        content: dict[str, Any] = json.loads(answer.read())
    return content


def hello(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def test_random_text_goes_on_and_depends_on_the_prompt(shared_server: Running) -> None:
    answers = [ask(shared_server, messages=hello(text), max_tokens=100) for text in ("Hello", "What is new?")]
    for answer in answers:
        assert answer["choices"][0]["finish_reason"] == "length"
        assert answer["usage"]["completion_tokens"] == 100
        text = answer["choices"][0]["message"]["content"]
        assert "\ufffd" not in text
        assert len(set(text)) > 20
    first, second = (answer["choices"][0]["message"]["content"] for answer in answers)
    assert first != second


def test_the_same_prompt_gets_the_same_answer(shared_server: Running) -> None:
    first, second = (ask(shared_server, messages=hello("Hello"), max_tokens=20) for _ in range(2))
    assert first["choices"] == second["choices"]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_script_is_said_and_ends(architecture: str, make_tiny: MakeTiny, tmp_path: Path) -> None:
    model = make_tiny(architecture=architecture, say=SAY, say_with_tools=SAY_WITH_TOOLS)
    with bare_server(model, tmp_path) as server:
        answer = ask(server, messages=hello("Weather?"), temperature=1.0)["choices"][0]
        assert answer["finish_reason"] == "stop"
        assert answer["message"]["reasoning"].strip() == THOUGHT
        assert answer["message"]["content"].strip() == ANSWER

        called = ask(server, messages=hello("Weather?"), tools=TOOLS)["choices"][0]
        assert called["finish_reason"] == "tool_calls"
        functions = [call["function"] for call in called["message"]["tool_calls"]]
        assert [(call["name"], json.loads(call["arguments"])) for call in functions] == list(CALLS)

        results = [{"role": "tool", "tool_call_id": "1", "content": "sunny"}]
        messages = [*hello("Weather?"), called["message"], *results]
        assert ask(server, messages=messages, tools=TOOLS)["choices"][0]["finish_reason"] == "stop"


MEASURE = """
import sys
import mlx.core as mx
from pathlib import Path
from mlx_lm.models.cache import make_prompt_cache
from mlx_lm.utils import load_model

for folder in sys.argv[1:]:
    model, _ = load_model(Path(folder))
    cache = make_prompt_cache(model)
    model(mx.zeros((1, 256), mx.int32), cache=cache)
    grown = sum(each.nbytes for each in cache if hasattr(each, "offset"))
    print(grown / 256)
"""


def test_a_token_costs_the_cache_what_was_asked_for(make_tiny: MakeTiny) -> None:
    """At 256 rows, the unit of growth; the state of linear attention does not grow and is left out."""
    folders = [
        make_tiny(architecture=architecture, layers=4, kv_bytes_per_token=131072)
        for architecture in ARCHITECTURES
    ]
    command = [sys.executable, "-c", MEASURE, *map(str, folders)]
    measured = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert [float(value) for value in measured] == [131072] * len(ARCHITECTURES)
