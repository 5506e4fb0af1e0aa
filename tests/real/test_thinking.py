"""Thinking switches and the model's own sampling, as the real server's prompt and answers show them."""

from __future__ import annotations

import json
import shutil
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.real.processes import Gateway, guard

pytestmark = pytest.mark.real


def _asked(proxy: Gateway, **fields: Any) -> tuple[int, str | None]:
    """Tokens of the prompt, and what was ignored."""
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 1, **fields}
    url = f"{proxy.base_url}/chat/completions"
    with urllib.request.urlopen(url, json.dumps(body).encode(), timeout=60) as response:
        headers = response.headers
        assert json.loads(response.read())["usage"]["prompt_tokens"] == int(
            headers["x-mlxguard-prompt-tokens"]
        )
        return int(headers["x-mlxguard-prompt-tokens"]), headers["x-mlxguard-ignored"]


def test_switches_reach_the_template(shared_guard: Gateway) -> None:
    off, _ = _asked(shared_guard, chat_template_kwargs={"enable_thinking": False})
    as_it_is, _ = _asked(shared_guard)
    assert off > as_it_is
    for field in ({"reasoning_effort": "none"}, {"thinking": {"type": "disabled"}}):
        assert _asked(shared_guard, **field) == (off, None)
    assert _asked(shared_guard, guided_json={}) == (as_it_is, "guided_json")


def test_the_models_own_sampling(tiny_model: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_model, tmp_path / "model")
    (model / "generation_config.json").write_text(json.dumps({"temperature": 5.0}))
    with guard(model, tmp_path / "guard") as proxy:
        texts = {_text(proxy, number) for number in range(3)}
        greedy = {_text(proxy, number, temperature=0) for number in range(3)}
    assert len(texts) == 3, "random"
    assert len(greedy) == 1


def _text(proxy: Gateway, number: int, **fields: Any) -> str:
    body = {"prompt": "Once upon a time", "max_tokens": 24, "user": str(number), **fields}
    with urllib.request.urlopen(
        f"{proxy.base_url}/completions", json.dumps(body).encode(), timeout=60
    ) as answer:
        return str(json.loads(answer.read())["choices"][0]["text"])
