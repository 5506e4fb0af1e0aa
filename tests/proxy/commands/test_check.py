"""The output of `check` for a valid configuration."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.commands.check import summary
from proxy.config.faults import KEYS
from proxy.config.loader import load

ROOT = Path(__file__).parents[3]


def summary_of(tmp_path: Path, *sets: str) -> dict[str, str]:
    """The rows of the summary by their names."""
    file = tmp_path / "proxy.toml"
    file.write_text("")
    lines = summary(load(file, {}, sets)).splitlines()
    assert lines[0] == f"The configuration is valid ({file})."
    rows = [line for line in lines[1:] if line.startswith("  ")]
    return {row[2:16].strip(): row[16:] for row in rows[:10]}


def test_the_defaults(tmp_path: Path) -> None:
    assert summary_of(tmp_path, f"supervisor.state_dir={tmp_path}") == {
        "address": "http://127.0.0.1:8080, this machine only, no API key",
        "model": "tiny, served as tiny",
        "child": "the installed mlx_lm.server, telemetry on",
        "child flags": "--model tiny",
        "prompts": "up to the model's context length, longer ones are refused; max_tokens is 4096 by default",
        "sampling": "the model's own defaults where a request names none",
        "memory": "limits are left to the plan",
        "queue": "at most 64 requests, each for at most 600 s",
        "state folder": str(tmp_path),
        "log": "info and above to stderr (auto)",
    }


def test_what_is_set(tmp_path: Path) -> None:
    rows = summary_of(
        tmp_path,
        "server.host=::",
        "server.port=0",
        "server.api_keys=['sk-4711', 'sk-4712']",
        "model.path=org/Name-4bit",
        "upstream.command=['/bin/sh', 'run server']",
        "upstream.prefill_step_size=512",
        "prompt.max_prompt_tokens=32768",
        "prompt.prompt_overflow_policy=truncate",
        "memory.max_active_memory_bytes=24GB",
        f"log.file={tmp_path / 'log'}",
    )
    assert rows["address"] == "http://[::]:(a free port), open to the network, 2 API keys"
    assert rows["model"] == "org/Name-4bit, served as Name-4bit"
    assert rows["child"] == "/bin/sh 'run server', telemetry on"
    assert rows["child flags"] == "--model org/Name-4bit --prefill-step-size 512"
    assert rows["prompts"].startswith("up to 32768 tokens, longer ones are cut;")
    assert rows["memory"] == "max_active_memory_bytes 24.0GB"
    assert rows["log"] == f"info and above to stderr (auto) and to {tmp_path / 'log'} (JSON)"


def test_the_sampling_defaults_of_a_model_that_is_here(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.6}')
    here = f"model.path={tmp_path}"
    assert summary_of(tmp_path, here)["sampling"] == "temperature 0.6 where a request names none"
    off = summary_of(tmp_path, here, "request.model_sampling_defaults=false")
    assert off["sampling"] == "the server's defaults where a request names none"


def test_where_each_setting_was_made(tmp_path: Path) -> None:
    file = tmp_path / "proxy.toml"
    file.write_text("[server]\nport = 9000\napi_keys = ['sk-4711']\n")
    text = summary(load(file, {"MLXGUARD_MODEL__PATH": "org/m"}, ("queue.max_waiting=3",)))
    assert text.partition("Set in:\n")[2].splitlines() == [
        f"  server.port        {file}:2",
        f"  server.api_keys    {file}:3",
        "  model.path         MLXGUARD_MODEL__PATH",
        "  queue.max_waiting  --set queue.max_waiting",
    ]
    assert "4711" not in text


def test_every_setting_is_read_somewhere() -> None:
    sources = [path for package in ("proxy", "supervisor") for path in (ROOT / package).rglob("*.py")]
    text = "\n".join(
        path.read_text() for path in sources if path.parent.name != "config" or path.stem == "rules"
    )
    unread = {".".join(key) for key in KEYS if not re.search(rf"\b{key[1]}\b", text)}
    assert not unread
