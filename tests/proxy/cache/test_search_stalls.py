"""What the predictor and the watch are told, and when internal requests are sent; answers are scripted."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.cache.client import CacheClient
from proxy.cache.internal_requests import InternalRequestKind, InternalRequests
from proxy.cache.search_stalls import FollowedJob, SearchStalls
from proxy.cache.search_times import SearchTimes
from proxy.cache.simulator import CacheRules
from proxy.job import Job, Outcome
from proxy.prompt.counter import TokenCounter
from proxy.request.completion import ChatPrompt
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from tests.proxy.cache.test_client import Worker, prediction
from tests.proxy.test_job import a_job

LONG = 2_000_000_000  # three seconds, before anything was learned


class ScriptedRequests(InternalRequests):
    """Internal requests that a scripted child answers, or not."""

    def __init__(self, cache: CacheClient) -> None:
        self.answers = True
        self.sent: list[Mapping[str, Any]] = []
        self._cache, self._numbers = cache, itertools.count(1)

    async def deliver(
        self, kind: InternalRequestKind, body: Mapping[str, Any], *, abandon: bool = False
    ) -> bool:
        del abandon
        assert kind in ("search_shortcut", "exact_hit")
        self.sent.append(body)
        await asyncio.sleep(0)
        return self.answers


class World:
    """Everything around; its clock moves by hand."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.silent_until = 0.0
        self.idle = True
        self.measured: list[tuple[float, float]] = []
        self.worker = Worker()
        searches = SearchTimes(self.expect_silence, lambda: self.now)
        self.cache = CacheClient(cast("TokenCounter", self.worker), searches)
        self.requests = ScriptedRequests(self.cache)
        self.search_stalls = SearchStalls(
            self.cache,
            self.requests,
            idle=lambda: self.idle,
            fits=lambda tokens: tokens <= 1000,
            on_stall=lambda predicted, observed: self.measured.append((predicted, observed)),
            clock=lambda: self.now,
        )
        self.cache.changed(Change(State.STARTING, State.READY, 1))

    def expect_silence(self, until: float) -> None:
        self.silent_until = until

    async def ask(self, job: Job, *, predicted: bool = False) -> None:
        """The job on its way to the child, which has it for a moment."""
        with self.search_stalls.follow(job) as followed:
            if predicted:
                await followed.predict()
            async with followed.attempt():
                pass

    async def complete(self) -> None:
        """A job that completed, and what follows in an idle moment."""
        made = job()
        with self.search_stalls.follow(made):
            made.outcome = Outcome.OK
        assert self.search_stalls._sending is not None
        await self.search_stalls._sending


@pytest.fixture
def world() -> World:
    return World()


def job(id: str = "a") -> Job:
    made = a_job()
    made.answer = Answer.new(unique=id, created=42, model="served", is_chat=False)
    return made


async def test_what_comes_from_the_cache(world: World) -> None:
    world.worker.answers["predict"] = prediction(cached=7)
    found = await FollowedJob(world.search_stalls, job()).predict()
    assert found is not None and (found.cached, found.segments) == (7, 1)
    world.worker.answers["predict"] = None
    assert await FollowedJob(world.search_stalls, job()).predict() is None


async def test_prompts_with_images_are_not_followed(world: World) -> None:
    made = job()
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    made.fitted = replace(made.fitted, prompt=ChatPrompt(({"role": "user", "content": [part]},)))
    assert await FollowedJob(world.search_stalls, made).predict() is None
    assert "predict" not in world.worker.asked


async def test_the_watch_is_told_of_searches_one_after_the_other(world: World) -> None:
    world.worker.answers["asked"] = prediction(cost=LONG)
    await world.ask(job("a"))
    first = world.silent_until - world.now
    await world.ask(job("b"))
    assert 3.0 < first < 30.0
    assert world.silent_until - world.now == pytest.approx(2 * first)


async def test_a_short_search_is_no_stall(world: World) -> None:
    world.worker.answers["asked"] = prediction(cost=1000)
    await world.ask(job())
    assert world.silent_until == 0.0


async def test_how_long_a_search_takes_is_learned_from_one_that_was_alone(world: World) -> None:
    world.worker.answers["asked"] = prediction(cost=LONG)
    for alone in (False, True):
        made, other = (FollowedJob(world.search_stalls, job(id)) for id in "ab")
        async with AsyncExitStack() as attempts:
            await attempts.enter_async_context(made.attempt())
            if not alone:
                await attempts.enter_async_context(other.attempt())
            made.job.asked = world.now
            world.now += 12.0
            made.answer_began()
        assert len(world.measured) == alone
    ((predicted, observed),) = world.measured
    assert (round(predicted, 3), observed) == (3.0, 12.0)
    world.silent_until, world.now = 0.0, 5000.0
    await world.ask(job("c"))
    assert world.silent_until - world.now > 9.0


async def test_a_stream_tells_how_much_was_cached(world: World) -> None:
    made = job()
    followed = FollowedJob(world.search_stalls, made)
    made.fitted = replace(made.fitted, prompt_tokens=100)
    made.seen = StreamProgress(progress=(30, 40))
    followed.prompt_read()
    made.seen = StreamProgress()
    followed.prompt_read()
    assert [fields["cached"] for fields in world.worker.fields] == [60, None]


async def test_how_fast_a_prompt_is_read_is_told_where_nothing_else_runs(world: World) -> None:
    told: list[tuple[int, int, float]] = []
    world.search_stalls.on_read = lambda *read: told.append(read)
    for others in (0, 1):
        made = job()
        made.fitted = replace(made.fitted, prompt_tokens=100)
        async with AsyncExitStack() as attempts:
            followed = FollowedJob(world.search_stalls, made)
            await attempts.enter_async_context(followed.attempt())
            for _ in range(others):
                other = FollowedJob(world.search_stalls, job("other"))
                await attempts.enter_async_context(other.attempt())
            made.seen, made.asked = StreamProgress(progress=(30, 40)), world.now
            world.now += 2.0
            followed.prompt_read()
    assert told == [(60, 100, 2.0)]


async def test_how_a_job_ends_is_told(world: World) -> None:
    for outcome in (Outcome.OK, Outcome.CUT):
        made = job()
        with world.search_stalls.follow(made):
            made.outcome = outcome
    assert [fields["complete"] for fields in world.worker.fields] == [True, False]
    await world.search_stalls.stop()


SHORTCUT = {"id": "search_shortcut-1", "prompt": {"prompt": "x"}, "cost": LONG, "tokens": 900}


async def test_shortcuts_are_sent_until_none_is_wanted(world: World) -> None:
    world.worker.answers["shortcut"] = [SHORTCUT, {**SHORTCUT, "id": "search_shortcut-2"}, None]
    await world.complete()
    assert world.requests.sent == [{"prompt": "x", "max_tokens": 1}] * 2
    assert world.worker.asked == ["ended", "shortcut", "ended", "shortcut", "ended", "shortcut"]
    assert world.silent_until > world.now


async def test_a_shortcut_that_does_not_fit_is_not_sent(world: World) -> None:
    world.worker.answers["shortcut"] = [{**SHORTCUT, "tokens": 1001}, None]
    await world.complete()
    assert world.requests.sent == []
    assert world.worker.fields[-1]["complete"] is False


async def test_a_busy_child_gets_no_shortcuts(world: World) -> None:
    world.idle = False
    await world.complete()
    assert world.worker.asked == ["ended"]


HIT = prediction(tokens=9, exact_hit=True)
BEFORE = {"body": {"prompt": "longer", "max_tokens": 1}, "abandon": False}


@pytest.mark.parametrize("waited", [False, True])
async def test_an_exact_hit_is_avoided_before_it_is_asked(world: World, waited: bool) -> None:
    asked = [HIT] * waited + [None, {**HIT, "cost": LONG}]
    world.worker.answers |= {"predict": [HIT, None], "asked": asked, "avoid_exact_hit": [BEFORE, None]}
    followed = FollowedJob(world.search_stalls, job())
    await followed.predict()
    if waited:  # and something was inserted meanwhile
        world.cache._insertions.add(None)
    async with followed.attempt():
        assert world.requests.sent == [BEFORE["body"]]
        steps = ["avoid_exact_hit", "predict", "asked", "read", "ended", "avoid_exact_hit", "asked"]
        assert world.worker.asked == ["reset", "predict", *["asked"] * waited, *steps]
        assert world.worker.fields[-1] == {"of": job().answer.id, "anyway": True}
        assert world.silent_until > world.now, "by the last prediction"


async def test_avoiding_is_given_up(world: World) -> None:
    world.worker.answers |= {"asked": [HIT] + [None] * 99, "avoid_exact_hit": [BEFORE] * 99}
    await world.ask(job())
    assert len(world.requests.sent) == 2 * CacheRules().sequences + 1
    world.requests.answers = False
    world.worker.answers |= {"asked": [HIT] + [None] * 99, "avoid_exact_hit": [BEFORE] * 99}
    world.requests.sent.clear()
    await world.ask(job())
    assert len(world.requests.sent) == 1, "the child does not answer"
    await world.search_stalls.stop()


async def test_identical_exact_hits_are_avoided_one_after_the_other(world: World) -> None:
    world.worker.answers |= {"predict": [HIT, HIT, None], "avoid_exact_hit": [BEFORE, None, None]}
    world.worker.answers |= {"asked": [None, None, None]}
    both = [FollowedJob(world.search_stalls, job(id)) for id in "ab"]
    for each in both:
        await each.predict()
    await asyncio.gather(*(world.search_stalls.ask(each.job.answer.id) for each in both))
    assert world.requests.sent == [BEFORE["body"]]
    assert world.worker.asked.count("avoid_exact_hit") == 3
    assert world.worker.answers["asked"] == []


async def test_stopping_ends_what_is_under_way(world: World) -> None:
    with world.search_stalls.follow(job()):
        pass
    await world.search_stalls.stop()
    assert "shortcut" not in world.worker.asked
