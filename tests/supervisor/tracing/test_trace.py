"""Traces against really evaluated caches, in ten families; all 125 are `make bench WHAT=probe`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import checkpoints

FAMILIES = (
    "llama",  # full attention
    "gemma3",  # sliding windows
    "gpt_oss",
    "llama4",  # chunks
    "deepseek_v3",  # a compressed latent
    "deepseek_v41",  # a cache class of its own
    "qwen3_next",  # gated delta nets and attention
    "falcon_h1",  # a state space model and attention in each layer
    "longcat_flash_ngram",  # a state that grows at first
    "gemma3n",  # layers that share caches
    "nemotron_h",
)


def run_trace(folder: Path, *options: str) -> dict[str, object]:
    command = [sys.executable, "-m", "supervisor.tracing.trace", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_the_cost_model_is_exact_for_every_kind_of_cache() -> None:
    command = [sys.executable, "-m", "tests.bench.probe", "--short", *FAMILIES]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"bar: probe_exact {len(FAMILIES)} {len(FAMILIES)} ok" in done.stdout, done.stdout + done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        # layers x KV heads x (key + value) x 2 bytes
        (checkpoints.LLAMA_70B, [("growing", 80 * 8 * 256 * 2, 0)]),
        (checkpoints.QWEN3_30B_MOE, [("growing", 48 * 4 * 256 * 2, 0)]),
        # every sixth of 62 layers has full attention
        (checkpoints.GEMMA3_27B, [("window", 52 * 16 * 256 * 2, 1024), ("growing", 10 * 16 * 256 * 2, 0)]),
        # layers x (latent + rope) x 2 bytes
        (checkpoints.DEEPSEEK_V3, [("growing", 61 * (512 + 64) * 2, 0)]),
    ],
    ids=["llama-70b", "qwen3-30b-moe", "gemma3-27b", "deepseek-v3"],
)
def test_real_sizes_are_traced_without_their_weights(
    tmp_path: Path, config: dict[str, object], expected: list[tuple[str, int, int]]
) -> None:
    folder = checkpoints.write(tmp_path / "model", config, weights=40 * 10**9)
    traced = run_trace(folder)["traced"]
    assert isinstance(traced, dict)
    assert [
        (part["kind"], part["row_bytes"], part["size"]) for part in traced["cost_model"]["parts"]
    ] == expected
    assert traced["batched"] is True


def test_the_type_of_the_cache_is_the_checkpoints(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", checkpoints.LLAMA_70B, weights=10**6, dtype="F32")
    traced = run_trace(folder)["traced"]
    assert isinstance(traced, dict)
    assert traced["cost_model"]["parts"][0]["row_bytes"] == 80 * 8 * 256 * 4


def test_what_cannot_be_traced_says_why(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", {"model_type": "no_such_thing"}, weights=10**6)
    document = run_trace(folder)
    assert document["traced"] is None
    assert "no_such_thing" in str(document["reason"])


def test_code_that_comes_with_the_model_needs_trust(tmp_path: Path) -> None:
    config = {**checkpoints.LLAMA_70B, "model_file": "custom.py"}
    folder = checkpoints.write(tmp_path / "model", config, weights=10**6)
    (folder / "custom.py").write_text("from mlx_lm.models.llama import Model, ModelArgs\n", encoding="utf-8")
    refused = run_trace(folder)
    assert refused["traced"] is None
    assert "trust_remote_code" in str(refused["reason"])
    assert run_trace(folder, "--trust-remote-code")["traced"] is not None


def test_a_trace_that_takes_too_much_memory_ends(tmp_path: Path) -> None:
    folder = checkpoints.write(tmp_path / "model", checkpoints.LLAMA_70B, weights=10**6)
    command = [sys.executable, "-m", "supervisor.tracing.trace", str(folder), "--max-memory", "1000000"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 3
