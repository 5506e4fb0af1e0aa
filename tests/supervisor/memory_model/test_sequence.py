"""One sequence by itself: what it holds when, and as the longest of a buffer."""

from __future__ import annotations

from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.sequence import SequenceDemand, Serving, buffers_of, leading_sizes

ROW = 1000
GROWING = CachePart(GrowthKind.GROWING, ROW)


def serving(*parts: CachePart, step: int = 512) -> Serving:
    traced = Traced(CostModel(parts or (GROWING,)))
    return Serving(Model(0, traced.cost_model, traced, batched=True), step, 8, 8, 10)


def test_a_sequence_is_larger_after_generation_than_after_prefill() -> None:
    found = buffers_of(serving())(SequenceDemand(500, 100))
    assert (found.prompt, found.end) == (512 * ROW, 768 * ROW)
    assert found.copied == 768 * ROW
    assert not found.keeps_snapshot


def test_its_snapshot_stays_where_caches_cannot_be_trimmed() -> None:
    window = CachePart(GrowthKind.WINDOW, ROW, size=256)
    assert buffers_of(serving(GROWING, window))(SequenceDemand(600, 10)).keeps_snapshot
    assert not buffers_of(serving(GROWING, window))(SequenceDemand(100, 10)).keeps_snapshot
    assert buffers_of(serving(GROWING, window))(
        SequenceDemand(100, 200)
    ).keeps_snapshot  # when it ends, the window is full
    assert buffers_of(serving(GROWING, CachePart(GrowthKind.CONSTANT, ROW)))(
        SequenceDemand(100, 10)
    ).keeps_snapshot


def test_a_window_that_is_cut_to_size_is_copied_though_nothing_grows() -> None:
    found = buffers_of(serving(GROWING, CachePart(GrowthKind.WINDOW, ROW, size=256), step=256))(
        SequenceDemand(600, 10)
    )
    assert found.end < found.prompt
    assert found.copied == (255 + 87) * ROW
    assert found.layer == (599 + 256) * ROW  # cut out of a shared buffer, it grows from where it was cut


def test_the_longest_sequence_sets_the_size_of_a_buffer_after_each_step() -> None:
    assert leading_sizes(serving())(SequenceDemand(1200, 10, segments=1), 100) == (
        1280 * ROW,
        1024 * ROW,
        512 * ROW,
    )


def test_a_longer_chunk_of_another_prompt_is_appended_to_all() -> None:
    assert leading_sizes(serving())(SequenceDemand(1030, 10, segments=1), 512)[0] == (1024 + 512) * ROW


def test_one_more_segment_is_one_more_step() -> None:
    assert leading_sizes(serving())(SequenceDemand(300, 10, segments=3), 0) == (512 * ROW,) * 3
    assert leading_sizes(serving())(SequenceDemand(1, 10), 512) == ()


def test_a_cached_prefix_is_not_read() -> None:
    assert len(leading_sizes(serving())(SequenceDemand(1200, 10, cached=1100, segments=1), 0)) == 1
