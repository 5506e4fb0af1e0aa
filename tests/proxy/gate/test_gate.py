"""The gate's shell: futures, cancelling and its one timer."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from proxy.errors import Unavailable
from proxy.gate.admission import AdmissionPreview
from proxy.gate.budget import Budget
from proxy.gate.corrections import Correction, Corrections, PeakSample
from proxy.gate.gate import Gate
from proxy.gate.queue import Ticket
from proxy.gate.slot import NoRoomEver
from supervisor.memory_model.sequence import MOST_SEGMENTS
from tests.support.padded_costs import PaddedCosts


def a_gate(
    running: int = 1,
    waiting: int = 10,
    ceiling: int | None = None,
    on_sample: Callable[[PeakSample], None] = lambda _: None,
) -> Gate:
    budget = Budget(max_running=running, ceiling=ceiling, costs=PaddedCosts())
    clock = asyncio.get_running_loop().time
    return Gate(budget, max_waiting=waiting, clock=clock, on_sample=on_sample)


def a_prompt(gate: Gate, id: str, prompt: int, max_tokens: int = 16) -> Ticket:
    now = asyncio.get_running_loop().time()
    return gate.ticket(id, "client", arrived=now, deadline=now + 100, prompt=prompt, max_tokens=max_tokens)


def ticket(id: str, *, within_s: float = 100.0) -> Ticket:
    now = asyncio.get_running_loop().time()
    return Ticket(id, "client", arrived=now, deadline=now + within_s)


async def hold(gate: Gate, id: str, release: asyncio.Event) -> None:
    with gate.enter(ticket(id)) as slot:
        await slot.granted()
        await release.wait()


async def turns() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_runs_and_one_waits() -> None:
    gate, release = a_gate(), asyncio.Event()
    first, second = (asyncio.create_task(hold(gate, id, release)) for id in "ab")
    await turns()
    snapshot = gate.snapshot()
    assert (snapshot.running, snapshot.waiting, snapshot.budget.max_running) == (1, 1, 1)
    assert (gate.position("a"), gate.position("b")) == (None, 1)

    release.set()
    await asyncio.gather(first, second)

    assert (gate.snapshot().running, gate.snapshot().waiting) == (0, 0)


async def test_an_immediate_grant_does_not_yield_to_the_loop() -> None:
    """No await between reading the state and changing it."""
    gate = a_gate()
    ran: list[str] = []
    asyncio.get_running_loop().call_soon(ran.append, "other")
    with gate.enter(ticket("a")) as slot:
        await slot.granted()
        assert ran == []


async def test_the_deadline_refuses() -> None:
    gate, release = a_gate(), asyncio.Event()
    holder = asyncio.create_task(hold(gate, "a", release))
    await turns()

    with pytest.raises(Unavailable) as refusal, gate.enter(ticket("b", within_s=0.01)) as slot:
        await slot.granted()

    assert refusal.value.reason == "queue_deadline"
    assert gate.snapshot().waiting == 0
    release.set()
    await holder


async def test_a_full_queue_refuses() -> None:
    gate = a_gate(running=0, waiting=0)
    with pytest.raises(Unavailable) as refusal, gate.enter(ticket("a")) as slot:
        await slot.granted()
    assert refusal.value.reason == "queue_full"


async def test_a_refusal_that_is_not_awaited_is_no_error() -> None:
    with a_gate(running=0, waiting=0).enter(ticket("a")):
        pass


async def test_a_request_that_is_cancelled_while_waiting_leaves() -> None:
    gate, release = a_gate(), asyncio.Event()
    first, second = (asyncio.create_task(hold(gate, id, release)) for id in "ab")
    await turns()
    second.cancel()
    await turns()
    assert gate.snapshot().waiting == 0
    release.set()
    await first


async def test_a_grant_to_a_request_that_was_just_cancelled_is_not_lost() -> None:
    gate, release = a_gate(), asyncio.Event()
    first, second, third = (asyncio.create_task(hold(gate, id, release)) for id in "abc")
    await turns()
    second.cancel()
    first.cancel()  # its slot goes to the second, which leaves only after that
    await turns()
    assert (gate.snapshot().running, gate.snapshot().waiting) == (1, 0)
    release.set()
    await third


async def test_a_requeued_request_waits_for_another_grant() -> None:
    gate = a_gate()
    with gate.enter(ticket("a")) as slot:
        await slot.granted()
        gate.set_budget(Budget(max_running=0))
        slot.requeue()
        assert gate.position(slot.id) == 1
        waiting = asyncio.create_task(slot.granted())
        await turns()
        assert not waiting.done()

        gate.set_budget(Budget(max_running=1))
        await waiting
        assert gate.position(slot.id) is None


async def test_a_retained_slot_outlives_its_block() -> None:
    gate = a_gate()
    with gate.enter(ticket("a")) as slot:
        await slot.granted()
        release, other = slot.retain(), slot.retain()
    assert (gate.snapshot().running, gate.snapshot().disconnected) == (1, 1)
    release()
    assert gate.snapshot().running == 1
    other()
    assert (gate.snapshot().running, gate.snapshot().disconnected) == (0, 0)


async def test_another_request_may_have_the_slot_of_one_that_the_child_will_drop() -> None:
    gate = a_gate(ceiling=1010)
    with gate.enter(a_prompt(gate, "a", 300)) as slot:
        await slot.granted()
        release = slot.retain()
        with gate.enter(a_prompt(gate, "b", 300)) as second:
            assert gate.position(second.id) == 1
            slot.dropped = True
    assert (gate.snapshot().running, gate.snapshot().disconnected) == (1, 1)
    with gate.enter(a_prompt(gate, "c", 300)) as third:
        await third.granted()
        assert gate.snapshot().slots_taken == 1
        assert gate.snapshot().running == 2, "the memory of the first still counts"
        with gate.enter(a_prompt(gate, "d", 600)) as fourth:
            assert gate.position(fourth.id) == 1
            release()
    assert gate.snapshot().running == 0


async def test_a_slot_that_is_released_within_its_block_ends_with_it() -> None:
    gate = a_gate()
    with gate.enter(ticket("a")) as slot:
        await slot.granted()
        slot.retain()()
        assert gate.snapshot().running == 1
    assert (gate.snapshot().running, gate.snapshot().disconnected) == (0, 0)


async def test_a_request_that_never_fits_is_told_what_does() -> None:
    gate = a_gate(8, ceiling=1010)
    with pytest.raises(NoRoomEver) as refusal, gate.enter(a_prompt(gate, "a", 1500)) as slot:
        await slot.granted()
    assert refusal.value.limit == 1010 - 10 - 16
    asked = [gate.preview("c", prompt, 16) for prompt in (100, 1500)]
    assert asked == [AdmissionPreview.NOW, AdmissionPreview.NEVER_FITS]


async def test_completions_are_predicted_from_a_clients_past() -> None:
    gate = a_gate()
    assert a_prompt(gate, "a", 5, max_tokens=65_536).demand.completion == 1024
    for _ in range(95):
        gate.answered("client", 100)
    assert a_prompt(gate, "a", 5, max_tokens=65_536).demand.completion < 200
    assert a_prompt(gate, "a", 5, max_tokens=16).demand.completion == 16


async def test_a_prompt_in_an_unknown_number_of_segments_counts_as_read_in_the_most() -> None:
    gate = a_gate()
    assert a_prompt(gate, "a", 5).demand.segments == MOST_SEGMENTS
    known = gate.ticket("a", "c", arrived=0, deadline=1, prompt=5, max_tokens=1, segments=2)
    assert (known.demand.segments, known.least_demand.segments) == (2, 2)


async def test_predicted_peaks_are_compared_with_observed_ones() -> None:
    samples: list[PeakSample] = []
    rises: list[int] = []
    gate = a_gate(8, ceiling=1010, on_sample=samples.append)
    gate.observe(10, 10)
    with gate.enter(a_prompt(gate, "a", 184), rises.append) as slot:
        await slot.granted()
        assert slot.reserved == 200
        assert [(id, demand.prompt) for id, demand in gate.snapshot().demands.items()] == [("a", 184)]
        slot.grew(40)
        gate.observe(90, 130)
        gate.observe(90, 130)
    assert samples == [PeakSample(200, 120, together=False)]
    assert rises == [120, 120]
    gate.observe(5)


async def test_holding_the_gate_and_retained_memory() -> None:
    gate = a_gate(8, ceiling=1010)
    gate.hold(on=True)
    gate.hold(on=True)
    with gate.enter(a_prompt(gate, "a", 500)) as slot:
        assert (gate.position(slot.id), gate.snapshot().held) == (1, True)
        gate.set_retained(600)
        gate.hold(on=False)
        assert (gate.snapshot().eviction_needed, gate.snapshot().retained) == (115, 600)
        gate.set_budget(replace(gate.snapshot().budget, ceiling=1200))
        await slot.granted()
        assert gate.snapshot().reserved == 10 + 516 + 600


async def test_corrections_of_an_earlier_run_are_taken_up() -> None:
    gate = a_gate()
    learned = Corrections(together=Correction(1.2, (), at=asyncio.get_running_loop().time()))
    gate.correct(learned)
    assert gate.corrections == learned
    assert gate.snapshot().corrections == pytest.approx((1.0, 1.2))


async def test_predictions_are_recorded_without_corrections() -> None:
    samples: list[PeakSample] = []
    gate = a_gate(8, ceiling=10_010, on_sample=samples.append)
    now = asyncio.get_running_loop().time()
    gate.correct(Corrections(alone=Correction(1.2, (), at=now)))
    gate.set_retained(20)
    gate.observe(10, 10)
    with gate.enter(a_prompt(gate, "a", 84)) as slot:
        await slot.granted()
        assert slot.reserved == 120
        gate.observe(120, 130)
    assert samples == [PeakSample(120, 120, together=False)]
    assert gate.corrections.alone.belief < 1.2


async def test_an_attempt_that_failed_teaches_nothing() -> None:
    samples: list[PeakSample] = []
    gate = a_gate(8, ceiling=10_010, on_sample=samples.append)
    with gate.enter(a_prompt(gate, "a", 100)) as slot:
        await slot.granted()
        gate.observe(70)
        slot.requeue(alone=True)
        await slot.granted()
    assert samples == []
    assert gate.corrections == Corrections()


async def test_nothing_running_waiting_or_held_is_idle() -> None:
    gate = a_gate()
    assert gate.idle
    gate.hold(on=True)
    assert not gate.idle
    with gate.enter(ticket("a")):
        gate.hold(on=False)
        assert not gate.idle


async def test_a_slot_ends_when_its_request_leaves_and_its_last_holder_has_released_it() -> None:
    gate = a_gate(running=9)
    ended: list[int] = []
    for holders in range(3):
        with gate.enter(ticket("a")) as slot:
            await slot.granted()
            releases = [slot.retain() for _ in range(holders)]
        for release in releases:
            assert (gate.snapshot().running, gate.snapshot().disconnected) == (1, 1)
            release()
        ended.append(gate.snapshot().running)
        assert gate.snapshot().disconnected == 0
    assert ended == [0, 0, 0]
