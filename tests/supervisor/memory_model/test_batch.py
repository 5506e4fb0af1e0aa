"""The peak of a batch: never less than its parts, and never less for more requests."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.batch import kv, largest_prompt, peak
from supervisor.memory_model.kv_cache import STEP, CachePart, CostModel, GrowthKind
from supervisor.memory_model.sequence import SequenceDemand, Serving, buffers_of
from supervisor.memory_model.snapshots import snapshots
from tests.support.batch_replay import Child

ROW = 100_000
TRACED = Traced(
    cost_model=CostModel((CachePart(GrowthKind.GROWING, ROW),)),
    layer_width=5000,
    vocabulary=1000,
    backend="metal",
)
SERVING = Serving(
    Model(weights=10**9, cost_model=TRACED.cost_model, traced=TRACED, batched=True),
    step=512,
    decodes=4,
    prompts=2,
    prompt_cache_size=10,
)
a_member = st.tuples(st.integers(1, 20_000), st.integers(1, 2000)).map(lambda sizes: SequenceDemand(*sizes))
members = st.lists(a_member, min_size=1, max_size=5)


def test_a_batch_costs_as_much_as_its_longest_each() -> None:
    assert kv(SERVING, [SequenceDemand(1000, 24), SequenceDemand(10, 5)]) == 2 * 1024 * ROW
    assert kv(SERVING, []) == 0


@given(members, a_member)
def test_one_more_request_never_lowers_the_peak(some: list[SequenceDemand], another: SequenceDemand) -> None:
    assert kv(SERVING, [*some, another]) >= kv(SERVING, some)
    assert peak(SERVING, [*some, another]).total >= peak(SERVING, some).total


@given(members, st.integers(0, 10**9))
def test_what_is_retained_comes_on_top(some: list[SequenceDemand], retained: int) -> None:
    assert peak(SERVING, some, retained).total >= peak(SERVING, some).total
    assert peak(SERVING, some).total >= SERVING.model.weights + kv(SERVING, some[:1])


@pytest.mark.parametrize("gigabytes", [0, 1, 2, 5, 20])
def test_the_largest_prompt_fits_and_a_longer_one_does_not(gigabytes: int) -> None:
    ceiling = gigabytes * 10**9
    found = largest_prompt(SERVING, ceiling, completion=100)
    assert not found or peak(SERVING, [SequenceDemand(found, 100)]).total <= ceiling
    assert peak(SERVING, [SequenceDemand(found + 1, 100)]).total > ceiling


#: Only rows count here: the activations of a step and a single layer are negligible.
LARGE = 10**12
ROWS = Traced(CostModel((CachePart(GrowthKind.GROWING, LARGE, caches=10**18),)))
sequences = st.lists(st.tuples(st.integers(2, 3000), st.integers(1, 900)), min_size=1, max_size=6)


#: Rows by which a buffer may exceed what its sequences need: one that was cut grows from where it was cut.
CUT = STEP


def pinned(some: list[tuple[int, int]], step: int) -> int:
    """Sequences in all buffers that are pinned at once, at most."""
    number = len(some)
    read = sum(min(-(-(prompt - 1) // step), number) for prompt, _ in some)
    return number * (number + 1) // 2 + read


def rows(number: int, step: int, prompts: int) -> Serving:
    return Serving(Model(0, ROWS.cost_model, ROWS, batched=True), step, number, prompts, 10)


@settings(deadline=None)  # a replay takes as long as its answers
@given(st.tuples(st.integers(2, 9000), st.integers(1, 2000)), st.sampled_from([100, 256, 512, 2048]))
def test_one_request_costs_what_a_replay_of_the_child_finds(sequence: tuple[int, int], step: int) -> None:
    found = peak(rows(1, step, 1), [SequenceDemand(*sequence)]).total // LARGE
    assert found == Child([sequence], [0], step, 1, 1).run()


@settings(max_examples=200, deadline=None)  # a replay takes as long as its answers
@given(sequences, st.integers(1, 8), st.sampled_from([128, 256, 512, 2048]), st.data())
def test_no_order_of_arrivals_and_ends_exceeds_the_bound(
    some: list[tuple[int, int]], prompts: int, step: int, data: st.DataObject
) -> None:
    arrivals = data.draw(st.lists(st.integers(0, 600), min_size=len(some), max_size=len(some)))
    unread = [SequenceDemand(*each, segments=1) for each in some]
    bound = peak(rows(len(some), step, prompts), unread).caches // LARGE
    assert Child(some, arrivals, step, len(some), prompts).run() <= bound + pinned(some, step) * CUT


def in_layers(window: int, layers: int) -> Traced:
    """As many caches that grow as have the window, of which some are copied while the others are there."""
    grows = CachePart(GrowthKind.GROWING, LARGE, caches=layers)
    return Traced(
        CostModel(
            (grows, CachePart(GrowthKind.WINDOW, LARGE, size=window, caches=layers)) if window else (grows,)
        )
    )


@settings(max_examples=300, deadline=None)
@given(
    sequences, st.integers(1, 8), st.sampled_from([256, 512]), st.sampled_from([0, 256, 512, 1024]), st.data()
)
def test_no_order_of_windows_and_copied_caches_exceeds_the_bound(
    some: list[tuple[int, int]], prompts: int, step: int, window: int, data: st.DataObject
) -> None:
    """Of two caches of a kind, a half is there twice as it grows, is cut out or is joined."""
    arrivals = data.draw(st.lists(st.integers(0, 600), min_size=len(some), max_size=len(some)))
    traced = in_layers(window, 2)
    serving = Serving(Model(0, traced.cost_model, traced, batched=True), step, len(some), prompts, 10)
    found = peak(serving, [SequenceDemand(*each, segments=1) for each in some])
    allowed = pinned(some, step) * CUT * (1 + bool(window))
    child = Child(some, arrivals, step, len(some), prompts, window, layers=2)
    assert child.run() <= (found.caches + found.activations) // LARGE + allowed


def test_the_first_to_end_is_copied_while_everything_that_windows_left_exists() -> None:
    """Seen in the child: 700 tokens and 64 more, the second of which comes as the first has read 512."""
    traced = in_layers(256, 2)
    serving = Serving(Model(0, traced.cost_model, traced, batched=True), 256, 4, 2, 10)
    child = Child([(700, 64), (700, 65)], [0, 2], 256, 4, 2, window=256, layers=2)
    found = peak(serving, [SequenceDemand(700, 64, segments=1), SequenceDemand(700, 65, segments=1)])
    assert child.run() <= (found.caches + found.activations) // LARGE


def known(child: Child, now: int) -> tuple[list[SequenceDemand], int]:
    """What the gate knows as a step begins: of those that are there, and of what others left behind."""
    arrived = [each for each in range(len(child.sequences)) if child.arrivals[each] <= now]
    there, behind = list(arrived), 0
    serving = rows(len(child.sequences), child.step, child.prompts)
    for each in sorted((each for each in arrived if child.ended[each] < now), key=child.ended.__getitem__):
        at = child.ended[each]
        behind += kv(
            serving,
            [SequenceDemand(*child.sequences[other]) for other in there if child.arrivals[other] <= at],
        )
        there.remove(each)
    return [_member(child, each, now, arrived) for each in there], behind


def _member(child: Child, each: int, now: int, arrived: list[int]) -> SequenceDemand:
    prompt, completion = child.sequences[each]
    if child.began[each] >= now:
        return SequenceDemand(prompt, completion, segments=1)
    others = [
        other
        for other in arrived
        if child.arrivals[other] <= child.began[each] and child.arrivals[each] <= child.began[other]
    ]
    return SequenceDemand(
        prompt, completion, 0, len(others), max(child.sequences[other][0] for other in others)
    )


@settings(max_examples=300, deadline=None)
@given(sequences, st.integers(1, 8), st.sampled_from([128, 256, 512, 2048]), st.data())
def test_no_order_exceeds_the_bound_once_it_is_known_which_requests_generate(
    some: list[tuple[int, int]], prompts: int, step: int, data: st.DataObject
) -> None:
    arrivals = data.draw(st.lists(st.integers(0, 600), min_size=len(some), max_size=len(some)))
    child = Child(some, arrivals, step, len(some), prompts)
    child.run()
    last = max(arrivals)
    members, behind = known(child, last)
    bound = peak(rows(len(some), step, prompts), members, behind).caches // LARGE
    assert max(child.peaks[last:]) <= bound + pinned(some, step) * CUT


@settings(deadline=None)  # the first of a kind is worked out
@given(sequences, st.integers(1, 8), st.data())
def test_one_that_was_read_alone_costs_no_more_than_one_that_is_unread(
    some: list[tuple[int, int]], prompts: int, data: st.DataObject
) -> None:
    serving = rows(len(some), 512, prompts)
    unread = [SequenceDemand(*each) for each in some]
    number = data.draw(st.integers(0, len(some)))
    read = [SequenceDemand(*each, 0, 1, each[0]) for each in some[:number]]
    assert peak(serving, [*read, *unread[number:]]).caches <= peak(serving, unread).caches


def test_the_growth_of_a_short_sequence_is_not_added_to_a_long_one() -> None:
    """Three sequences of 799 rows and the 256 that they grow by; a title may grow by more of its own 256."""
    serving, long, title = (
        rows(2, 512, 2),
        SequenceDemand(800, 96, segments=1),
        SequenceDemand(100, 16, segments=1),
    )
    both = [*map(buffers_of(serving), (long, title))]
    read = snapshots(serving, (long, title), both, (long, title)).of(1)
    assert peak(serving, [long, title]).caches == read + 3 * (799 + 256) * LARGE


def test_each_of_several_successive_ends_leaves_a_buffer() -> None:
    """300 tokens are 512 rows: the four buffers that are left, and the snapshot all were read in."""
    found = Child([(300, 16), (300, 32), (300, 48), (300, 64)], [0] * 4, 512, 4, 4).run()
    assert found == (4 + 3 + 2 + 1 + 4) * 512
