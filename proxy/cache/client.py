"""What the gateway tells the tokenizer worker's mirror of the child's prompt cache, in order, and asks of it.

The worker has the mirror (proxy/worker/cache_predictor.py), since it has the token ids. A request is foreseen
in the same trip in which it is counted, and asked for again only where something has come in between that may
matter to it. Nothing depends on the answers: where nothing is known, requests go as they would without the
mirror.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from proxy.cache.search_rate import WORTH_S, SearchRate
from proxy.cache.simulator import CacheRules
from proxy.cache.staleness import CachePrediction, Insertions, holds
from proxy.prompt.fit import Counter
from proxy.request.completion import ChatPrompt, CompletionRequest, Prompt, TextPrompt
from proxy.request.images import image_urls
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State
from supervisor.memory_model import kv_cache
from supervisor.memory_model.plan import Plan

#: Seconds that a request waits for what is foreseen of it; usually it takes a few milliseconds.
_PATIENCE_S = 1.0


class TokenCounterLike(Counter, Protocol):
    """What is used of proxy.prompt.counter.TokenCounter."""

    async def count_and_predict(
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool
    ) -> tuple[int, dict[str, Any] | None]: ...

    def ask_predictor(
        self, do: str, prompt: Prompt | None = None, **fields: Any
    ) -> Coroutine[Any, Any, Any | None]: ...

    def tell_predictor(self, do: str, **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class _TrackedRequest:
    """`told`, of `prompt`, after `arrivals`; None: nothing is known of it."""

    prompt: Prompt | None
    told: CachePrediction | None
    arrivals: int


class CacheClient:
    """One per gateway. `most_copied`: a search that copies more is a stall."""

    def __init__(self, tokens: TokenCounterLike) -> None:
        self.most_copied = SearchRate().items(WORTH_S)
        self._tokens = tokens
        self._rules, self._batched = CacheRules(), True
        self._generation: int | None = None  # of the child that serves
        self._mirrored: int | None = None  # of the child that the worker follows
        self._arrivals = Insertions()
        self._followed: dict[str, _TrackedRequest] = {}

    @property
    def sequences(self) -> int:
        """The most that the child keeps."""
        return self._rules.sequences

    def planned(self, plan: Plan) -> None:
        """The next child keeps sequences as this plan says."""
        self._rules, self._batched = rules(plan), plan.serving.model.batched

    def changed(self, change: Change) -> None:
        """The child's state changed: each one that is ready begins with an empty cache."""
        if change.state is State.READY:
            self._generation = change.generation

    # A request's way

    @contextmanager
    def counting(self, id: str, request: CompletionRequest) -> Iterator[Counter]:
        """Counts prompts for a request, and foresees its own; what raises within the block has ended it."""
        try:
            yield _Counting(self, self._tokens, id, request)
        except BaseException:
            self.ended(id, 0, None, complete=False)
            raise

    async def count(self, id: str, request: CompletionRequest, limit: int | None) -> int:
        """The tokens of a request's prompt, with what is foreseen of it. Raises as `TokenCounter.count`.

        Prompts with images are not followed: the server keeps them under keys that are made from pixels.
        """
        prompt = request.prompt
        if has_images(prompt):
            return await self._tokens.count(prompt, limit)
        await self._follow_child()
        arrivals = self._arrivals.count
        asking = self._tokens.count_and_predict(prompt, limit, of=id, batched=self._runs_in_batch(request))
        count, told = await asking
        self._note(id, prompt, told, arrivals)
        return count

    async def foresee(
        self, id: str, prompt: Prompt, request: CompletionRequest | None = None
    ) -> CachePrediction | None:
        """What is known of a prompt, by its count or asked for. `request`: None for one of our own."""
        known = self._followed.get(id)
        if known is not None and known.prompt is prompt:
            return known.told
        if has_images(prompt):
            return None
        await self._follow_child()
        batched, arrivals = self._runs_in_batch(request), self._arrivals.count
        asking = self._tokens.ask_predictor("foresee", prompt, of=id, batched=batched)
        return self._note(id, prompt, await _patiently(asking), arrivals)

    async def asked(self, id: str) -> CachePrediction | None:
        """The child is asked next, unless it is a key: what holds now, and after waiting for its turn."""
        await self._follow_child()
        known = self._followed.get(id)
        if known is None or known.told is None or not self._holds(known):
            return await self._ask_now(id)
        if not known.told.key:
            self._tokens.tell_predictor("asked", of=id)
        return known.told

    async def asked_anyway(self, id: str) -> CachePrediction | None:
        """The same, and a key is asked too."""
        return await self._ask_now(id, anyway=True)

    def read(self, id: str, cached: int | None) -> None:
        """The child has read the prompt; `cached` of its tokens came from the cache, as far as it told."""
        known = self._followed.get(id)
        if known is not None:
            self._came(known.told.leaves if known.told else None)
        self._tokens.tell_predictor("read", of=id, cached=cached)

    def ended(self, id: str, generated: int, cached: int | None, *, complete: bool) -> None:
        """No attempt follows."""
        known = self._followed.pop(id, None)
        if known is not None and complete:
            self._came([*known.told.leaves, known.told.tokens + generated] if known.told else None)
        self._tokens.tell_predictor("ended", of=id, generated=generated, cached=cached, complete=complete)

    # Requests of our own

    async def cure(self) -> Any | None:
        """The cure that is wanted most, followed and asked (Foresight.cure)."""
        cure = await self._tokens.ask_predictor("cure")
        if cure is not None:
            self._followed[cure["id"]] = _TrackedRequest(None, None, 0)
        return cure

    async def evade(self, id: str) -> Any | None:
        """What to send before this request (Foresight.evade)."""
        return await _patiently(self._tokens.ask_predictor("evade", of=id))

    # Telling

    async def _follow_child(self) -> None:
        """Begin anew where another child serves than the one that is followed."""
        if self._generation == self._mirrored:
            return
        self._mirrored = self._generation
        self._came(None)
        telling = self._tokens.ask_predictor("reset", rules=asdict(self._rules), most_copied=self.most_copied)
        await _patiently(telling)

    async def _ask_now(self, id: str, **fields: Any) -> CachePrediction | None:
        arrivals = self._arrivals.count
        told = await _patiently(self._tokens.ask_predictor("asked", of=id, **fields))
        known = self._followed.get(id)
        return self._note(id, known.prompt if known else None, told, arrivals)

    def _note(
        self, id: str, prompt: Prompt | None, fields: dict[str, Any] | None, arrivals: int
    ) -> CachePrediction | None:
        told = CachePrediction(**fields) if fields else None
        self._followed[id] = _TrackedRequest(prompt, told, arrivals)
        return told

    def _came(self, lengths: Sequence[int] | None) -> None:
        if lengths is None:
            self._arrivals.unknown()
        else:
            self._arrivals.came(lengths)

    def _holds(self, known: _TrackedRequest) -> bool:
        came = self._arrivals.since(known.arrivals)
        assert known.told is not None
        return holds(known.told, came, sequences=self.sequences, most_copied=self.most_copied)

    def _runs_in_batch(self, request: CompletionRequest | None) -> bool:
        return self._batched and (request is None or request.sampling.get("seed") is None)


@dataclass(frozen=True, slots=True)
class _Counting:
    """`TokenCounter` for one request: its own prompt is foreseen with its count."""

    mirroring: CacheClient
    tokens: TokenCounterLike
    id: str
    request: CompletionRequest

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        if prompt is self.request.prompt:
            return await self.mirroring.count(self.id, self.request, limit)
        return await self.tokens.count(prompt, limit)

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        return await self.tokens.shared(prompt, other)

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        return await self.tokens.trim(prompt, head, limit)


def has_images(prompt: Prompt) -> bool:
    return isinstance(prompt, ChatPrompt) and bool(image_urls(prompt.messages))


async def _patiently(asking: Awaitable[Any | None]) -> Any | None:
    try:
        async with asyncio.timeout(_PATIENCE_S):  # wait_for would make a task of it
            return await asking
    except TimeoutError:
        return None


def rules(plan: Plan) -> CacheRules:
    """How the child that is started by this plan keeps finished sequences."""
    serving, law = plan.serving, plan.serving.model.law
    windows = [part.size for part in law.parts if part.kind is kv_cache.GrowthKind.WINDOW]
    trimmable_below = min(windows, default=None)
    if any(part.kind is kv_cache.GrowthKind.CONSTANT for part in law.parts):  # ArraysCache.is_trimmable
        trimmable_below = 0
    return CacheRules(
        sequences=serving.kept_sequences,
        most_bytes=serving.kept_bytes,
        trimmable_below=trimmable_below,
        row_bytes=law.slope,
        constant_bytes=law.constant,
    )
