"""`mlxguard-proxy plan`: as it is typed, and the plan as people and programs see it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import orjson
import pytest

from proxy.cli import main
from proxy.commands.plan import document, screen
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Bound, Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan, plan
from supervisor.model.resolve import ModelFacts
from tests.support import checkpoints

FACTS = ModelFacts("gemma3", 62, 131_072, "BF16", 4, 17 * 10**9)
TRACED = Traced(
    cost_model=CostModel(
        (
            CachePart(GrowthKind.GROWING, 81_920),
            CachePart(GrowthKind.WINDOW, 425_984, size=1024),
            CachePart(GrowthKind.CONSTANT, 10**6),
        )
    ),
    attention=((32, 128, 128),),
    layer_width=80_000,
    vocabulary=262_208,
    backend="metal",
)
FLAGS = frozenset({"--prefill-step-size", "--decode-concurrency", "--prompt-concurrency"})


def make(gigabytes: int = 48, traced: Traced = TRACED) -> Plan:
    model = Model(weights=FACTS.weights_bytes, cost_model=traced.cost_model, traced=traced, batched=True)
    others = (Bound(54 * 10**9, "memory free now"),)
    ceiling = Ceiling(gigabytes * 10**9, "Metal's recommended working set", others, wired_mb=57_344)
    return plan(model, ceiling, FlagOverrides(), FLAGS, FACTS.context_length)


def test_what_requests_have_shown_of_their_costs_is_told_where_it_holds() -> None:
    told = screen(make(), FACTS, "m", (1.0, 1.15)).splitlines()
    assert "cost correction  x 1.00 alone, x 1.15 together, learned from finished requests" in told
    assert "cost correction" not in screen(make(), FACTS, "m")


def test_one_screen_says_it_all() -> None:
    text = screen(make(), FACTS, "gemma-3-27b")
    lines = text.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "model            gemma-3-27b (gemma3, 62 layers, 4 bits, context 131,072)"
    assert "weights          17.0 GB" in lines
    assert "ceiling          48.0 GB: Metal's recommended working set" in lines
    assert "                 (54.0 GB: memory free now)" in lines
    assert "KV per token     81,920 bytes + 425,984 up to a window of 1,024 + 1 MB at any length" in lines
    assert any(line.startswith("  alone") for line in lines)
    assert any(line.startswith("  8 at once") for line in lines)
    assert any(line.startswith("  --prefill-step-size 2048") for line in lines)
    assert any(line.startswith("  (--prompt-cache-bytes)") and "has no" in line for line in lines)
    assert lines[-1].endswith("sudo sysctl iogpu.wired_limit_mb=57344")


def test_a_bound_is_marked() -> None:
    text = screen(make(traced=replace(TRACED, reason="it is odd")), FACTS, "m")
    assert "(upper bound)" in text
    assert "it is odd" in text


@pytest.mark.parametrize(
    ("gigabytes", "words"), [(10, "131,072 tokens (the model's context)"), (30, "tokens")]
)
def test_the_longest_prompt(gigabytes: int, words: str) -> None:
    (line,) = [
        line for line in screen(make(gigabytes), FACTS, "m").splitlines() if line.startswith("longest")
    ]
    assert line.endswith(words)


def test_the_same_for_programs() -> None:
    made = make()
    content = orjson.loads(orjson.dumps(document(made, FACTS, "gemma-3-27b")))
    assert content["model"]["weights_bytes"] == 17 * 10**9
    assert content["kv"]["exact"] is True
    assert content["kv"]["windows"] == [{"rows": 1024, "bytes_per_row": 425_984}]
    assert content["kv"]["bytes_at"]["8192"] == 8192 * 81_920 + 1024 * 425_984 + 10**6
    assert content["largest_rows"]["1"] == made.fits[1]
    assert {flag["name"]: flag["given"] for flag in content["flags"]}["--prompt-cache-size"] is False
    assert content["advice"] == list(made.advice)


def run_plan(*words: str, home: Path) -> subprocess.CompletedProcess[str]:
    code = "import sys; from proxy.cli import main; sys.exit(main())"
    env = {"PATH": "/usr/bin:/bin", "HOME": str(home)}
    command = [sys.executable, "-c", code, "plan", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


@pytest.mark.real
def test_a_screen_and_json_without_a_child(tmp_path: Path) -> None:
    model = checkpoints.write(tmp_path / "moe", checkpoints.QWEN3_30B_MOE, weights=17_200_000_000)
    (model / "generation_config.json").write_text('{"temperature": 0.7}')
    (model / "chat_template.jinja").write_text("{{ enable_thinking }}")
    words = ("--model", str(model), "--set", "memory.max_active_memory_bytes=64GB")
    shown = run_plan(*words, home=tmp_path)
    assert shown.returncode == 0, shown.stderr
    assert "KV per token     98,304 bytes" in shown.stdout
    assert "  sampling       temperature 0.7 where a request names none" in shown.stdout
    assert "  thinking       the template reads enable_thinking" in shown.stdout
    assert len(shown.stdout.splitlines()) <= 40
    for_programs = run_plan(*words, "--json", home=tmp_path)
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
    assert content["learned"]["ceiling_ratio"] == 1.0
    assert content["sampling_defaults"] == {"temperature": 0.7}
    assert content["thinking_switches"] == ["enable_thinking"]


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
