"""What a model's own files say of sampling and thinking."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from proxy.planning.model_defaults import described, sampling_defaults, thinking_switches


@pytest.mark.parametrize(
    ("config", "args", "defaults"),
    [
        (
            {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
            (),
            {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
        ),
        ({"temperature": 1, "top_p": 1.0, "repetition_penalty": 1.0}, (), {"temperature": 1.0}),
        ({"temperature": 0.6, "do_sample": False}, (), {}),
        ({"temperature": 0.6, "top_p": 0.9}, ("--temp", "0.2"), {"top_p": 0.9}),
        ({"temperature": 0.6, "top_p": 0.9}, ("--temp=0.2",), {"top_p": 0.9}),
        ({"temperature": "hot", "top_p": 7, "min_p": 0.1}, (), {"min_p": 0.1}),
        ({"eos_token_id": 7, "top_k": None}, (), {}),
        ([], (), {}),
    ],
)
def test_sampling(tmp_path: Path, config: Any, args: tuple[str, ...], defaults: dict[str, Any]) -> None:
    (tmp_path / "generation_config.json").write_text(json.dumps(config))
    assert sampling_defaults(tmp_path, args) == defaults


def test_a_model_that_says_nothing(tmp_path: Path) -> None:
    assert sampling_defaults(tmp_path) == {}
    assert thinking_switches(tmp_path) == ()
    (tmp_path / "generation_config.json").write_text("{")
    (tmp_path / "chat_template.jinja").write_text("{% if")
    assert sampling_defaults(tmp_path) == {}
    assert thinking_switches(tmp_path) == ()
    assert described({}) == "the defaults of the server where a request names none"


@pytest.mark.parametrize(
    ("source", "switches"),
    [
        ("{% generation %}{{ reasoning_effort }}{% endgeneration %}", ("reasoning_effort",)),
        ("{% if enable_thinking is defined and not enable_thinking %}{% endif %}", ("enable_thinking",)),
        ("{# thinking #}{{ 'enable_thinking' }}", ()),
    ],
)
def test_switches(tmp_path: Path, source: str, switches: tuple[str, ...]) -> None:
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": source}))
    assert thinking_switches(tmp_path) == switches


def test_as_text() -> None:
    assert (
        described({"temperature": 0.6, "top_k": 20}) == "temperature 0.6, top_k 20 where a request names none"
    )
