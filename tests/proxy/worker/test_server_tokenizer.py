"""What needs no mlx. That it counts as the server does is shown by tests/real/test_count.py."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.worker.server_tokenizer import config_number, context_length, server_options


def test_the_server_flags_that_make_the_prompt() -> None:
    options = server_options(
        ["--model", "x", "--temp", "-1", "--chat-template-args", '{"enable_thinking": false}', "--kv-bits=4"]
    )
    assert options.chat_template_args == {"enable_thinking": False}
    assert (options.chat_template, options.use_default_chat_template, options.trust_remote_code) == (
        "",
        False,
        False,
    )


def test_flags_may_be_abbreviated_as_for_the_server() -> None:
    options = server_options(["--chat-template={{ 1 }}", "--trust", "--use-default"])
    assert (options.chat_template, options.use_default_chat_template, options.trust_remote_code) == (
        "{{ 1 }}",
        True,
        True,
    )


@pytest.mark.parametrize("argv", [["--chat-template-args", "{"], ["--chat-template"]])
def test_flags_that_the_server_would_refuse(argv: list[str]) -> None:
    with pytest.raises(ValueError, match="--chat-template"):
        server_options(argv)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"vocab_size": 9}, 9),
        ({"vocab_size": 9, "text_config": {"vocab_size": 8}}, 9),
        ({"vocab_size": None, "text_config": {"vocab_size": 8}}, 8),
        ({"text_config": None}, None),
        ({"vocab_size": 0}, None),
        ({"vocab_size": True}, None),
        ({"vocab_size": "9"}, None),
    ],
)
def test_a_number_of_the_models_config(config: dict[str, Any], expected: int | None) -> None:
    assert config_number(config, "vocab_size") == expected


@pytest.mark.parametrize(
    ("config", "model_max_length", "expected"),
    [
        ({"max_position_embeddings": 77}, 55, 77),
        ({"n_positions": 77}, 55, 77),
        ({"text_config": {"max_position_embeddings": 77}}, None, 77),
        ({}, 55, 55),
        ({}, 10**30, None),
        ({}, 1e30, None),
        ({}, None, None),
    ],
)
def test_the_context_length(config: dict[str, Any], model_max_length: Any, expected: int | None) -> None:
    assert context_length(config, model_max_length) == expected
