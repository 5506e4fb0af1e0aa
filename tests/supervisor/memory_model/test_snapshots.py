"""What snapshots pin: by hand for a few, and against a replay of the child for any."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor.memory_model.kv_cache import STEP
from supervisor.memory_model.sequence import SequenceDemand, buffers_of
from supervisor.memory_model.snapshots import Snapshots, snapshots
from tests.supervisor.memory_model.test_batch import LARGE, pinned, rows
from tests.support.batch_replay import Child


def of(members: list[SequenceDemand], step: int = 512, prompts: int = 8) -> list[int]:
    """In rows."""
    serving = rows(len(members), step, prompts)
    unread = [each for each in members if not each.read_together]
    found = snapshots(serving, members, [buffers_of(serving)(each) for each in members], unread)
    return [size // LARGE for size in found.sizes]


def test_prompts_that_are_read_in_one_step_share_a_buffer() -> None:
    assert sum(of([SequenceDemand(300, 9, segments=1)] * 4)) == 4 * 512


def test_long_prompts_may_each_end_in_a_buffer_with_all_that_remain() -> None:
    assert of([SequenceDemand(4000, 9, segments=1)] * 3) == [3 * 4096, 2 * 4096, 4096]


def test_a_long_prompt_shares_a_buffer_with_each_short_one_in_a_different_step() -> None:
    """Two steps: one title shares a buffer with each, and the third has its own."""
    title = SequenceDemand(100, 9, segments=1)
    assert of([SequenceDemand(800, 9, segments=1), title, title, title], prompts=2) == [
        2 * 1024,
        2 * 512,
        256,
    ]


def test_a_system_prompt_is_one_more_step() -> None:
    assert sum(of([SequenceDemand(300, 9, segments=2)] * 2)) == 3 * 512


def test_prompt_concurrency_limits_what_is_read_together() -> None:
    assert max(of([SequenceDemand(4000, 9)] * 5, prompts=2)) == 2 * 4096


def test_a_generating_request_was_read_with_at_most_those_that_were_unread() -> None:
    assert of([SequenceDemand(300, 9, read_together=3, longest_prompt=900)]) == [3 * 1024]
    assert of([SequenceDemand(300, 9, read_together=1, longest_prompt=300)]) == [512]


def test_the_server_holds_the_newest_besides_those_that_are_retained() -> None:
    assert Snapshots((5, 3, 1)).of(1) == 8
    assert Snapshots((5, 3, 1)).of(3) == 9


class Reading(Child):
    """Counts the snapshots alone, until the first has ended."""

    most = 0

    def _read(self) -> None:
        super()._read()
        if not self.ended:
            distinct = {id(each): each.size for each in self.entries.values()}
            self.most = max(self.most, sum(distinct.values()))


@settings(max_examples=200, deadline=None)  # a replay takes as long as its answers
@given(
    st.lists(st.integers(2, 3000), min_size=1, max_size=6),
    st.integers(1, 8),
    st.sampled_from([128, 256, 512, 2048]),
    st.data(),
)
def test_no_order_of_arrivals_pins_more(
    prompts: list[int], together: int, step: int, data: st.DataObject
) -> None:
    arrivals = data.draw(st.lists(st.integers(0, 30), min_size=len(prompts), max_size=len(prompts)))
    child = Reading([(prompt, 200) for prompt in prompts], arrivals, step, len(prompts), together)
    child.run()
    bound = sum(of([SequenceDemand(prompt, 200, segments=1) for prompt in prompts], step, together))
    assert child.most <= bound + pinned([(prompt, 200) for prompt in prompts], step) * STEP
