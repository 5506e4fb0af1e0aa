"""Sees requests out whose clients have left, so that reservations end when the child is done with them.

The shell of core.leaving.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from dataclasses import replace

from proxy.gate.slot import Slot
from proxy.job import Job
from proxy.relay.drop_detection import DisconnectedRequest, DropEvidence
from proxy.upstream.exchange import GenerationLike, LeftExchange, OnEnd
from supervisor.aio import Tasks

log = logging.getLogger("mlxguard.leaving")

#: Telemetry comes as often.
_LOOK_S = 0.1


class Disconnects:
    """All who are being seen out.

    Args:
        batched: whether the child runs several requests of its model together.
        on_gone: told how each was known to be gone, and after how many seconds.
    """

    def __init__(
        self,
        *,
        batched: Callable[[], bool] = lambda: True,
        on_gone: Callable[[DropEvidence, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batched = batched
        self._on_gone = on_gone
        self._clock = clock
        self._tasks = Tasks()
        self._following: dict[str, asyncio.Task[None]] = {}  # the last of each job, by answer id

    def expect(self, job: Job, place: Slot, generation: GenerationLike) -> OnEnd:
        """Keep the place of one that is given to the child; what is to be told of how that ended."""
        release = place.keep()

        def on_end(cut: LeftExchange | None) -> None:
            if cut is None:
                release()
            else:
                left = DisconnectedRequest(self._clock(), cut.step_s, self._unread_s(job))
                place.dropped = self._leaves_off(job)
                task = self._tasks.start(self._follow(generation, cut.port, left), "see out")
                self._following[job.answer.id] = task
                task.add_done_callback(functools.partial(self._on_followed, job.answer.id, release))

        return on_end

    async def gone(self, job: Job) -> None:
        """Wait until the child is done with what was broken off of `job`, if anything was."""
        if (task := self._following.get(job.answer.id)) is not None:
            await asyncio.wait((task,))

    async def stop(self) -> None:
        """Wait for nobody any more."""
        self._tasks.cancel()
        await self._tasks.finish()

    def _on_followed(self, id: str, release: Callable[[], None], task: asyncio.Task[None]) -> None:
        if self._following.get(id) is task:
            del self._following[id]
        release()

    async def _follow(self, generation: GenerationLike, port: int, left: DisconnectedRequest) -> None:
        noticed = generation.giving_up(port)
        try:
            while not generation.died.done() and (gone := self._gone(generation, left)) is None:
                news = (generation.died,) if noticed.done() else (generation.died, noticed)
                await asyncio.wait(news, timeout=_LOOK_S, return_when=asyncio.FIRST_COMPLETED)
                if left.noticed is None and noticed.done():
                    left = replace(left, noticed=self._clock())
            if not generation.died.done():
                assert gone is not None
                self._note(gone, left)
        finally:
            noticed.cancel()

    def _unread_s(self, job: Job) -> float:
        """Seconds that the child will go on reading a prompt that it cannot leave off reading."""
        seen = job.seen
        if seen is None or seen.progress is None or job.asked is None or self._leaves_off(job):
            return 0.0
        processed, total = seen.progress
        so_far = self._clock() - job.asked
        return so_far * (total - processed) / max(1, processed)

    def _leaves_off(self, job: Job) -> bool:
        """Whether the child leaves it off between two steps: a sequential prompt is read to its end first."""
        generates = job.seen is not None and job.seen.events > 0
        return generates or (self._batched() and not job.sequential)

    def _gone(self, generation: GenerationLike, left: DisconnectedRequest) -> DropEvidence | None:
        sample = generation.telemetry()
        idle_at = sample.at if sample is not None and sample.idle else None
        return left.gone(self._clock(), idle_at)

    def _note(self, gone: DropEvidence, left: DisconnectedRequest) -> None:
        took = self._clock() - left.at
        self._on_gone(gone, took)
        if gone is DropEvidence.UNSEEN:
            log.warning("not_seen_leaving", extra={"seconds": round(took, 1)})
