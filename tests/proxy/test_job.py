"""What a job tells: headers for its client, numbers for logs and status, never text."""

from __future__ import annotations

import json

from proxy.dialects.chat import ChatForm
from proxy.job import Job, Outcome, Stage
from proxy.prompt.fit import Fitted
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage

SECRET = "what the user said"


def a_job(*, stream: bool = False, logprobs: bool = False, **fit: int | bool) -> Job:
    prompt = ChatPrompt(messages=({"role": "user", "content": SECRET},))
    plain = {
        "prompt_tokens": 7,
        "max_tokens": 16,
        "clamped": False,
        "dropped_messages": 0,
        "dropped_tokens": 0,
    }
    answer = Answer.new(unique="u", created=42, model="served", is_chat=True)
    return Job(
        request_id="req-1",
        request=CompletionRequest(prompt=prompt, stream=stream, logprobs=logprobs),
        fitted=Fitted(prompt, **{**plain, **fit}),  # type: ignore[arg-type]
        answer=answer,
        form=ChatForm(answer, include_usage=False),
        client="anonymous",
        arrived=100.0,
        deadline=700.0,
    )


def test_only_waiting_clients_need_an_unstreamed_child_for_log_probabilities() -> None:
    assert a_job(logprobs=True).unstreamed
    assert not a_job(logprobs=True, stream=True).unstreamed
    assert not a_job().unstreamed


def test_first_content_is_the_first_of_all_attempts() -> None:
    job = a_job()
    job.content_sent(102.0)
    job.content_sent(110.0)
    assert job.first_content_s == 2.0
    assert job.stage is Stage.DECODE


def test_completion_tokens_while_running_and_at_the_end() -> None:
    job = a_job()
    assert job.completion_tokens == 0
    job.seen = StreamProgress(events=5)
    assert job.completion_tokens == 5
    job.seen.usage = Usage(7, 6, None)
    assert job.completion_tokens == 6


def test_the_summary_has_no_text_and_an_outcome_only_at_the_end() -> None:
    job = a_job()
    assert job.summary()["outcome"] is None
    job.outcome = Outcome.OK
    job.end(103.5)
    summary = job.summary()
    assert (summary["outcome"], summary["total_ms"]) == ("ok", 3500)
    assert SECRET not in json.dumps(summary)
