"""The cost model of caches: the bar's cases worked out by hand, and mlx_lm's own caches as the judge."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from supervisor.memory_model.kv_cache import (
    CachePart,
    CostModel,
    GrowthKind,
    HeldRows,
    Quantization,
    merged,
    prefill,
    rounded,
)

GROWING = CachePart(GrowthKind.GROWING, 10, quantizable=True)
WINDOW = CachePart(GrowthKind.WINDOW, 10, size=160)


def rows(part: CachePart, *chunks: int) -> int:
    (held,) = CostModel((part,)).replay(chunks)
    return held.rows


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((1,), 256),
        ((255, 1), 256),
        ((256, 1), 512),
        ((300, 300), 812),  # the slack of the first is cut off, then two steps are added
        ((5437, 2048, 100, 1), 7741),
        ((5437, 2048, 2048, 100, 1), 9789),
    ],
)
def test_a_growing_cache_grows_in_steps_from_where_it_stands(chunks: tuple[int, ...], expected: int) -> None:
    assert rows(GROWING, *chunks) == expected


def test_cold_rows_are_the_prompt_rounded_up() -> None:
    for tokens in (1, 2, 256, 257, 4096, 100_000):
        assert CostModel((GROWING,)).cold(tokens) == rounded(tokens) * 10


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ((1,), 160),  # a window under a step is there at once
        ((100,), 100),
        ((100, 1), 160),
        ((700,), 700),  # one long chunk is kept whole until the next token
        ((256, 256), 159 + 256),
        ((256, 256, 1), 160),
    ],
)
def test_a_window_is_larger_while_a_prompt_is_read(chunks: tuple[int, ...], expected: int) -> None:
    assert rows(WINDOW, *chunks) == expected


def test_the_peak_of_a_window_is_seen() -> None:
    model, chunks = CostModel((WINDOW,)), tuple(prefill(4096))
    assert model.cold(4096) == 160 * 10
    assert max(model.after(chunks[:end]) for end in range(1, len(chunks) + 1)) == (159 + 2047) * 10


def test_kinds_that_follow_the_number_of_tokens() -> None:
    model = CostModel(
        (
            CachePart(GrowthKind.APPENDED, 8, size=4),
            CachePart(GrowthKind.LAST, 2, size=10),
            CachePart(GrowthKind.OPEN, 1, size=4),
        )
    )
    assert model.after((11,)) == 2 * 8 + 10 * 2 + 3
    assert model.after((11, 1)) == 3 * 8 + 10 * 2


def test_a_state_costs_the_same_from_the_first_token_on() -> None:
    model = CostModel((CachePart(GrowthKind.CONSTANT, 100),))
    assert [model.cold(tokens) for tokens in (0, 1, 10_000)] == [0, 100, 100]
    assert model.constant == 100
    assert model.bytes_per_row == 0


def test_warm_turns_start_from_exactly_what_was_retained() -> None:
    model = CostModel((GROWING,))
    assert model.after((2048, 100, 1), model.restored(5437)) == 7741 * 10
    assert model.after((300,), model.restored(300)) == 812 * 10


def test_quantization_begins_with_the_chunk_that_reaches_its_start() -> None:
    model = CostModel(
        (CachePart(GrowthKind.GROWING, 256, itemsize=2, quantizable=True),), Quantization(bits=8, start=5000)
    )
    packed = 128 * 8 // 8 + 2 * 2 * 2  # 128 elements in bytes, and a scale and a bias for each 64
    assert model.cold(4999) == rounded(4999) * 256
    assert model.cold(5001) == rounded(5001) * packed


def test_only_caches_of_the_models_own_list_are_quantized() -> None:
    model = CostModel((CachePart(GrowthKind.GROWING, 256, quantizable=False),), Quantization(bits=8))
    assert model.cold(8192) == 8192 * 256


def test_a_draft_models_caches_come_on_top() -> None:
    both = CostModel((GROWING,)) + CostModel((WINDOW,))
    assert both.cold(1000) == CostModel((GROWING,)).cold(1000) + CostModel((WINDOW,)).cold(1000)
    assert both.windows == {160: 10}


def test_like_parts_are_one() -> None:
    assert merged([GROWING, WINDOW, GROWING, CachePart(GrowthKind.GROWING, 0)]) == (
        CachePart(GrowthKind.GROWING, 20, quantizable=True, caches=2),
        WINDOW,
    )


def test_the_widest_is_one_cache_and_not_all_that_are_alike() -> None:
    model = CostModel(
        (CachePart(GrowthKind.GROWING, 30, caches=3), CachePart(GrowthKind.WINDOW, 40, size=512, caches=2))
    )
    assert model.widest(model.restored(100)) == 100 * 20
    assert model.widest(model.restored(2000)) == 2000 * 10


def test_a_cost_model_survives_json() -> None:
    model = CostModel((GROWING, WINDOW, CachePart(GrowthKind.CONSTANT, 7, itemsize=4)))
    assert TypeAdapter(CostModel).validate_python(json.loads(json.dumps(asdict(model)))) == model


@given(st.integers(1, 30_000), st.sampled_from([256, 512, 2048]))
def test_prefill_feeds_every_token_once(tokens: int, step: int) -> None:
    chunks = list(prefill(tokens, step))
    assert sum(chunks) == tokens
    assert max(chunks) <= step
    assert chunks[-1] == 1


@given(st.lists(st.integers(1, 900), min_size=1, max_size=8))
def test_rows_never_fall_below_the_tokens_that_must_be_there(chunks: list[int]) -> None:
    (growing,) = CostModel((GROWING,)).replay(chunks)
    (window,) = CostModel((WINDOW,)).replay(chunks)
    assert growing.rows >= growing.offset == sum(chunks)
    assert window.rows >= min(sum(chunks), 160)


JUDGE = """
import json, random, sys
import mlx.core as mx
from mlx_lm.models.cache import ChunkedKVCache, KVCache, RotatingKVCache
makers = {"growing": KVCache, "window": lambda: RotatingKVCache(160), "kept": lambda: RotatingKVCache(300, 4),
          "chunk": lambda: ChunkedKVCache(160)}
out = []
for seed in range(60):
    draw = random.Random(seed)
    name = draw.choice(sorted(makers))
    cache, chunks, rows = makers[name](), [], []
    for _ in range(draw.randint(1, 12)):
        chunk = draw.choice((1, 1, draw.randint(2, 600), 256, 300))
        if name == "chunk":
            cache.maybe_trim_front()
        cache.update_and_fetch(mx.zeros((1, 1, chunk, 1)), mx.zeros((1, 1, chunk, 1)))
        chunks.append(chunk)
        rows.append(cache.keys.shape[2])
    out.append((name, chunks, rows))
print(json.dumps(out))
"""


def test_the_replay_does_what_mlx_lms_caches_do() -> None:
    """Random feedings of the real classes, in a process of its own since they import mlx."""
    done = subprocess.run([sys.executable, "-c", JUDGE], capture_output=True, text=True, check=True)
    parts = {
        "growing": GROWING,
        "window": WINDOW,
        "kept": CachePart(GrowthKind.WINDOW, 10, size=300, keep=4),
        "chunk": CachePart(GrowthKind.CHUNK, 10, size=160),
    }
    for name, chunks, expected in json.loads(done.stdout):
        model, held, seen = CostModel((parts[name],)), (HeldRows(),), []
        for chunk in chunks:
            held = model.replay((chunk,), held)
            seen.append(held[0].rows)
        assert seen == expected, (name, chunks)


@given(
    st.sampled_from(
        [
            CachePart(GrowthKind.GROWING, 10, quantizable=True),
            CachePart(GrowthKind.WINDOW, 10, size=160),
            CachePart(GrowthKind.WINDOW, 10, size=1024),
            CachePart(GrowthKind.CHUNK, 10, size=512),
            CachePart(GrowthKind.CHUNK, 10, size=160),
            CachePart(GrowthKind.APPENDED, 10, size=4),
            CachePart(GrowthKind.LAST, 10, size=64),
            CachePart(GrowthKind.OPEN, 10, size=4),
            CachePart(GrowthKind.CONSTANT, 10),
        ]
    ),
    st.integers(0, 700),
    st.lists(st.integers(1, 600), min_size=1, max_size=4),
    st.integers(0, 900),
)
def test_many_single_tokens_at_once_are_as_one_by_one(
    part: CachePart, offset: int, chunks: list[int], tokens: int
) -> None:
    model = CostModel((part,))
    held = model.replay(chunks, model.restored(offset))
    assert model.bytes_of(model.generate(held, tokens)) == model.bytes_of(model.replay([1] * tokens, held))
