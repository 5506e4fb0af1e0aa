"""Keeps the slot of each disconnected request until drop_detection.py says that the child dropped it."""

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
from proxy.upstream.exchange import AbortedExchange, OnEnd
from supervisor.aio import Tasks
from supervisor.child.generation import Generation

log = logging.getLogger("mlxguard.disconnects")

#: Telemetry is looked at this often, as it comes as often.
_INTERVAL_S = 0.1


class Disconnects:
    """All disconnected requests that the child may still be at work on.

    Args:
        batched: whether the child runs several requests for its model together.
        on_dropped: called for each with the evidence that it was dropped, and the seconds that took.
    """

    def __init__(
        self,
        *,
        batched: Callable[[], bool],
        on_dropped: Callable[[DropEvidence, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._batched = batched
        self._on_dropped = on_dropped
        self._clock = clock
        self._tasks = Tasks()
        self._following: dict[str, asyncio.Task[None]] = {}  # the last of each job, by answer id

    def expect(self, job: Job, slot: Slot, generation: Generation) -> OnEnd:
        """Retain the slot of a request that is given to the child; call the result when its exchange ends."""
        release = slot.retain()

        def on_end(aborted: AbortedExchange | None) -> None:
            if aborted is None:
                release()
                return
            request = DisconnectedRequest(self._clock(), aborted.step_s, self._unread_s(job))
            slot.dropped = self._drops_between_steps(job)
            task = self._tasks.start(self._follow(generation, aborted.port, request), "disconnect")
            self._following[job.answer.id] = task
            task.add_done_callback(functools.partial(self._on_followed, job.answer.id, release))

        return on_end

    async def dropped(self, job: Job) -> None:
        """Wait until the child has dropped the last attempt of `job`, if that was broken off."""
        if (task := self._following.get(job.answer.id)) is not None:
            await asyncio.wait((task,))

    async def stop(self) -> None:
        """Stop waiting, and release every slot."""
        self._tasks.cancel()
        await self._tasks.finish()

    def _on_followed(self, id: str, release: Callable[[], None], task: asyncio.Task[None]) -> None:
        if self._following.get(id) is task:
            del self._following[id]
        release()

    async def _follow(self, generation: Generation, port: int, request: DisconnectedRequest) -> None:
        noticed = generation.drop_noticed(port)
        try:
            while not generation.died.done():
                sample = generation.telemetry()
                idle_at = sample.at if sample is not None and sample.idle else None
                if (evidence := request.dropped(self._clock(), idle_at)) is not None:
                    took = self._clock() - request.at
                    self._on_dropped(evidence, took)
                    if evidence is DropEvidence.TIMEOUT:
                        log.warning("drop_not_detected", extra={"seconds": round(took, 1)})
                    return
                signs = (generation.died,) if noticed.done() else (generation.died, noticed)
                await asyncio.wait(signs, timeout=_INTERVAL_S, return_when=asyncio.FIRST_COMPLETED)
                if request.noticed is None and noticed.done():
                    request = replace(request, noticed=self._clock())
        finally:
            noticed.cancel()

    def _unread_s(self, job: Job) -> float:
        """Seconds for which the child goes on reading a prompt that it reads to its end in any case."""
        seen = job.seen
        if seen is None or seen.progress is None or job.asked is None or self._drops_between_steps(job):
            return 0.0
        processed, total = seen.progress
        so_far = self._clock() - job.asked
        return so_far * (total - processed) / max(1, processed)

    def _drops_between_steps(self, job: Job) -> bool:
        """Whether the child drops it after its next step; a sequential prompt is first read to its end."""
        generates = job.seen is not None and job.seen.events > 0
        return generates or (self._batched() and not job.sequential)
