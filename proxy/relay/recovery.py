"""Settles a failed attempt: the request is run again, or an error ends its answer.

break_policy.py decides, once the supervisor has said whether the child died, and the quarantine has
attributed it.
"""

from __future__ import annotations

import logging

from proxy.errors import InvalidRequest, NeverFits, Unavailable, UpstreamFailed
from proxy.job import Job
from proxy.relay.break_policy import BreakVerdict, judge_break
from proxy.relay.quarantine import Quarantine
from proxy.stream.answer import AnswerPhase
from proxy.upstream.broken import BreakKind, UpstreamBroken
from supervisor.child.generation import Death, Generation
from supervisor.supervisor import Supervisor

log = logging.getLogger("mlxguard.relay")


class Recovery:
    """Settles the failed attempts of all requests."""

    def __init__(self, supervisor: Supervisor, quarantine: Quarantine) -> None:
        self._supervisor = supervisor
        self._quarantine = quarantine

    async def settle(self, job: Job, generation: Generation, broken: UpstreamBroken) -> bool:
        """Whether the request is to be run again; if not, its answer ends with what was sent of it.

        Raises the GatewayError that ends it otherwise.
        """
        if broken.how in (BreakKind.NOT_CONNECTED, BreakKind.NOT_ASKED):
            job.answer.attempts -= 1
        explained = broken.how in (
            BreakKind.INVALID,
            BreakKind.ENDED,
            BreakKind.NOT_ASKED,
            BreakKind.CALL_LOST,
        )
        death = None if explained else await self._supervisor.judge(generation)
        ended = broken.how is BreakKind.ENDED
        choked = (
            broken.port is not None
            and broken.how is BreakKind.CUT
            and self._supervisor.choked_on_tool_call(broken.port)
        )
        verdict = judge_break(
            job.answer,
            broken.how,
            dead=death is not None,
            short_of_memory=death is None and (ended or self._supervisor.short_of_memory()),
            choked=death is None and choked,
            asked_again=job.asked_again,
            asked_anew=job.asked_anew,
            retried=job.retried,
        )
        _log_failure(job, generation, broken, death, verdict)
        match verdict:
            case BreakVerdict.CALL_UNREADABLE:
                return False
            case BreakVerdict.RETRY:
                job.retried = True
            case BreakVerdict.ASK_AGAIN:
                job.ask_again()
            case BreakVerdict.INVALID:
                raise InvalidRequest(broken.detail) from broken
            case BreakVerdict.FAILED:
                raise UpstreamFailed("answer_failed") from broken
            case BreakVerdict.UNAVAILABLE if broken.how is BreakKind.NOT_ASKED:
                raise Unavailable("out_of_files") from broken
            case BreakVerdict.UNAVAILABLE:
                if job.answer.phase is not AnswerPhase.CONTENT:
                    if death is not None:
                        self._quarantine.isolation(job)  # raises if this death led to quarantine
                    if ended:
                        # It was too long with nothing else in the child, so a shorter one may fit.
                        smaller = max(1, job.fitted.prompt_tokens * 3 // 4)
                        raise job.too_long(smaller, NeverFits) from broken
                raise Unavailable("child_died" if death else "no_memory") from broken
        return True


def _log_failure(
    job: Job, generation: Generation, broken: UpstreamBroken, death: Death | None, verdict: BreakVerdict
) -> None:
    fields = {
        "generation": generation.number,
        "how": broken.how.name.lower(),
        "cause": str(death.cause) if death else None,
        "verdict": verdict.value,
        "attempts": job.answer.attempts,
    }
    # The child's own words may quote a prompt; only the gateway's go into the log.
    if broken.how in (BreakKind.CUT, BreakKind.NOT_CONNECTED, BreakKind.NOT_ASKED):
        fields["detail"] = broken.detail
    log.warning("answer_failed", extra=fields)
