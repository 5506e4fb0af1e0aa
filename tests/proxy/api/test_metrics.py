from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.api.metrics import Gauges, Metrics
from proxy.gate.corrections import PeakSample
from proxy.job import Job, Outcome
from proxy.prompt.fit import Fitted
from proxy.relay.drop_detection import DropEvidence
from proxy.request.completion import Bounds
from proxy.request.parse import parse_text
from proxy.stream.answer import Answer
from proxy.stream.child_stream import StreamProgress, Usage

NOW = Gauges(
    child_state="ready",
    child_states=("starting", "ready"),
    generation=3,
    deaths_by_cause={"metal_oom": 2},
    running=1,
    waiting=4,
    leaving=1,
    gate_bytes={"reserved": 700, "ceiling": 900},
    corrections={"alone": 1.0, "together": 1.25},
    memory_bytes={"active": 1000},
    memory_mark=1,
    memory_actions={"ended": 2},
    suspects=2,
    quarantined=1,
    ceiling_bytes=24_000,
    max_prompt_tokens=None,
    learned_share=0.9,
    lost_log_lines=5,
)


def samples(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {(s.name, tuple(sorted(s.labels.items()))): s.value for family in families for s in family.samples}


def ended(*, counted: int, attempts: int = 1) -> Job:
    request = parse_text(b'{"prompt": "a"}', Bounds())
    fitted = Fitted(request.prompt, 7, 5, clamped=False, dropped_messages=0, dropped_tokens=0)
    answer = Answer.new(unique="1", created=0, model="m", is_chat=False)
    answer.attempts = attempts
    job = Job("r", request, fitted, answer, "anonymous", arrived=0.0, deadline=1.0)
    job.outcome, job.seen, job.first_content_s = Outcome.OK, StreamProgress(), 0.3
    job.seen.usage = Usage(prompt_tokens=counted, completion_tokens=5, cached_tokens=2)
    return job


def test_gauges_are_read_when_scraped() -> None:
    got = samples(Metrics(lambda: NOW))
    assert got["mlxguard_child_state", (("state", "ready"),)] == 1
    assert got["mlxguard_child_state", (("state", "starting"),)] == 0
    assert got["mlxguard_child_generation", ()] == 3
    assert got["mlxguard_child_ended_total", (("cause", "metal_oom"),)] == 2
    assert got["mlxguard_requests_running", ()] == 1
    assert got["mlxguard_requests_waiting", ()] == 4
    assert got["mlxguard_requests_leaving", ()] == 1
    assert got["mlxguard_gate_bytes", (("kind", "reserved"),)] == 700
    assert got["mlxguard_law_correction", (("kind", "together"),)] == 1.25
    assert got["mlxguard_child_memory_bytes", (("kind", "active"),)] == 1000
    assert got["mlxguard_memory_mark", ()] == 1
    assert got["mlxguard_memory_actions_total", (("action", "ended"),)] == 2
    assert got["mlxguard_log_lines_lost_total", ()] == 5
    assert got["mlxguard_suspects", ()] == 2
    assert got["mlxguard_quarantined", ()] == 1
    assert got["mlxguard_learned_share", ()] == 0.9
    assert got["mlxguard_ceiling_bytes", ()] == 24_000
    assert ("mlxguard_plan_max_prompt_tokens", ()) not in got, "there is no such limit"


def test_the_seconds_of_stalls_are_counted() -> None:
    metrics = Metrics(lambda: NOW)
    metrics.search_stall(2.5, 3.0)
    got = samples(metrics)
    assert got["mlxguard_search_stall_seconds_total", (("kind", "foreseen"),)] == 2.5
    assert got["mlxguard_search_stall_seconds_total", (("kind", "seen"),)] == 3.0


def test_predictions_and_leavings_are_counted() -> None:
    metrics = Metrics(lambda: NOW)
    metrics.predicted(PeakSample(110, 100, together=False))
    metrics.gone(DropEvidence.IDLE, 3.0)
    got = samples(metrics)
    assert got["mlxguard_prediction_error_bucket", (("kind", "alone"), ("le", "0.2"))] == 1
    assert got["mlxguard_prediction_error_bucket", (("kind", "alone"), ("le", "0.05"))] == 0
    assert got["mlxguard_left_total", (("how", "idle"),)] == 1


def test_an_answer_is_counted_once_with_its_tokens() -> None:
    metrics = Metrics(lambda: NOW)
    metrics.settle(ended(counted=7))
    got = samples(metrics)
    assert got["mlxguard_answers_total", (("outcome", "ok"), ("reason", ""))] == 1
    assert got["mlxguard_tokens_total", (("kind", "prompt"),)] == 7
    assert got["mlxguard_tokens_total", (("kind", "cached"),)] == 2
    assert got["mlxguard_tokens_total", (("kind", "completion"),)] == 5
    assert got["mlxguard_first_token_seconds_count", ()] == 1
    assert got["mlxguard_replays_total", ()] == 0
    assert got["mlxguard_count_drift_total", ()] == 0


def test_replays_and_a_count_that_differs_from_the_childs_are_seen() -> None:
    metrics = Metrics(lambda: NOW)
    metrics.settle(ended(counted=8, attempts=3))
    got = samples(metrics)
    assert got["mlxguard_replays_total", ()] == 2
    assert got["mlxguard_count_drift_total", ()] == 1


def test_what_the_proxy_asks_itself_is_no_users_request() -> None:
    metrics = Metrics(lambda: NOW)
    metrics.own_request("displace", True, 0.1)
    metrics.own_request("cure", False, 9)
    got = samples(metrics)
    assert got["mlxguard_own_requests_total", (("kind", "displace"), ("outcome", "ok"))] == 1
    assert got["mlxguard_own_requests_total", (("kind", "cure"), ("outcome", "unanswered"))] == 1
    assert not [key for key in got if key[0] == "mlxguard_answers_total"]


def test_two_applications_do_not_share_counters() -> None:
    one, other = Metrics(lambda: NOW), Metrics(lambda: NOW)
    one.settle(ended(counted=7))
    assert ("mlxguard_answers_total", (("outcome", "ok"), ("reason", ""))) not in samples(other)


def test_fields_that_are_left_out_are_counted_by_names_that_are_known() -> None:
    metrics = Metrics(lambda: NOW)
    metrics.dropped(("store", "user", "frobnicate", 'x"} 1'))
    got = samples(metrics)
    assert got["mlxguard_dropped_fields_total", (("field", "store"),)] == 1
    assert got["mlxguard_dropped_fields_total", (("field", "other"),)] == 2
