"""Search stalls: tells the watch of those that are foreseen, and ends them beforehand by short requests.

So it does with keys of the cache that a prompt equals, which would kill the child
(proxy/worker/exact_hits.py). What is foreseen comes from the mirror of the child's prompt cache
(proxy/cache/client.py), which is told here of each request's steps.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple, Protocol

from proxy.cache.client import CacheClient
from proxy.cache.internal_requests import GrowthKind
from proxy.cache.search_rate import WORTH_S, SearchRate
from proxy.cache.staleness import CachePrediction
from proxy.job import Job
from proxy.request.completion import ChatPrompt, Prompt, TextPrompt
from supervisor.aio import Tasks
from supervisor.child.generation import Change
from supervisor.lifecycle.state_machine import State

log = logging.getLogger("mlxguard.stalls")

#: The child is left alone for so long after an answer, since an agent's next request often comes at once.
SETTLE_S = 0.05
#: What is foreseen may take so many times as long before the watch may take it for a wedge.
_DOUBT = 3.0


class SupervisorLike(Protocol):
    """What is used of supervisor.supervisor.Supervisor."""

    def expect_silence(self, until: float) -> None: ...


class InternalRequestsLike(Protocol):
    """What is used of proxy.cache.internal_requests.InternalRequests."""

    def send(
        self, kind: GrowthKind, body: Mapping[str, Any], /, *, abandon: bool = False
    ) -> Awaitable[bool]: ...


class PredictedRead(NamedTuple):
    """How the child will read a prompt: tokens that its cache has, and segments at most; 0: not known."""

    cached: int = 0
    segments: int = 0


class Blind:
    """Foresees nothing."""

    async def foresee(self, job: Job) -> PredictedRead:
        del job
        return PredictedRead()

    async def asking(self, job: Job) -> None: ...

    def asked(self, job: Job) -> AbstractContextManager[None]:
        del job
        return nullcontext()

    def answering(self, job: Job) -> None: ...

    def read(self, job: Job) -> None: ...

    def ended(self, job: Job, *, complete: bool) -> None: ...


BLIND = Blind()


class SearchStalls(Blind):
    """One per gateway. All methods are for the event loop's thread.

    Args:
        idle: whether the child has nothing to do and nobody waits.
        fits: whether there is memory for a prompt of so many tokens.
        on_stall: told of each that could be measured: the seconds foreseen, and those seen.
    """

    def __init__(
        self,
        mirroring: CacheClient,
        supervisor: SupervisorLike,
        synthetics: InternalRequestsLike,
        *,
        idle: Callable[[], bool],
        fits: Callable[[int], bool] = lambda _: True,
        on_stall: Callable[[float, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mirroring, self._supervisor, self._synthetics = mirroring, supervisor, synthetics
        self._idle, self._fits, self._on_stall, self._clock = idle, fits, on_stall, clock
        self._rate = SearchRate()
        self._silent_until = 0.0
        self._numbers = itertools.count(1)
        self._asked: dict[str, int] = {}  # jobs that the child has, and what their searches copy
        self._tasks = Tasks()
        self._curing: asyncio.Task[None] | None = None
        self._evading = asyncio.Lock()

    def changed(self, change: Change) -> None:
        """Another child searches for nothing yet."""
        if change.state is State.READY:
            self._silent_until = 0.0

    # A request's way

    async def foresee(self, job: Job) -> PredictedRead:
        """How its prompt will be read, as far as is known before it queues."""
        told = await self._mirroring.foresee(job.answer.id, job.fitted.prompt, job.request)
        return PredictedRead(told.cached, max(1, len(told.leaves))) if told else PredictedRead()

    async def asking(self, job: Job) -> None:
        """The child is asked next: tell the watch how long it will search, and see that it is not killed."""
        told = await self._mirroring.asked(job.answer.id)
        if told and told.key:
            told = await self._evade(job.answer.id)
        copied = self._asked[job.answer.id] = told.copied if told else 0
        self._expect(copied)

    def answering(self, job: Job) -> None:
        """The child's answer began, as it does when the search is over: learn how long that took."""
        copied = self._asked.get(job.answer.id, 0)
        foreseen = self._rate.seconds(copied)
        if foreseen < WORTH_S or job.asked is None or len(self._asked) > 1 or job.unstreamed:
            return
        seen = self._clock() - job.asked
        self._rate = self._rate.observed(copied, seen)
        self._mirroring.most_copied = self._rate.items(WORTH_S)
        self._on_stall(foreseen, seen)
        log.info("search_stall", extra={"foreseen_s": round(foreseen, 2), "seen_s": round(seen, 2)})

    def read(self, job: Job) -> None:
        """Its first content came, so its prompt is read. A stream tells how many tokens had to be."""
        progress = job.seen.progress if job.seen else None
        cached = job.fitted.prompt_tokens - progress[1] if progress else None
        self._mirroring.read(job.answer.id, cached)

    @contextmanager
    def asked(self, job: Job) -> Iterator[None]:
        """The child has it within the block."""
        try:
            yield
        finally:
            self._asked.pop(job.answer.id, None)

    def ended(self, job: Job, *, complete: bool) -> None:
        """No attempt follows."""
        cached = job.usage.cached_tokens if job.usage else None
        self._mirroring.ended(job.answer.id, job.completion_tokens, cached, complete=complete)
        if self._curing is None or self._curing.done():
            self._curing = self._tasks.start(self._cure(), "cure")

    async def stop(self) -> None:
        self._tasks.cancel()
        await self._tasks.finish()

    # Requests of our own

    async def send(self, kind: GrowthKind, body: Mapping[str, Any], *, abandon: bool = False) -> bool:
        """`InternalRequests.send`, for one that changes what is kept: the mirror has to follow it too."""
        id, answered = f"{kind}-{next(self._numbers)}", False
        await self._mirroring.foresee(id, _prompt(body))
        told = await self._mirroring.asked(id)
        self._expect(told.copied if told else 0)
        try:
            if not (told and told.key):
                answered = await self._synthetics.send(kind, body, abandon=abandon)
        finally:
            if answered:
                self._mirroring.read(id, None)
            self._mirroring.ended(id, 1, None, complete=answered and not abandon)
        return answered

    async def _evade(self, id: str) -> CachePrediction | None:
        """See that the prompt is no key of the cache, as far as can be, and ask it then, whatever it is.

        One at a time: two of the same prompt need it once. Pushing takes two requests for each entry.
        """
        async with self._evading:
            sent = 0
            while sent <= 2 * self._mirroring.sequences:
                way = await self._mirroring.evade(id)
                if way is None or not await self.send("evade", way["body"], abandon=way["abandon"]):
                    break
                sent += 1
            log.info("evaded", extra={"sent": sent})
            return await self._mirroring.asked_anyway(id)

    async def _cure(self) -> None:
        """In an idle moment, one request after the other, as long as any is wanted."""
        await asyncio.sleep(SETTLE_S)
        while self._idle() and (cure := await self._mirroring.cure()) is not None:
            began = self._clock()
            self._expect(cure["copied"])
            body = {**cure["prompt"], "max_tokens": 1}
            answered = self._fits(cure["tokens"]) and await self._synthetics.send("cure", body)
            self._mirroring.ended(cure["id"], 1, None, complete=answered)
            took, foreseen = self._clock() - began, self._rate.seconds(cure["copied"])
            log.info("cured", extra={"took_s": round(took, 3), "search_s": round(foreseen, 3)})
            if not answered:
                return

    def _expect(self, copied: int) -> None:
        """Searches follow each other in the child: one thread does them all."""
        seconds = self._rate.seconds(copied)
        if seconds < WORTH_S:
            return
        self._silent_until = max(self._silent_until, self._clock()) + _DOUBT * seconds
        self._supervisor.expect_silence(self._silent_until)


def _prompt(body: Mapping[str, Any]) -> Prompt:
    return ChatPrompt(tuple(body["messages"])) if "messages" in body else TextPrompt(body["prompt"])
