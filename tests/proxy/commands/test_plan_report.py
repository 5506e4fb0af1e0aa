"""The plan as people and programs see it."""

from __future__ import annotations

from dataclasses import replace

import orjson
import pytest

from proxy.commands.plan import document, screen
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.ceiling import Bound, Ceiling
from supervisor.memory_model.flags import FlagOverrides
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan, plan
from supervisor.model.resolve import ModelFacts

FACTS = ModelFacts("gemma3", 62, 131_072, "BF16", 4, 17 * 10**9)
TRACED = Traced(
    law=CostModel(
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
    model = Model(weights=FACTS.weights_bytes, law=traced.law, traced=traced, batched=True)
    others = (Bound(54 * 10**9, "memory free now"),)
    ceiling = Ceiling(gigabytes * 10**9, "Metal's recommended working set", others, wired_mb=57_344)
    return plan(model, ceiling, FlagOverrides(), FLAGS, FACTS.context_length)


def test_what_requests_have_shown_of_their_costs_is_told_where_it_holds() -> None:
    told = screen(make(), FACTS, "m", (1.0, 1.15)).splitlines()
    assert "costs at the gate x 1.00 for one alone, x 1.15 for several, as requests have shown" in told
    assert "costs at the gate" not in screen(make(), FACTS, "m")


def test_one_screen_says_it_all() -> None:
    text = screen(make(), FACTS, "gemma-3-27b")
    lines = text.splitlines()
    assert len(lines) <= 40
    assert lines[0] == "model            gemma-3-27b (gemma3, 62 layers, 4 bits, context 131,072)"
    assert "weights          17.0 GB" in lines
    assert "may be used      48.0 GB: Metal's recommended working set" in lines
    assert "                 (54.0 GB: memory free now)" in lines
    assert (
        "KV per token     81,920 bytes + 425,984 up to a window of 1,024 + 1 MB whatever the length" in lines
    )
    assert any(line.startswith("  alone") for line in lines)
    assert any(line.startswith("  8 at once") for line in lines)
    assert any(line.startswith("  --prefill-step-size 2048") for line in lines)
    assert any(line.startswith("  (--prompt-cache-bytes)") and "has no" in line for line in lines)
    assert lines[-1].endswith("sudo sysctl iogpu.wired_limit_mb=57344")


def test_a_bound_is_marked() -> None:
    text = screen(make(traced=replace(TRACED, reason="it is odd")), FACTS, "m")
    assert "(a bound)" in text
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
