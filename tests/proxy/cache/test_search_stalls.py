"""What is told to whom, and when cures are sent. The worker's answers are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from proxy.cache.client import CacheClient
from proxy.cache.search_stalls import PredictedRead, SearchStalls
from proxy.cache.simulator import CacheRules
from proxy.job import Job
from proxy.request.completion import ChatPrompt
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from tests.proxy.cache.test_client import Worker, told
from tests.proxy.test_job import a_job

LONG = 2_000_000_000  # items: three seconds, before anything was learned


class World:
    """Everything around; its clock moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silent_until = 0.0
        self.sent: list[Mapping[str, Any]] = []
        self.idle = self.answers = True
        self.seen: list[tuple[float, float]] = []
        self.worker = Worker()
        self.mirroring = CacheClient(self.worker)
        self.stalls = SearchStalls(
            self.mirroring,
            self,
            self,
            idle=lambda: self.idle,
            fits=lambda tokens: tokens <= 1000,
            on_stall=lambda foreseen, seen: self.seen.append((foreseen, seen)),
            clock=lambda: self.now,
        )
        self.changed(Change(State.STARTING, State.READY, 1))

    def changed(self, change: Change) -> None:
        self.mirroring.changed(change)
        self.stalls.changed(change)

    def expect_silence(self, until: float) -> None:
        self.silent_until = until

    async def send(self, kind: str, body: Mapping[str, Any], /, *, abandon: bool = False) -> bool:
        del abandon
        assert kind in ("cure", "displace", "evade")
        self.sent.append(body)
        await asyncio.sleep(0)
        return self.answers

    async def settle(self) -> None:
        assert self.stalls._curing is not None
        await self.stalls._curing


@pytest.fixture
def world() -> World:
    return World()


def job(id: str = "a") -> Job:
    made = a_job()
    made.answer = Answer.new(unique=id, created=42, model="served", is_chat=False)
    return made


async def test_what_comes_from_the_cache(world: World) -> None:
    world.worker.answers["foresee"] = told(cached=7)
    assert await world.stalls.foresee(job()) == PredictedRead(cached=7, segments=1)
    world.worker.answers["foresee"] = None
    assert (await world.stalls.foresee(job())).cached == 0


async def test_prompts_with_images_are_not_followed(world: World) -> None:
    made = job()
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    made.fitted = replace(made.fitted, prompt=ChatPrompt(({"role": "user", "content": [part]},)))
    assert (await world.stalls.foresee(made)).cached == 0
    assert "foresee" not in world.worker.asked


async def test_the_watch_is_told_of_searches_one_after_the_other(world: World) -> None:
    world.worker.answers["asked"] = told(copied=LONG)
    await world.stalls.asking(job("a"))
    first = world.silent_until - world.now
    await world.stalls.asking(job("b"))
    assert 3.0 < first < 30.0
    assert world.silent_until - world.now == pytest.approx(2 * first)


async def test_a_short_search_is_no_stall(world: World) -> None:
    world.worker.answers["asked"] = told(copied=1000)
    await world.stalls.asking(job())
    assert world.silent_until == 0.0


async def test_how_long_a_search_takes_is_learned_from_one_that_was_alone(world: World) -> None:
    world.worker.answers["asked"] = told(copied=LONG)
    for alone in (False, True):
        made, other = job("a"), job("b")
        await world.stalls.asking(made)
        with world.stalls.asked(made), world.stalls.asked(other):
            if not alone:
                await world.stalls.asking(other)
            made.asked = world.now
            world.now += 12.0
            world.stalls.answering(made)
        assert len(world.seen) == alone
    assert world.seen == [(pytest.approx(3.0), 12.0)]
    before = world.silent_until = 0.0
    world.now = 5000.0
    await world.stalls.asking(job("c"))
    assert world.silent_until - world.now > 9.0 + before


async def test_a_stream_tells_how_much_was_cached(world: World) -> None:
    made = job()
    made.fitted = replace(made.fitted, prompt_tokens=100)
    made.seen = StreamProgress(progress=(30, 40))
    world.stalls.read(made)
    made.seen = StreamProgress()
    world.stalls.read(made)
    await asyncio.sleep(0)
    assert [fields["cached"] for fields in world.worker.fields] == [60, None]


async def test_cures_are_sent_until_none_is_wanted(world: World) -> None:
    cure = {"id": "cure-1", "prompt": {"prompt": "x"}, "copied": LONG, "tokens": 900}
    world.worker.answers["cure"] = [cure, {**cure, "id": "cure-2"}, None]
    world.stalls.ended(job(), complete=True)
    await world.settle()
    assert world.sent == [{"prompt": "x", "max_tokens": 1}] * 2
    assert world.worker.asked == ["ended", "cure", "ended", "cure", "ended", "cure"]
    assert world.silent_until > world.now


async def test_a_cure_that_does_not_fit_is_not_sent(world: World) -> None:
    cure = {"id": "cure-1", "prompt": {"prompt": "x"}, "copied": LONG, "tokens": 1001}
    world.worker.answers["cure"] = [cure, None]
    world.stalls.ended(job(), complete=True)
    await world.settle()
    await asyncio.sleep(0)
    assert world.sent == []
    assert world.worker.fields[-1]["complete"] is False


async def test_a_busy_child_is_not_cured(world: World) -> None:
    world.idle = False
    world.stalls.ended(job(), complete=True)
    await world.settle()
    assert world.worker.asked == ["ended"]


@pytest.mark.parametrize("abandon", [True, False])
async def test_what_displaces_is_followed_too(world: World, abandon: bool) -> None:
    assert await world.stalls.send("displace", {"prompt": "1"}, abandon=abandon)
    await asyncio.sleep(0)
    assert world.worker.asked == ["reset", "foresee", "asked", "read", "ended"]
    assert world.worker.fields[-1]["complete"] is not abandon
    world.answers = False
    assert not await world.stalls.send(
        "displace", {"messages": [{"role": "user", "content": "1"}]}, abandon=abandon
    )
    await asyncio.sleep(0)
    assert world.worker.asked[5:] == ["foresee", "asked", "ended"]


KEY = told(cached=9, key=True)
WAY = {"body": {"prompt": "longer", "max_tokens": 1}, "abandon": False}


@pytest.mark.parametrize("waited", [False, True])
async def test_a_key_is_evaded_before_it_is_asked(world: World, waited: bool) -> None:
    world.worker.answers |= {"foresee": KEY, "asked": [KEY] * waited + [None, {**KEY, "copied": LONG}]}
    world.worker.answers["evade"] = [WAY, None]
    await world.stalls.foresee(job())
    world.worker.answers["foresee"] = None
    if waited:  # and something came meanwhile
        world.mirroring._arrivals.unknown()
    await world.stalls.asking(job())
    assert world.sent == [WAY["body"]]
    way = ["evade", "foresee", "asked", "read", "ended", "evade", "asked"]
    assert world.worker.asked == ["reset", "foresee", *["asked"] * waited, *way]
    assert world.worker.fields[-1] == {"of": job().answer.id, "anyway": True}
    assert world.silent_until > world.now, "by what was told at last"


async def test_evading_is_given_up(world: World) -> None:
    world.worker.answers |= {"asked": [KEY] + [None] * 99, "evade": [WAY] * 99}
    await world.stalls.asking(job())
    assert len(world.sent) == 2 * CacheRules().sequences + 1
    world.answers = False
    world.worker.answers |= {"asked": [KEY] + [None] * 99, "evade": [WAY] * 99}
    world.sent.clear()
    await world.stalls.asking(job())
    assert len(world.sent) == 1, "the child does not answer"


async def test_twins_are_evaded_one_after_the_other(world: World) -> None:
    twins = [job("a"), job("b")]
    world.worker.answers |= {"foresee": KEY, "evade": [WAY, None, None]}
    for each in twins:
        await world.stalls.foresee(each)
    world.worker.answers |= {"foresee": None, "asked": [None, None, None]}
    await asyncio.gather(*map(world.stalls.asking, twins))
    assert world.sent == [WAY["body"]]
    assert world.worker.asked.count("evade") == 3
    assert world.worker.answers["asked"] == []


async def test_a_request_of_our_own_that_is_a_key_is_not_sent(world: World) -> None:
    world.worker.answers["asked"] = KEY
    assert not await world.stalls.send("displace", {"prompt": "1"})
    assert world.sent == []


async def test_stopping_ends_what_is_under_way(world: World) -> None:
    world.stalls.ended(job(), complete=True)
    await world.stalls.stop()
    assert "cure" not in world.worker.asked
