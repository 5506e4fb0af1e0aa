"""Follows jobs through the child's prompt cache, and works around two defects of mlx-lm on the way.

A search that is predicted to be long is announced to the watch, for which it would look like a wedge. Two
workarounds send internal requests: search shortcuts end long searches beforehand, in idle moments
(proxy/worker/search_shortcuts.py), and exact hits, which would kill the child, are avoided before the job is
sent (proxy/worker/exact_hits.py). Each is one method here, with one caller, and can be deleted with its
module.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from proxy.cache.client import CacheClient
from proxy.cache.eviction import enough
from proxy.cache.internal_requests import InternalRequests
from proxy.cache.search_times import WORTH_S
from proxy.cache.staleness import CachePrediction
from proxy.job import Job, Outcome
from supervisor.aio import Tasks

log = logging.getLogger("mlxguard.search_stalls")

#: The child is left alone for this long after an answer, since an agent's next request often comes at once.
SETTLE_S = 0.05


class SearchStalls:
    """One per gateway. All methods are for the event loop's thread.

    Args:
        idle: whether the child has nothing to do and no request waits.
        fits: whether there is memory for a prompt of this many tokens.
        on_read: called with the tokens of a prompt that came from the cache, all of its tokens, and the
            seconds in which the child read the rest of it, having nothing else to do.
        on_stall: called for each stall that could be measured, with the seconds predicted and observed.
    """

    def __init__(
        self,
        cache: CacheClient,
        internal_requests: InternalRequests,
        *,
        idle: Callable[[], bool],
        fits: Callable[[int], bool],
        on_stall: Callable[[float, float], None],
        on_read: Callable[[int, int, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cache, self.on_stall, self.clock = cache, on_stall, clock
        self.on_read = on_read
        self.attempts = 0  # that the child has now
        self._internal_requests, self._idle, self._fits = internal_requests, idle, fits
        self._tasks = Tasks()
        self._sending: asyncio.Task[None] | None = None
        self._avoiding = asyncio.Lock()

    @contextmanager
    def follow(self, job: Job) -> Iterator[FollowedJob]:
        """Follow a job for the length of the block, at whose end its outcome is known."""
        try:
            yield FollowedJob(self, job)
        finally:
            cached, complete = job.usage.cached_tokens if job.usage else None, job.outcome is Outcome.OK
            self.cache.ended(job.answer.id, job.completion_tokens, cached, complete=complete)
            if self._sending is None or self._sending.done():
                self._sending = self._tasks.start(self._send_shortcuts(), "search shortcuts")

    async def ask(self, id: str) -> int:
        """Tell the predictor that the child is asked next; the cost of its search, 0 if that is not known."""
        prediction = await self.cache.ask(id)
        if prediction is not None and prediction.exact_hit:
            prediction = await self._avoid_exact_hit(id)
        return prediction.cost if prediction else 0

    async def stop(self) -> None:
        """End the internal requests that are under way."""
        self._tasks.cancel()
        await self._tasks.finish()

    async def _avoid_exact_hit(self, id: str) -> CachePrediction | None:
        """Remove the entry that the prompt equals, if possible, then ask the prompt whatever it is.

        One at a time: two requests with the same prompt need it once.
        """
        async with self._avoiding:
            sent = 0
            while sent <= enough(self.cache.sequences):
                before = await self.cache.avoid_exact_hit(id)
                if before is None or not await self._internal_requests.send("exact_hit", **before):
                    break
                sent += 1
            log.info("exact_hit_avoided", extra={"sent": sent})
            return await self.cache.ask(id, anyway=True)

    async def _send_shortcuts(self) -> None:
        """Send search shortcuts in an idle moment, one after the other, for as long as any is wanted."""
        await asyncio.sleep(SETTLE_S)
        while self._idle() and (shortcut := await self.cache.shortcut()) is not None:
            began = self.clock()
            body = {**shortcut["prompt"], "max_tokens": 1}
            fits = self._fits(shortcut["tokens"])
            answered = fits and await self._internal_requests.deliver("search_shortcut", body)
            self.cache.ended(shortcut["id"], 1, None, complete=answered)
            took, search = self.clock() - began, self.cache.searches.seconds(shortcut["cost"])
            log.info("search_shortcut_sent", extra={"took_s": round(took, 3), "search_s": round(search, 3)})
            if not answered:
                return


@dataclass(slots=True)
class FollowedJob:
    """A job from its acceptance to its end.

    Attributes:
        cost: of the search for its prompt in the running attempt.
        alone: the child had no other job when this attempt began.
    """

    stalls: SearchStalls
    job: Job
    cost: int = 0
    alone: bool = False

    async def predict(self) -> CachePrediction | None:
        """How its prompt will be read, if that is known before it queues."""
        return await self.stalls.cache.predict(self.job.answer.id, self.job.fitted.prompt, self.job.request)

    async def ask_again(self) -> None:
        """The child has generated a whole answer, and keeps it in its cache; another one is asked for."""
        job, cache = self.job, self.stalls.cache
        cached = job.usage.cached_tokens if job.usage else None
        cache.ended(job.answer.id, job.completion_tokens, cached, complete=True)
        await self.predict()

    @asynccontextmanager
    async def attempt(self) -> AsyncIterator[None]:
        """Prepare the child for the job, which it has within the block."""
        self.cost = await self.stalls.ask(self.job.answer.id)
        self.stalls.attempts += 1
        self.alone = self.stalls.attempts == 1
        try:
            yield
        finally:
            self.stalls.attempts -= 1

    def answer_began(self) -> None:
        """The response headers came, as they do when the search is over: learn how long it took."""
        stalls, searches = self.stalls, self.stalls.cache.searches
        predicted = searches.seconds(self.cost)
        if predicted < WORTH_S or self.job.asked is None or stalls.attempts > 1 or self.job.unstreamed:
            return
        observed = stalls.clock() - self.job.asked
        searches.observed(self.cost, observed)
        stalls.on_stall(predicted, observed)
        extra = {"predicted_s": round(predicted, 2), "observed_s": round(observed, 2)}
        log.info("search_stall", extra=extra)

    def prompt_read(self) -> None:
        """The first content came, so the prompt is read. A stream tells how many tokens were to be read."""
        stalls, job = self.stalls, self.job
        progress = job.seen.progress if job.seen else None
        cached = job.fitted.prompt_tokens - progress[1] if progress else None
        stalls.cache.read(job.answer.id, cached)
        if cached is not None and job.asked is not None and self.alone and stalls.attempts == 1:
            stalls.on_read(cached, job.fitted.prompt_tokens, stalls.clock() - job.asked)
