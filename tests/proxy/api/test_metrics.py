"""What is counted, and under which names and labels."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.api.metrics import Metrics
from proxy.dialects.chat import ChatForm
from proxy.gate.corrections import PeakSample
from proxy.job import Job, Outcome
from proxy.prompt.fit import Fitted
from proxy.relay.drop_detection import DropEvidence
from proxy.request.completion import Bounds
from proxy.request.mends import Mend, Mends
from proxy.request.parse import parse_text
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def samples(metrics: Metrics) -> Samples:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def ended(*, counted: int, attempts: int = 1) -> Job:
    request = parse_text(b'{"prompt": "a"}', Bounds())
    fitted = Fitted(request.prompt, 7, 5, clamped=False, dropped_messages=0, dropped_tokens=0)
    answer = Answer.new(unique="1", created=0, model="m", is_chat=False)
    answer.attempts = attempts
    job = Job(
        "r",
        request,
        fitted,
        answer,
        ChatForm(answer, include_usage=False),
        "anonymous",
        arrived=0.0,
        deadline=1.0,
    )
    job.outcome, job.seen, job.first_content_s = Outcome.OK, StreamProgress(), 0.3
    job.seen.usage = Usage(prompt_tokens=counted, completion_tokens=5, cached_tokens=2)
    return job


def test_the_seconds_of_search_stalls_are_counted() -> None:
    metrics = Metrics()
    metrics.search_stall(2.5, 3.0)
    got = samples(metrics)
    assert got["mlxguard_search_stall_seconds_total", (("kind", "predicted"),)] == 2.5
    assert got["mlxguard_search_stall_seconds_total", (("kind", "observed"),)] == 3.0


def test_predictions_and_disconnects_are_counted() -> None:
    metrics = Metrics()
    metrics.memory_predicted(PeakSample(110, 100, together=False))
    metrics.disconnected(DropEvidence.IDLE, 3.0)
    got = samples(metrics)
    assert got["mlxguard_memory_prediction_error_bucket", (("kind", "alone"), ("le", "0.2"))] == 1
    assert got["mlxguard_memory_prediction_error_bucket", (("kind", "alone"), ("le", "0.05"))] == 0
    assert got["mlxguard_disconnects_total", (("evidence", "idle"),)] == 1


def test_a_request_is_counted_once_with_its_tokens() -> None:
    metrics = Metrics()
    metrics.request_ended(ended(counted=7))
    got = samples(metrics)
    assert got["mlxguard_requests_total", (("outcome", "ok"), ("reason", ""))] == 1
    assert got["mlxguard_tokens_total", (("kind", "prompt"),)] == 7
    assert got["mlxguard_tokens_total", (("kind", "cached"),)] == 2
    assert got["mlxguard_tokens_total", (("kind", "completion"),)] == 5
    assert got["mlxguard_time_to_first_token_seconds_count", ()] == 1
    assert got["mlxguard_replays_total", ()] == 0
    assert got["mlxguard_prompt_count_mismatches_total", ()] == 0


def test_replays_and_a_count_that_differs_from_the_childs_are_seen() -> None:
    metrics = Metrics()
    metrics.request_ended(ended(counted=8, attempts=3))
    got = samples(metrics)
    assert got["mlxguard_replays_total", ()] == 2
    assert got["mlxguard_prompt_count_mismatches_total", ()] == 1


def test_mended_tool_calls_are_counted_and_no_replays() -> None:
    metrics, job = Metrics(), ended(counted=7, attempts=2)
    job.ask_again()
    metrics.request_ended(job)
    got = samples(metrics)
    assert got["mlxguard_mended_tool_calls_total", (("kind", "asked_again"),)] == 1
    assert got["mlxguard_replays_total", ()] == 0


def test_internal_requests_are_not_counted_as_requests() -> None:
    metrics = Metrics()
    metrics.internal_request("eviction", True, 0.1)
    metrics.internal_request("search_shortcut", False, 9)
    got = samples(metrics)
    assert got["mlxguard_internal_requests_total", (("kind", "eviction"), ("outcome", "ok"))] == 1
    assert (
        got["mlxguard_internal_requests_total", (("kind", "search_shortcut"), ("outcome", "unanswered"))] == 1
    )
    assert not [key for key in got if key[0] == "mlxguard_requests_total"]


def test_two_applications_do_not_share_counters() -> None:
    one, other = Metrics(), Metrics()
    one.request_ended(ended(counted=7))
    assert ("mlxguard_requests_total", (("outcome", "ok"), ("reason", ""))) not in samples(other)


def test_what_was_mended_is_counted_by_kind() -> None:
    metrics, mends = Metrics(), Mends()
    mends.counts.update([Mend.NUL, Mend.NUL, Mend.IMAGE])
    metrics.mended(mends)
    got = samples(metrics)
    assert got["mlxguard_mended_items_total", (("kind", "nul_replaced"),)] == 2
    assert got["mlxguard_mended_items_total", (("kind", "image_omitted"),)] == 1


def test_ignored_fields_are_counted_by_known_names() -> None:
    metrics = Metrics()
    metrics.fields_dropped(("store", "user", "frobnicate", 'x"} 1'))
    got = samples(metrics)
    assert got["mlxguard_dropped_fields_total", (("field", "store"),)] == 1
    assert got["mlxguard_dropped_fields_total", (("field", "other"),)] == 2
