"""The command of today as settings."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from proxy.config.faults import key_of
from proxy.config.server_command import OWNED_FLAGS, NotAServerCommand, read, setting_of_flag
from proxy.config.settings import Settings


def values_of(command: str) -> dict[str, object]:
    return dict(read(command).values)


@pytest.mark.parametrize(
    "runner",
    [
        "mlx_lm.server",
        "mlx_lm server",
        "python -m mlx_lm.server",
        "python3.12 -m mlx_lm server",
        "exec mlx_lm.server",
        "nohup python -m mlx_lm.server",
        "HF_HOME=/models TOKENIZERS_PARALLELISM=false mlx_lm.server",
        "env HF_HOME=/models python -m mlx_lm.server",
    ],
)
def test_ways_to_run_what_is_on_the_path(runner: str) -> None:
    assert values_of(f"{runner} --model org/m") == {"model.path": "org/m"}


@pytest.mark.parametrize(
    "runner",
    [
        "/opt/venv/bin/mlx_lm.server",
        "/opt/venv/bin/python -m mlx_lm.server",
        "uv run mlx_lm.server",
        "uvx --from mlx-lm==0.32.2 mlx_lm.server",
        "mlx.launch --hostfile hosts.json mlx_lm.server",
    ],
)
def test_ways_to_run_a_server_of_ones_own_are_kept(runner: str) -> None:
    command = read(f"{runner} --model org/m")
    assert command.values == {"model.path": "org/m", "upstream.command": runner.split()}
    assert any("upstream.command" in remark for remark in command.remarks)


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        ("--host 0.0.0.0 --port 9000", {"server.host": "0.0.0.0", "server.port": 9000}),
        ("--port=9000", {"server.port": 9000}),
        ("--trust-remote-code", {"model.trust_remote_code": True}),
        ("--prefill-step-size 512", {"upstream.prefill_step_size": 512}),
        ("--decode-concurrency 4", {"upstream.decode_concurrency": 4}),
        ("--prompt-concurrency 2", {"upstream.prompt_concurrency": 2}),
        ("--prompt-cache-size 3", {"upstream.prompt_cache_size": 3}),
        ("--prompt-cache-bytes 10GB", {"upstream.prompt_cache_bytes": "10GB"}),
        ("--max-tokens 8192", {"prompt.default_max_tokens": 8192}),
        ("--max 8192", {"prompt.default_max_tokens": 8192}),
        ("--log-level DEBUG", {"log.level": "debug"}),
        ("--log-level CRITICAL", {"log.level": "error"}),
        ("--allowed-origins http://a,http://b", {"server.allowed_origins": ["http://a", "http://b"]}),
        ("--adapter-path a", {"upstream.args": ["--adapter-path", "a"]}),
        (
            "--draft-model d --num-draft-tokens 4",
            {"upstream.args": ["--draft-model", "d", "--num-draft-tokens", "4"]},
        ),
        ("--temp 0.7 --top-p=0.9", {"upstream.args": ["--temp", "0.7", "--top-p", "0.9"]}),
        ("--pipeline --use-default", {"upstream.args": ["--pipeline", "--use-default-chat-template"]}),
        (
            "--chat-template-args '{\"enable_thinking\": false}'",
            {"upstream.args": ["--chat-template-args", '{"enable_thinking": false}']},
        ),
    ],
)
def test_flags(flags: str, values: dict[str, Any]) -> None:
    command = read(f"mlx_lm.server --model m {flags}")
    assert command.values == {"model.path": "m", **values}
    assert not command.remarks


def test_the_same_flag_twice_counts_as_the_server_counts_it() -> None:
    assert values_of("mlx_lm.server --model a --port 1 --model b")["model.path"] == "b"


def test_unknown_flags_are_kept_and_said() -> None:
    command = read("mlx_lm.server --model m --turbo 3 --temp 1 --new")
    assert command.values["upstream.args"] == ["--temp", "1", "--turbo", "3", "--new"]
    assert command.remarks == ("unknown to mlx_lm.server 0.32.2, kept in upstream.args: --turbo 3 --new",)


@pytest.mark.parametrize(
    ("command", "remark"),
    [
        ("HF_HOME=/m A=b mlx_lm.server --model m", "set HF_HOME, A where mlxguard-proxy is started"),
        ("mlx_lm.server --model m > log 2>&1 &", "not kept, it is for the shell: > log 2>&1 &"),
        ("mlx_lm.server --model m 2>&1 | tee log", "not kept, it is for the shell: 2>&1 | tee log"),
        ("mlx_lm.server", "the command names no model"),
        ("mlx_lm.server --model m --allowed-origins '*'", "--allowed-origins * is not kept"),
    ],
)
def test_what_is_remarked(command: str, remark: str) -> None:
    (said,) = read(command).remarks
    assert said.startswith(remark)
    assert "server.allowed_origins" not in read(command).values


def test_a_value_with_an_equals_sign_is_no_variable() -> None:
    assert values_of("mlx_lm.server --model A=b")["model.path"] == "A=b"


def test_a_command_over_several_lines() -> None:
    assert values_of("mlx_lm.server \\\n  --model m \\\n  --port 9\n") == {
        "model.path": "m",
        "server.port": 9,
    }


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("", "does not run mlx_lm.server"),
        ("llama-server -m x", "does not run mlx_lm.server"),
        ("mlx_lm.generate --model m", "does not run mlx_lm.server"),
        ("mlx_lm.server --port x", "would refuse it: argument --port: invalid int value: 'x'"),
        ("mlx_lm.server --p 1", "would refuse it: ambiguous option: --p"),
        ("mlx_lm.server --model", "would refuse it: argument --model: expected one argument"),
        ("mlx_lm.server --model 'x", "cannot be read: No closing quotation"),
    ],
)
def test_what_is_refused(command: str, reason: str) -> None:
    with pytest.raises(NotAServerCommand, match=re.escape(reason)):
        read(command)


@pytest.mark.parametrize("setting", OWNED_FLAGS.values())
def test_owned_flags_are_settings(setting: str) -> None:
    section, key = key_of(setting)
    assert hasattr(getattr(Settings(), section), key)


def test_the_flags_are_those_of_the_installed_server() -> None:
    """Read in its source, which takes milliseconds; its --help takes seconds."""
    package = find_spec("mlx_lm")
    assert package
    assert package.submodule_search_locations
    source = Path(package.submodule_search_locations[0], "server.py").read_text(encoding="utf-8")
    flags = set(re.findall(r'add_argument\(\s*"(--[a-z-]+)"', source))
    assert set(OWNED_FLAGS) < flags
    for flag in flags:
        assert setting_of_flag(flag) == OWNED_FLAGS.get(flag)
        if flag not in OWNED_FLAGS:
            remarks = read(f"mlx_lm.server --model m {flag} 1").remarks
            assert flag not in " ".join(remarks), f"{flag} is new in the server"
