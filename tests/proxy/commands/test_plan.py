"""`mlxguard-proxy plan`, as it is typed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from proxy.cli import main
from tests.support import checkpoints


def plan(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from proxy.cli import main; sys.exit(main())"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    command = [sys.executable, "-c", code, "plan", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.real
def test_a_screen_and_json_without_a_child(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "moe", checkpoints.QWEN3_30B_MOE, weights=17_200_000_000)
    words = ("--model", str(model), "--set", "memory.max_active_memory_bytes=64GB")
    shown = plan(*words, home=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "KV per token     98,304 bytes" in shown.stdout
    assert len(shown.stdout.splitlines()) <= 40
    for_programs = plan(*words, "--json", home=tmp_path)
    content = orjson.loads(for_programs.stdout)
    assert content["kv"] | {"bytes_at": None} == {
        "exact": True,
        "bytes_per_token": 48 * 4 * 256 * 2,
        "windows": [],
        "constant_bytes": 0,
        "bytes_at": None,
    }
    assert content["ceiling"]["bytes"] == 64 * 10**9
    assert content["model"]["name"] == "moe"
    assert content["learned"]["share"] == 1.0


def test_a_model_that_is_not_there_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--model", str(tmp_path / "missing")]) == 2
    assert "neither a folder nor downloaded" in capsys.readouterr().err


def test_a_bad_configuration_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--set", "server.port=x"]) == 2
    assert "server.port" in capsys.readouterr().err


def test_a_flag_that_the_server_would_refuse_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = checkpoints.write(tmp_path / "model", checkpoints.LLAMA_70B, weights=10**6)
    words = ["--model", str(model), "--set", 'upstream.args=["--kv-bits", "many"]']
    assert main(["plan", *words]) == 2
    assert "--kv-bits" in capsys.readouterr().err
