"""The worker's own parts. That it counts as the server does is shown by tests/real/test_count.py."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from proxy import frames
from proxy.tokenizer_worker import configured, context_length, server_options

COMMAND = [sys.executable, "-P", "-m", "proxy.tokenizer_worker"]


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
    assert configured(config, "vocab_size") == expected


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


def test_what_libraries_print_does_not_reach_the_frames() -> None:
    script = """
import os
from proxy.tokenizer_worker import _private_streams
source, sink = _private_streams()
print("printed", flush=True)
os.system("echo from a child")
sink.write(b"frames"); sink.flush()
try:
    input("a question? ")
except EOFError:
    print("no answer", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], input=b"y\n", capture_output=True, check=True)
    assert done.stdout == b"frames"
    assert done.stderr.split(b"\n")[:2] == [b"printed", b"from a child"]
    assert b"no answer" in done.stderr


def test_a_model_that_does_not_load_is_an_answer_and_the_end(tmp_path: object) -> None:
    load = frames.encode({"id": 7, "model_path": str(tmp_path), "server_argv": []})
    with subprocess.Popen(
        COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as worker:
        assert worker.stdin is not None and worker.stdout is not None
        worker.stdin.write(load)
        worker.stdin.flush()
        answer = frames.read(worker.stdout)
        assert answer is not None
        assert answer["id"] == 7
        assert answer["error"]["kind"] == "FileNotFoundError"
        assert worker.wait(30) == 1


def test_it_ends_when_its_input_does() -> None:
    with subprocess.Popen(COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        worker.stdin.close()
        assert worker.wait(30) == 0
