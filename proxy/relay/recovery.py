"""What becomes of an attempt that broke: it is run again, or an error ends its answer.

The shell of core.answer.judge_break: the supervisor is asked whether the child died, and the inquest whose
doing that was.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any, Protocol

from proxy.errors import InvalidRequest, NeverFits, Unavailable, UpstreamFailed
from proxy.job import Job
from proxy.relay.blame import Isolation
from proxy.relay.break_policy import BreakVerdict, judge_break
from proxy.stream.answer import AnswerPhase
from proxy.upstream.broken import BreakKind, UpstreamBroken
from proxy.upstream.exchange import GenerationLike

log = logging.getLogger("mlxguard.relay")


class DeathLike(Protocol):
    """What is read of supervisor.lifecycle.diagnosis.Death."""

    @property
    def cause(self) -> Any: ...


class JudgeLike(Protocol):
    """What is used of supervisor.supervisor.Supervisor."""

    def judge(self, generation: Any) -> Awaitable[DeathLike | None]: ...

    def strained(self) -> bool: ...


class ConvictsLike(Protocol):
    """What is used of proxy.relay.quarantine.Quarantine."""

    def solitude(self, job: Job) -> Isolation:
        """Raises PromptTooLong or Quarantined."""


class Recovery:
    """Settles them."""

    def __init__(self, supervisor: JudgeLike, inquest: ConvictsLike, *, max_replays: int) -> None:
        self._supervisor = supervisor
        self._inquest = inquest
        self._max_replays = max_replays

    async def settle(self, job: Job, generation: GenerationLike, broken: UpstreamBroken) -> None:
        """Returns if the request is to be run again, else raises the GuardError that ends it."""
        if broken.how is BreakKind.NOT_CONNECTED:
            job.answer.attempts -= 1
        ours = broken.how in (BreakKind.INVALID, BreakKind.ENDED)
        death = None if ours else await self._supervisor.judge(generation)
        verdict = judge_break(
            job.answer,
            broken.how,
            dead=death is not None,
            max_replays=self._max_replays,
            strained=death is None and (broken.how is BreakKind.ENDED or self._supervisor.strained()),
            retried=job.retried,
        )
        _log_break(job, generation, broken, death, verdict)
        match verdict:
            case BreakVerdict.REPLAY:
                return
            case BreakVerdict.RETRY:
                job.retried = True
            case BreakVerdict.INVALID:
                raise InvalidRequest(broken.detail) from broken
            case BreakVerdict.FAILED:
                raise UpstreamFailed("answer_broke") from broken
            case BreakVerdict.UNAVAILABLE:
                if death is not None and job.answer.phase is not AnswerPhase.CONTENT:
                    self._inquest.solitude(job)  # who was sentenced for this death is told so
                if broken.how is BreakKind.ENDED and job.answer.phase is not AnswerPhase.CONTENT:
                    raise never_fits(job, _smaller(job.fitted.prompt_tokens)) from broken
                raise Unavailable("child_died" if death else "no_memory") from broken


def _log_break(
    job: Job,
    generation: GenerationLike,
    broken: UpstreamBroken,
    death: DeathLike | None,
    verdict: BreakVerdict,
) -> None:
    fields = {
        "generation": generation.number,
        "how": broken.how.name.lower(),
        "cause": str(death.cause) if death else None,
        "verdict": verdict.value,
        "attempts": job.answer.attempts,
    }
    # What the child itself says may quote a prompt; only our own words go into the log.
    if broken.how in (BreakKind.CUT, BreakKind.NOT_CONNECTED):
        fields["detail"] = broken.detail
    log.warning("answer_broke", extra=fields)


def never_fits(job: Job, limit: int) -> NeverFits:
    """The refusal of one that has no room even alone; `limit`: tokens of prompt that have."""
    return NeverFits(
        prompt_tokens=job.fitted.prompt_tokens,
        max_tokens=job.fitted.max_tokens,
        limit=limit,
        param="messages" if job.request.is_chat else "prompt",
    )


def _smaller(prompt_tokens: int) -> int:
    """What to try when this many were too many with nothing else in the child."""
    return max(1, prompt_tokens * 3 // 4)
