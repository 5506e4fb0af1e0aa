"""The gateway's client of the tokenizer worker's cache predictor: what it is told, in order, and asked.

The worker predicts (proxy/worker/cache_predictor.py), since it has the token ids. A request is predicted in
the same trip in which it is counted, and asked for again only if what the cache has received since may matter
to it. Nothing depends on the answers: where nothing is known, requests are served as they would be without
them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from proxy.cache.search_times import SearchTimes
from proxy.cache.simulator import CacheRules
from proxy.cache.staleness import CachePrediction, Insertions, holds
from proxy.gate.residents import CacheContent
from proxy.job import has_images
from proxy.prompt.counter import TokenCounter
from proxy.prompt.fit import Counter
from proxy.request.completion import CompletionRequest, Prompt, TextPrompt
from supervisor.aio import Tasks
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model.kv_cache import GrowthKind
from supervisor.memory_model.plan import Plan

#: A request waits this many seconds for its prediction; usually it takes a few milliseconds.
_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _TrackedRequest:
    """`prediction` for `prompt`, made after `insertions` insertions; None: nothing is known."""

    prompt: Prompt | None
    prediction: CachePrediction | None
    insertions: int


class CacheClient:
    """One per gateway.

    Args:
        searches: how long the searches take that it predicts.
        on_contents: called with what the simulated cache contains, the oldest first, and with the ids of the
            ended requests that this includes; with None when that is not known.
    """

    def __init__(
        self,
        counter: TokenCounter,
        searches: SearchTimes,
        *,
        on_contents: Callable[[list[CacheContent] | None, Sequence[str]], None] | None = None,
    ) -> None:
        self.searches = searches
        self._counter = counter
        self._rules, self._batched = CacheRules(), True
        self._generation: int | None = None  # the child that serves
        self._simulated: int | None = None  # the child whose cache the worker simulates
        self._insertions = Insertions()
        self._tracked: dict[str, _TrackedRequest] = {}
        self._on_contents = on_contents
        self._unconfirmed: list[str] = []
        self._tasks = Tasks()
        self._asking_contents: asyncio.Task[None] | None = None

    @property
    def sequences(self) -> int:
        """How many sequences the child's cache holds at most."""
        return self._rules.sequences

    def planned(self, plan: Plan) -> None:
        """Let the next child's cache have the limits of this plan."""
        self._rules, self._batched = rules(plan), plan.serving.model.batched

    def changed(self, change: Change) -> None:
        """Note the child's new state: each child that becomes ready begins with an empty cache."""
        if change.state is State.READY:
            self._generation = change.generation
            self.searches.restart()
            if self._on_contents is not None:
                self._on_contents(None, ())

    # A request's steps, in order

    @contextmanager
    def counting(self, id: str, request: CompletionRequest) -> Iterator[Counter]:
        """Count prompts for a request, and predict its own with its count; an exception ends the request."""
        try:
            yield _PredictingCounter(self, self._counter, id, request)
        except BaseException:
            self.ended(id, 0, None, complete=False)
            raise

    async def count(self, id: str, request: CompletionRequest, limit: int | None) -> int:
        """Count the tokens of a request's prompt, and predict it. Raises as `TokenCounter.count`.

        Prompts with images are not followed: the server keeps them under keys that are made from pixels.
        """
        prompt = request.prompt
        if has_images(prompt):
            return await self._counter.count(prompt, limit)
        await self._follow_child()
        insertions, batched = self._insertions.count, self._runs_in_batch(request)
        count, fields = await self._counter.count_and_predict(
            prompt, limit, of=id, batched=batched, session=request.session()
        )
        self._track(id, prompt, fields, insertions)
        return count

    async def predict(
        self, id: str, prompt: Prompt, request: CompletionRequest | None = None
    ) -> CachePrediction | None:
        """What is known of a prompt, from its count or by asking. `request`: None for an internal one."""
        tracked = self._tracked.get(id)
        if tracked is not None and tracked.prompt is prompt:
            return tracked.prediction
        if has_images(prompt):
            return None
        await self._follow_child()
        batched, insertions = self._runs_in_batch(request), self._insertions.count
        session = request.session() if request else ""
        asking = self._counter.ask_predictor("predict", prompt, of=id, batched=batched, session=session)
        return self._track(id, prompt, await _in_time(asking), insertions)

    async def ask(self, id: str, *, anyway: bool = False) -> CachePrediction | None:
        """Tell that the child is asked next, unless it is an exact hit and not `anyway`; what holds now.

        The watch is told how long the child will search.
        """
        await self._follow_child()
        tracked = self._tracked.get(id)
        prediction = tracked.prediction if tracked else None
        if anyway or tracked is None or prediction is None or not self._holds(tracked):
            insertions = self._insertions.count
            fields = await _in_time(self._counter.ask_predictor("asked", of=id, anyway=anyway))
            tracked = self._tracked.get(id)
            prediction = self._track(id, tracked.prompt if tracked else None, fields, insertions)
        elif not prediction.exact_hit:
            self._counter.tell_predictor("asked", of=id)
        if prediction is not None and (anyway or not prediction.exact_hit):
            self.searches.expect(prediction.cost)
        return prediction

    def read(self, id: str, cached: int | None) -> None:
        """The child has read the prompt; it took `cached` tokens from its cache, if it said so."""
        tracked = self._tracked.get(id)
        if tracked is not None:
            self._insertions.add(tracked.prediction.inserts if tracked.prediction else None)
        self._counter.tell_predictor("read", of=id, cached=cached)

    def ended(self, id: str, generated: int, cached: int | None, *, complete: bool) -> None:
        """No attempt follows."""
        tracked = self._tracked.pop(id, None)
        if tracked is not None and complete:
            known = tracked.prediction
            self._insertions.add([*known.inserts, known.tokens + generated] if known else None)
        self._counter.tell_predictor("ended", of=id, generated=generated, cached=cached, complete=complete)
        self._report_contents(id)

    def _report_contents(self, id: str) -> None:
        if self._on_contents is None:
            return
        self._unconfirmed.append(id)
        if self._asking_contents is None or self._asking_contents.done():
            self._asking_contents = self._tasks.start(self._ask_contents(), "cache contents")

    async def stop(self) -> None:
        """End what is under way."""
        self._tasks.cancel()
        await self._tasks.finish()

    async def _ask_contents(self) -> None:
        """Report what the cache contains until no request has ended meanwhile."""
        while self._unconfirmed:
            confirmed, self._unconfirmed = self._unconfirmed, []
            await self._follow_child()
            generation = self._simulated
            found = await _in_time(self._counter.ask_predictor("contents"))
            if generation == self._generation and self._on_contents is not None:
                contents = None if found is None else [CacheContent(*each) for each in found]
                self._on_contents(contents, confirmed)

    # Workarounds for defects of mlx-lm

    async def shortcut(self) -> Any | None:
        """The search shortcut that is wanted most, already asked (`CachePredictor.shortcut`)."""
        shortcut = await self._counter.ask_predictor("shortcut")
        if shortcut is not None:
            self._tracked[shortcut["id"]] = _TrackedRequest(None, None, 0)
            self.searches.expect(shortcut["cost"])
        return shortcut

    async def avoid_exact_hit(self, id: str) -> Any | None:
        """What to send before this request (`CachePredictor.avoid_exact_hit`)."""
        return await _in_time(self._counter.ask_predictor("avoid_exact_hit", of=id))

    async def _follow_child(self) -> None:
        """Start the simulation over if another child serves than the one it follows."""
        if self._generation == self._simulated:
            return
        self._simulated = self._generation
        self._insertions.add(None)
        max_cost = self.searches.max_cost
        await _in_time(self._counter.ask_predictor("reset", rules=asdict(self._rules), max_cost=max_cost))

    def _track(
        self, id: str, prompt: Prompt | None, fields: dict[str, Any] | None, insertions: int
    ) -> CachePrediction | None:
        prediction = CachePrediction(**fields) if fields else None
        self._tracked[id] = _TrackedRequest(prompt, prediction, insertions)
        return prediction

    def _holds(self, tracked: _TrackedRequest) -> bool:
        assert tracked.prediction is not None
        inserted = self._insertions.since(tracked.insertions)
        max_cost = self.searches.max_cost
        return holds(tracked.prediction, inserted, sequences=self.sequences, max_cost=max_cost)

    def _runs_in_batch(self, request: CompletionRequest | None) -> bool:
        return self._batched and (request is None or request.sampling.get("seed") is None)


@dataclass(frozen=True, slots=True)
class _PredictingCounter:
    """A `TokenCounter` for one request, whose own prompt is predicted with its count."""

    cache: CacheClient
    counter: TokenCounter
    id: str
    request: CompletionRequest

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        if prompt is self.request.prompt:
            return await self.cache.count(self.id, self.request, limit)
        return await self.counter.count(prompt, limit)

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        return await self.counter.shared(prompt, other)

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        return await self.counter.trim(prompt, head, limit)


async def _in_time(asking: Awaitable[Any | None]) -> Any | None:
    try:
        async with asyncio.timeout(_TIMEOUT_S):  # wait_for would make a task of it
            return await asking
    except TimeoutError:
        return None


def rules(plan: Plan) -> CacheRules:
    """The limits of the prompt cache of a child that is started by this plan."""
    serving, cost_model = plan.serving, plan.serving.model.cost_model
    windows = [part.size for part in cost_model.parts if part.kind is GrowthKind.WINDOW]
    constant = any(part.kind is GrowthKind.CONSTANT for part in cost_model.parts)  # ArraysCache.is_trimmable
    return CacheRules(
        sequences=serving.prompt_cache_size,
        most_bytes=serving.prompt_cache_bytes,
        trimmable_below=0 if constant else min(windows, default=None),
        row_bytes=cost_model.bytes_per_row,
        constant_bytes=cost_model.constant,
    )
