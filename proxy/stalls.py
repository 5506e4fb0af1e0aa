"""Search stalls: tells the watch of those that are foreseen, and ends them beforehand by short requests.

So it does with keys of the cache that a prompt equals, which would kill the child (proxy/evasions.py).

The tokenizer worker has the mirror of the child's prompt cache (proxy/foresight.py), since it has the token
ids. Here each request's steps are told to it, in order; nothing waits for it but a request that is about to
be asked, and nothing depends on it: where it knows nothing, requests go as they would without it.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from typing import Any, Protocol

from proxy.core.chat import ChatPrompt, Prompt, TextPrompt
from proxy.core.mirror import Rules
from proxy.core.pictures import image_urls
from proxy.core.stalls import Rate
from proxy.job import Job
from proxy.synthetic import Kind
from supervisor import cost
from supervisor.generation import Change
from supervisor.lifecycle import State
from supervisor.plan import Plan

log = logging.getLogger("mlxguard.stalls")

#: From here on a search is a stall that is worth a request to end it, and one that can be measured.
WORTH_S = 0.1
#: The child is left alone for so long after an answer, since an agent's next request often comes at once.
SETTLE_S = 0.05
#: What is foreseen may take so many times as long before the watch may take it for a wedge.
_DOUBT = 3.0
#: Seconds that a request waits for what is foreseen of it; usually it takes a few milliseconds.
_PATIENCE_S = 1.0


class TokensLike(Protocol):
    """What is used of proxy.tokens.Tokens."""

    def foresight(
        self, do: str, prompt: Prompt | None = None, **fields: Any
    ) -> Coroutine[Any, Any, Any | None]: ...

    def tell(self, do: str, **fields: Any) -> None: ...


class SupervisorLike(Protocol):
    """What is used of supervisor.runner.Supervisor."""

    def expect_silence(self, until: float) -> None: ...


class SyntheticsLike(Protocol):
    """What is used of proxy.synthetic.Synthetics."""

    def send(self, kind: Kind, body: Mapping[str, Any], /, *, abandon: bool = False) -> Awaitable[bool]: ...


class Blind:
    """Foresees nothing."""

    async def foresee(self, job: Job) -> int:
        del job
        return 0

    async def asking(self, job: Job) -> None: ...

    def asked(self, job: Job) -> AbstractContextManager[None]:
        del job
        return nullcontext()

    def answering(self, job: Job) -> None: ...

    def read(self, job: Job) -> None: ...

    def ended(self, job: Job, *, complete: bool) -> None: ...


BLIND = Blind()


class Stalls(Blind):
    """One per gateway. All methods are for the event loop's thread.

    Args:
        idle: whether the child has nothing to do and nobody waits.
        fits: whether there is memory for a prompt of so many tokens.
        on_stall: told of each that could be measured: the seconds foreseen, and those seen.
    """

    def __init__(
        self,
        tokens: TokensLike,
        supervisor: SupervisorLike,
        synthetics: SyntheticsLike,
        *,
        idle: Callable[[], bool],
        fits: Callable[[int], bool] = lambda _: True,
        on_stall: Callable[[float, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tokens, self._supervisor, self._synthetics = tokens, supervisor, synthetics
        self._idle, self._fits, self._on_stall, self._clock = idle, fits, on_stall, clock
        self._rules, self._batched = Rules(), True
        self._rate = Rate()
        self._generation: int | None = None  # of the child that serves
        self._mirrored: int | None = None  # of the child that the worker follows
        self._silent_until = 0.0
        self._numbers = itertools.count(1)
        self._asked: dict[str, int] = {}  # jobs that the child has, and what their searches copy
        self._changes = 0  # of what the worker knows
        self._foreseen: tuple[str, int, Any] = ("", -1, None)  # last: of which job, after how many changes
        self._tasks: set[asyncio.Task[Any]] = set()
        self._curing: asyncio.Task[None] | None = None
        self._evading = asyncio.Lock()

    def planned(self, plan: Plan) -> None:
        """The next child keeps sequences as this plan says."""
        self._rules, self._batched = rules(plan), plan.serving.model.batched

    def changed(self, change: Change) -> None:
        """The child's state changed: each one that is ready begins with an empty cache."""
        if change.state is State.READY:
            self._generation = change.generation

    # A request's way

    async def foresee(self, job: Job) -> int:
        """How many tokens of its prompt the child has, as far as is known, before it queues.

        Prompts with images are not followed: the server keeps them under keys that are made from pixels.
        """
        prompt = job.fitted.prompt
        if isinstance(prompt, ChatPrompt) and image_urls(prompt.messages):
            return 0
        await self._follow_child()
        batched = self._batched and job.request.sampling.get("seed") is None
        changes = self._changes
        asking = self._tokens.foresight("foresee", prompt, of=job.answer.id, batched=batched)
        told = await self._patiently(asking)
        if told:
            self._foreseen = job.answer.id, changes, told
        return told["cached"] if told else 0

    async def asking(self, job: Job) -> None:
        """The child is asked next: tell the watch how long it will search, and see that it is not killed."""
        await self._follow_child()
        if self._foreseen[:2] == (job.answer.id, self._changes):  # nothing has changed since
            told = self._foreseen[2]
            if not told.get("key"):
                self._tell("asked", of=job.answer.id)
        else:
            told = await self._patiently(self._change("asked", of=job.answer.id))
        if told and told.get("key"):
            told = await self._evade(job.answer.id)
        copied = self._asked[job.answer.id] = told["copied"] if told else 0
        self._expect(copied)

    def answering(self, job: Job) -> None:
        """The child's answer began, as it does when the search is over: learn how long that took."""
        copied = self._asked.get(job.answer.id, 0)
        foreseen = self._rate.seconds(copied)
        if foreseen < WORTH_S or job.asked is None or len(self._asked) > 1 or job.unstreamed:
            return
        seen = self._clock() - job.asked
        self._rate = self._rate.observed(copied, seen)
        self._on_stall(foreseen, seen)
        log.info("search_stall", extra={"foreseen_s": round(foreseen, 2), "seen_s": round(seen, 2)})

    def read(self, job: Job) -> None:
        """Its first content came, so its prompt is read. A stream tells how many tokens had to be."""
        progress = job.seen.progress if job.seen else None
        cached = job.fitted.prompt_tokens - progress[1] if progress else None
        self._tell("read", of=job.answer.id, cached=cached)

    @contextmanager
    def asked(self, job: Job) -> Iterator[None]:
        """The child has it within the block."""
        try:
            yield
        finally:
            self._asked.pop(job.answer.id, None)

    def ended(self, job: Job, *, complete: bool) -> None:
        """No attempt follows."""
        usage = job.usage
        fields = {"generated": job.completion_tokens, "cached": usage.cached_tokens if usage else None}
        self._tell("ended", of=job.answer.id, complete=complete, **fields)
        if self._curing is None or self._curing.done():
            self._curing = self._start(self._cure())

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Requests of our own

    async def send(self, kind: Kind, body: Mapping[str, Any], *, abandon: bool = False) -> bool:
        """`Synthetics.send`, for one that changes what is kept: the mirror has to follow it too."""
        await self._follow_child()
        id, answered = f"{kind}-{next(self._numbers)}", False
        asking = self._tokens.foresight("foresee", _prompt(body), of=id, batched=self._batched)
        await self._patiently(asking)
        told = await self._patiently(self._change("asked", of=id))
        self._expect(told["copied"] if told else 0)
        try:
            if not (told and told.get("key")):
                answered = await self._synthetics.send(kind, body, abandon=abandon)
        finally:
            if answered:
                self._tell("read", of=id, cached=None)
            self._tell("ended", of=id, generated=1, cached=None, complete=answered and not abandon)
        return answered

    async def _evade(self, id: str) -> Any | None:
        """See that the prompt is no key of the cache, as far as can be, and ask it then, whatever it is.

        One at a time: two of the same prompt need it once. Pushing takes two requests for each entry.
        """
        async with self._evading:
            sent = 0
            while sent <= 2 * self._rules.sequences:
                way = await self._patiently(self._change("evade", of=id))
                if way is None or not await self.send("evade", way["body"], abandon=way["abandon"]):
                    break
                sent += 1
            log.info("evaded", extra={"sent": sent})
            return await self._patiently(self._change("asked", of=id, anyway=True))

    async def _cure(self) -> None:
        """In an idle moment, one request after the other, as long as any is wanted."""
        await asyncio.sleep(SETTLE_S)
        while self._idle() and (cure := await self._change("cure")) is not None:
            began = self._clock()
            self._expect(cure["copied"])
            body = {**cure["prompt"], "max_tokens": 1}
            answered = self._fits(cure["tokens"]) and await self._synthetics.send("cure", body)
            self._tell("ended", of=cure["id"], generated=1, cached=None, complete=answered)
            took, foreseen = self._clock() - began, self._rate.seconds(cure["copied"])
            log.info("cured", extra={"took_s": round(took, 3), "search_s": round(foreseen, 3)})
            if not answered:
                return

    # Telling

    def _expect(self, copied: int) -> None:
        """Searches follow each other in the child: one thread does them all."""
        seconds = self._rate.seconds(copied)
        if seconds < WORTH_S:
            return
        self._silent_until = max(self._silent_until, self._clock()) + _DOUBT * seconds
        self._supervisor.expect_silence(self._silent_until)

    async def _follow_child(self) -> None:
        """Begin anew where another child serves than the one that is followed."""
        if self._generation == self._mirrored:
            return
        self._mirrored, self._silent_until = self._generation, 0.0
        most_copied = self._rate.items(WORTH_S)
        telling = self._change("reset", rules=asdict(self._rules), most_copied=most_copied)
        await self._patiently(telling)

    async def _patiently(self, asking: Awaitable[Any | None]) -> Any | None:
        try:
            async with asyncio.timeout(_PATIENCE_S):  # wait_for would make a task of it
                return await asking
        except TimeoutError:
            return None

    def _tell(self, do: str, **fields: Any) -> None:
        self._changes += 1
        self._tokens.tell(do, **fields)

    def _change(self, do: str, **fields: Any) -> Coroutine[Any, Any, Any | None]:
        """Ask what may change what is known of the cache."""
        self._changes += 1
        return self._tokens.foresight(do, **fields)

    def _start(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _prompt(body: Mapping[str, Any]) -> Prompt:
    return ChatPrompt(tuple(body["messages"])) if "messages" in body else TextPrompt(body["prompt"])


def rules(plan: Plan) -> Rules:
    """How the child that is started by this plan keeps finished sequences."""
    serving, law = plan.serving, plan.serving.model.law
    windows = [part.size for part in law.parts if part.kind is cost.Kind.WINDOW]
    trimmable_below = min(windows, default=None)
    if any(part.kind is cost.Kind.CONSTANT for part in law.parts):  # ArraysCache.is_trimmable
        trimmable_below = 0
    return Rules(
        sequences=serving.kept_sequences,
        most_bytes=serving.kept_bytes,
        trimmable_below=trimmable_below,
        row_bytes=law.slope,
        constant_bytes=law.constant,
    )
