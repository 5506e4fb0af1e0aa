"""What is told and asked in which order. The worker's answers are scripted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import pytest

from proxy.cache.client import CacheClient, rules
from proxy.cache.simulator import CacheRules
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.activations import Model, Traced
from supervisor.memory_model.batch import Serving
from supervisor.memory_model.kv_cache import CachePart, CostModel, GrowthKind
from supervisor.memory_model.plan import Plan

READY = Change(State.STARTING, State.READY, 1)


def told(**fields: Any) -> dict[str, Any]:
    """What the worker says of a prompt, as it comes from its pipe."""
    nothing = {
        "tokens": 9,
        "cached": 0,
        "copied": 0,
        "key": False,
        "twin": False,
        "longest": 1,
        "leaves": [8],
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
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool
    ) -> tuple[int, dict[str, Any] | None]:
        return 9, await self.ask_predictor("count_and_predict", prompt, limit=limit, of=of, batched=batched)

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
def mirroring(worker: Worker) -> CacheClient:
    made = CacheClient(worker)
    made.changed(READY)
    return made


REQUEST = CompletionRequest(TextPrompt("a"))


async def counted(mirroring: CacheClient, id: str, request: CompletionRequest = REQUEST) -> None:
    with mirroring.counting(id, request) as counter:
        assert await counter.count(request.prompt, 100) == 9


async def test_a_request_is_counted_and_foreseen_in_one_trip(mirroring: CacheClient, worker: Worker) -> None:
    worker.answers["count_and_predict"] = told(cached=3)
    await counted(mirroring, "a")
    found = await mirroring.foresee("a", REQUEST.prompt, REQUEST)
    assert found is not None and found.cached == 3
    assert await mirroring.asked("a") == found
    assert worker.asked == ["reset", "count_and_predict", "asked"]
    assert worker.fields[1:] == [{"limit": 100, "of": "a", "batched": True}, {"of": "a"}]


async def test_what_is_cut_is_foreseen_as_it_is_sent(mirroring: CacheClient, worker: Worker) -> None:
    shorter = TextPrompt("b")
    with mirroring.counting("a", REQUEST) as counter:
        await counter.count(REQUEST.prompt)
        await counter.count(shorter)
        assert await counter.shared(REQUEST.prompt, shorter) == 5
        assert await counter.trim(shorter, 1, 7) == (shorter, 7)
    worker.answers["foresee"] = told(cached=4)
    found = await mirroring.foresee("a", shorter, REQUEST)
    assert found is not None and found.cached == 4
    assert worker.asked == ["reset", "count_and_predict", "count", "shared", "trim", "foresee"]


async def test_what_is_refused_is_followed_no_more(mirroring: CacheClient, worker: Worker) -> None:
    with pytest.raises(ValueError, match="too long"), mirroring.counting("a", REQUEST) as counter:
        await counter.count(REQUEST.prompt)
        raise ValueError("too long")
    assert worker.asked[-1] == "ended"
    assert worker.fields[-1] == {"of": "a", "generated": 0, "cached": None, "complete": False}
    assert not mirroring._followed


async def test_prompts_with_images_are_not_followed(mirroring: CacheClient, worker: Worker) -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    seen = CompletionRequest(ChatPrompt(({"role": "user", "content": [part]},)))
    await counted(mirroring, "a", seen)
    assert await mirroring.foresee("a", seen.prompt, seen) is None
    assert worker.asked == ["count"]


async def test_what_runs_outside_of_the_batch(mirroring: CacheClient, worker: Worker) -> None:
    await counted(mirroring, "a", replace(REQUEST, sampling={"seed": 1}))
    assert worker.fields[-1]["batched"] is False


async def test_each_child_is_followed_from_its_start(mirroring: CacheClient, worker: Worker) -> None:
    worker.answers["count_and_predict"] = told()
    await counted(mirroring, "a")
    await mirroring.asked("a")
    mirroring.changed(Change(State.READY, State.BACKOFF, 1))
    mirroring.changed(Change(State.STARTING, State.READY, 2))
    assert await mirroring.asked("a") is None, "asked again, since the cache is another"
    assert worker.asked == ["reset", "count_and_predict", "asked", "reset", "asked"]


@pytest.mark.parametrize(
    ("mine", "other", "again"),
    [
        (told(tokens=9), told(tokens=20, leaves=[4, 19]), False),
        (told(tokens=9), told(tokens=20, leaves=[9, 19]), True),
        (told(tokens=24), told(tokens=20, leaves=[19]), True),  # with what was generated it is as long
        (told(tokens=9), told(tokens=9, leaves=[8]), False),
        (told(tokens=9), told(tokens=50_000, leaves=[]), True),  # long enough for a stall
        (told(tokens=9), None, True),
    ],
)
async def test_what_came_in_between_may_matter(
    mirroring: CacheClient, worker: Worker, mine: dict[str, Any], other: dict[str, Any] | None, again: bool
) -> None:
    worker.answers = {"count_and_predict": [mine, other], "asked": told(cached=1)}
    await counted(mirroring, "mine")
    await counted(mirroring, "other")
    mirroring.read("other", None)
    mirroring.ended("other", 4, None, complete=True)
    found = await mirroring.asked("mine")
    assert found is not None
    assert found.cached == again


async def test_what_leaves_nothing_does_not_matter(mirroring: CacheClient, worker: Worker) -> None:
    worker.answers = {"count_and_predict": [told(), told(leaves=[9])], "asked": told(cached=1)}
    await counted(mirroring, "a")
    await counted(mirroring, "b")
    mirroring.ended("b", 0, None, complete=False)
    found = await mirroring.asked("a")
    assert found is not None and found.cached == 0


async def test_a_cure_may_leave_anything(mirroring: CacheClient, worker: Worker) -> None:
    cure = {"id": "cure-1"}
    worker.answers = {"count_and_predict": told(), "cure": cure, "asked": told(cached=1)}
    await counted(mirroring, "a")
    assert await mirroring.cure() == cure
    mirroring.ended("cure-1", 1, None, complete=True)
    found = await mirroring.asked("a")
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
    serving = Serving(Model(0, law, Traced(law), batched=True), 2048, 8, 2, kept_sequences=6, kept_bytes=999)

    class Planned:
        """The one thing that is read of a plan."""

    planned = Planned()
    planned.serving = serving  # type: ignore[attr-defined]
    found = rules(cast("Plan", planned))
    assert found == CacheRules(6, 999, trimmable_below, row_bytes=64, constant_bytes=law.constant)
