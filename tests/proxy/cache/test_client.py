"""What is told and asked in which order. The worker's answers are scripted."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.cache.client import CacheClient, rules
from proxy.cache.search_times import SearchTimes
from proxy.cache.simulator import CacheRules
from proxy.gate.residents import CacheContent
from proxy.prompt.counter import TokenCounter
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan
from supervisor.memory_model.sequence import Serving

READY = Change(State.STARTING, State.READY, 1)


def prediction(**fields: Any) -> dict[str, Any]:
    """What the worker says of a prompt, as it comes from its pipe."""
    nothing = {
        "tokens": 9,
        "cached": 0,
        "cost": 0,
        "exact_hit": False,
        "same_length": False,
        "longest": 1,
        "inserts": [8],
    }
    return nothing | fields


class Worker:
    """Stands in for TokenCounter: `answers` by what is done, and all that was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []
        self.fields: list[dict[str, Any]] = []

    def tell_predictor(self, do: str, **fields: Any) -> None:
        self.asked.append(do)
        self.fields.append(fields)

    async def ask_predictor(self, do: str, prompt: Prompt | None = None, **fields: Any) -> Any | None:
        del prompt
        self.tell_predictor(do, **fields)
        answer = self.answers.get(do)
        return answer.pop(0) if isinstance(answer, list) else answer

    async def count_and_predict(
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool, session: str
    ) -> tuple[int, dict[str, Any] | None]:
        fields = {"limit": limit, "of": of, "batched": batched, "session": session}
        return 9, await self.ask_predictor("count_and_predict", prompt, **fields)

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        await self.ask_predictor("count", prompt, limit=limit)
        return 9

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        await self.ask_predictor("shared", prompt, other=other)
        return 5

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        await self.ask_predictor("trim", prompt, head=head, limit=limit)
        return prompt, limit


@pytest.fixture
def worker() -> Worker:
    return Worker()


@pytest.fixture
def cache(worker: Worker) -> CacheClient:
    made = CacheClient(cast("TokenCounter", worker), SearchTimes(lambda _: None))
    made.changed(READY)
    return made


REQUEST = CompletionRequest(TextPrompt("a"))


async def counted(cache: CacheClient, id: str, request: CompletionRequest = REQUEST) -> None:
    with cache.counting(id, request) as counter:
        assert await counter.count(request.prompt, 100) == 9


async def test_a_request_is_counted_and_predicted_in_one_trip(cache: CacheClient, worker: Worker) -> None:
    worker.answers["count_and_predict"] = prediction(cached=3)
    await counted(cache, "a")
    found = await cache.predict("a", REQUEST.prompt, REQUEST)
    assert found is not None and found.cached == 3
    assert await cache.ask("a") == found
    assert worker.asked == ["reset", "count_and_predict", "asked"]
    counted_as = {"limit": 100, "of": "a", "batched": True, "session": REQUEST.session()}
    assert worker.fields[1:] == [counted_as, {"of": "a"}]


async def test_what_is_cut_is_predicted_as_it_is_sent(cache: CacheClient, worker: Worker) -> None:
    shorter = TextPrompt("b")
    with cache.counting("a", REQUEST) as counter:
        await counter.count(REQUEST.prompt)
        await counter.count(shorter)
        assert await counter.shared(REQUEST.prompt, shorter) == 5
        assert await counter.trim(shorter, 1, 7) == (shorter, 7)
    worker.answers["predict"] = prediction(cached=4)
    found = await cache.predict("a", shorter, REQUEST)
    assert found is not None and found.cached == 4
    assert worker.asked == ["reset", "count_and_predict", "count", "shared", "trim", "predict"]


async def test_what_is_refused_is_tracked_no_more(cache: CacheClient, worker: Worker) -> None:
    with pytest.raises(ValueError, match="too long"), cache.counting("a", REQUEST) as counter:
        await counter.count(REQUEST.prompt)
        raise ValueError("too long")
    assert worker.asked[-1] == "ended"
    assert worker.fields[-1] == {"of": "a", "generated": 0, "cached": None, "complete": False}
    assert not cache._tracked


async def test_prompts_with_images_are_not_tracked(cache: CacheClient, worker: Worker) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    seen = CompletionRequest(ChatPrompt(({"role": "user", "content": [part]},)))
    await counted(cache, "a", seen)
    assert await cache.predict("a", seen.prompt, seen) is None
    assert worker.asked == ["count"]


async def test_what_runs_outside_of_the_batch(cache: CacheClient, worker: Worker) -> None:
    await counted(cache, "a", replace(REQUEST, sampling={"seed": 1}))
    assert worker.fields[-1]["batched"] is False


async def test_each_child_is_tracked_from_its_start(cache: CacheClient, worker: Worker) -> None:
    worker.answers["count_and_predict"] = prediction()
    await counted(cache, "a")
    await cache.ask("a")
    cache.changed(Change(State.READY, State.BACKOFF, 1))
    cache.changed(Change(State.STARTING, State.READY, 2))
    assert await cache.ask("a") is None, "asked again, since the cache is another"
    assert worker.asked == ["reset", "count_and_predict", "asked", "reset", "asked"]


@pytest.mark.parametrize(
    ("mine", "other", "again"),
    [
        (prediction(tokens=9), prediction(tokens=20, inserts=[4, 19]), False),
        (prediction(tokens=9), prediction(tokens=20, inserts=[9, 19]), True),
        (
            prediction(tokens=24),
            prediction(tokens=20, inserts=[19]),
            True,
        ),  # with what was generated it is as long
        (prediction(tokens=9), prediction(tokens=9, inserts=[8]), False),
        (prediction(tokens=9), prediction(tokens=50_000, inserts=[]), True),  # long enough for a stall
        (prediction(tokens=9), None, True),
    ],
)
async def test_what_came_in_between_may_matter(
    cache: CacheClient, worker: Worker, mine: dict[str, Any], other: dict[str, Any] | None, again: bool
) -> None:
    worker.answers = {"count_and_predict": [mine, other], "asked": prediction(cached=1)}
    await counted(cache, "mine")
    await counted(cache, "other")
    cache.read("other", None)
    cache.ended("other", 4, None, complete=True)
    found = await cache.ask("mine")
    assert found is not None
    assert found.cached == again


async def test_what_inserts_nothing_does_not_matter(cache: CacheClient, worker: Worker) -> None:
    worker.answers = {
        "count_and_predict": [prediction(), prediction(inserts=[9])],
        "asked": prediction(cached=1),
    }
    await counted(cache, "a")
    await counted(cache, "b")
    cache.ended("b", 0, None, complete=False)
    found = await cache.ask("a")
    assert found is not None and found.cached == 0


async def test_a_shortcut_may_insert_anything(cache: CacheClient, worker: Worker) -> None:
    shortcut = {"id": "search_shortcut-1", "cost": 0}
    worker.answers = {"count_and_predict": prediction(), "shortcut": shortcut, "asked": prediction(cached=1)}
    await counted(cache, "a")
    assert await cache.shortcut() == shortcut
    cache.ended("search_shortcut-1", 1, None, complete=True)
    found = await cache.ask("a")
    assert found is not None and found.cached == 1


@pytest.mark.parametrize(
    ("parts", "trimmable_below"),
    [
        ((CachePart(GrowthKind.GROWING, 64),), None),
        (
            (
                CachePart(GrowthKind.GROWING, 64),
                CachePart(GrowthKind.WINDOW, 64, size=512),
                CachePart(GrowthKind.WINDOW, 64, size=128),
            ),
            128,
        ),
        ((CachePart(GrowthKind.GROWING, 64), CachePart(GrowthKind.CONSTANT, 4096)), 0),
    ],
)
def test_how_the_child_keeps_sequences(parts: tuple[CachePart, ...], trimmable_below: int | None) -> None:
    law = CostModel(parts)
    serving = Serving(
        Model(0, law, Traced(law), batched=True), 2048, 8, 2, prompt_cache_size=6, prompt_cache_bytes=999
    )

    class Planned:
        """The one thing that is read of a plan."""

    planned = Planned()
    planned.serving = serving  # type: ignore[attr-defined]
    found = rules(cast("Plan", planned))
    assert found == CacheRules(6, 999, trimmable_below, row_bytes=64, constant_bytes=law.constant)


async def test_what_the_cache_contains_is_reported_after_each_end(worker: Worker) -> None:
    reported: list[tuple[Any, list[str]]] = []
    made = CacheClient(
        cast("TokenCounter", worker),
        SearchTimes(lambda _: None),
        on_contents=lambda contents, confirmed: reported.append((contents, [*confirmed])),
    )
    made.changed(READY)
    assert reported == [(None, [])], "another child begins with an empty cache"
    worker.answers["contents"] = [[["s", 9, "assistant"]], None]
    made.ended("a", 1, None, complete=True)
    made.ended("b", 1, None, complete=True)
    for _ in range(5):
        await asyncio.sleep(0)
    made.ended("c", 1, None, complete=True)
    for _ in range(5):
        await asyncio.sleep(0)
    await made.stop()
    assert reported[1:] == [([CacheContent("s", 9, "assistant")], ["a", "b"]), (None, ["c"])]
