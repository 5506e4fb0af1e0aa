"""Prompts that equal a key of the server's prompt cache kill the bare server, and not the guarded one.

Where caches cannot be cut back: tests/real/test_foresight.py, whose server is of that kind.
"""

from __future__ import annotations

import json
import urllib.request
from pathlib import Path

import pytest

from tests.real.processes import Gateway, Running, bare_server, until

pytestmark = pytest.mark.real


def ask(server: Running, prompt: str) -> str:
    data = json.dumps({"prompt": prompt, "max_tokens": 2, "temperature": 0}).encode()
    with urllib.request.urlopen(f"{server.base_url}/completions", data, timeout=30) as answer:
        text: str = json.load(answer)["choices"][0]["text"]
    return text


def gone_on_with(server: Running) -> None:
    """A completion of an earlier prompt and all of its answer. `prompt 0`: its tokens stay what they were."""
    ask(server, "prompt 0" + ask(server, "prompt 0"))


def test_the_server_by_itself_dies_and_the_guarded_one_does_not(
    shared_guard: Gateway, tiny_model: Path, tmp_path: Path
) -> None:
    with bare_server(tiny_model, tmp_path) as server:
        with pytest.raises(OSError):
            gone_on_with(server)
        until("it says so", lambda: server.get("/health")[0] == 503, 5)
    before = len(shared_guard.events("exact_hit_avoided"))
    generation = shared_guard.status()["child"]["generation"]
    for _ in range(2):
        gone_on_with(shared_guard)
    assert [event["sent"] for event in shared_guard.events("exact_hit_avoided")[before:]] == [1, 1]
    assert shared_guard.status()["child"]["generation"] == generation
