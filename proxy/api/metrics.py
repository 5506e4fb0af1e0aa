"""Prometheus metrics: counters that handlers move, gauges that are read from the parts when asked for.

One registry per application, so that tests and several applications in one process do not share state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache

from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from proxy.gate.corrections import PeakSample
from proxy.job import Job
from proxy.relay.drop_detection import DropEvidence
from proxy.request.parse import MEANINGLESS

__all__ = ["CONTENT_TYPE", "Gauges", "Metrics"]

# OpenMetrics' creation times double the page, and nothing here is read by rate since creation.
disable_created_metrics()  # type: ignore[no-untyped-call]  # the package types all but this

#: Seconds. From a warm side request to a 128k-token prefill on a laptop.
_LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)
#: Shares of what was seen.
_ERROR_BUCKETS = (-0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.4, 0.6, 1, 2, 4)


@dataclass(frozen=True, slots=True)
class Gauges:
    """What is true now; read at scrape time from the parts themselves."""

    child_state: str
    child_states: tuple[str, ...]
    generation: int
    deaths_by_cause: dict[str, int]
    running: int
    waiting: int
    leaving: int
    gate_bytes: dict[str, int]
    corrections: dict[str, float]
    memory_bytes: dict[str, int]
    memory_mark: int
    memory_actions: dict[str, int]
    suspects: int
    quarantined: int
    ceiling_bytes: int | None
    max_prompt_tokens: int | None
    learned_share: float
    lost_log_lines: int


class _Snapshot(Collector):
    """Turns `Gauges` into metric families; nothing is kept that could go stale."""

    def __init__(self, read: Callable[[], Gauges]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        now = self._read()
        state = GaugeMetricFamily("mlxguard_child_state", "1 for the child's state.", labels=["state"])
        for name in now.child_states:
            state.add_metric([name], float(name == now.child_state))
        yield state
        yield GaugeMetricFamily("mlxguard_child_generation", "Lives of the child so far.", now.generation)
        deaths = CounterMetricFamily("mlxguard_child_ended", "Ends of the child by cause.", labels=["cause"])
        for cause, count in now.deaths_by_cause.items():
            deaths.add_metric([cause], count)
        yield deaths
        yield GaugeMetricFamily("mlxguard_requests_running", "Requests that the child works on.", now.running)
        yield GaugeMetricFamily("mlxguard_requests_waiting", "Requests in the queue.", now.waiting)
        yield from _of_the_gate(now)
        memory = GaugeMetricFamily("mlxguard_child_memory_bytes", "Memory of the child.", labels=["kind"])
        for kind, size in now.memory_bytes.items():
            memory.add_metric([kind], size)
        yield memory
        lost = "Log lines that could not be written."
        yield CounterMetricFamily("mlxguard_log_lines_lost", lost, now.lost_log_lines)
        yield from _of_pressure(now)
        yield from _of_crashes(now)


def _of_the_gate(now: Gauges) -> Iterable[Metric]:
    """What is shared out, and how far the law was found to be off."""
    leaving = "Running requests whose clients have left."
    yield GaugeMetricFamily("mlxguard_requests_leaving", leaving, now.leaving)
    shared = GaugeMetricFamily("mlxguard_gate_bytes", "Memory as the gate shares it out.", labels=["kind"])
    for kind, size in now.gate_bytes.items():
        shared.add_metric([kind], size)
    yield shared
    about = "What predicted bytes beside the weights are multiplied by."
    corrections = GaugeMetricFamily("mlxguard_law_correction", about, labels=["kind"])
    for kind, factor in now.corrections.items():
        corrections.add_metric([kind], factor)
    yield corrections


def _of_pressure(now: Gauges) -> Iterable[Metric]:
    """How short of memory the child is, and what was done about it."""
    about = "0: enough; 1: nobody new is let in; 2: requests end."
    yield GaugeMetricFamily("mlxguard_memory_mark", about, now.memory_mark)
    actions = CounterMetricFamily("mlxguard_memory_actions", "What was done for memory.", labels=["action"])
    for action, count in now.memory_actions.items():
        actions.add_metric([action], count)
    yield actions


def _of_crashes(now: Gauges) -> Iterable[Metric]:
    """Who is held to have killed the child, and what memory it may have since."""
    yield GaugeMetricFamily("mlxguard_suspects", "Requests that crashes are blamed on.", now.suspects)
    yield GaugeMetricFamily("mlxguard_quarantined", "Those of them that are refused.", now.quarantined)
    share = "Share of the memory otherwise allowed that crashes have left."
    yield GaugeMetricFamily("mlxguard_learned_share", share, now.learned_share)
    if now.ceiling_bytes is not None:
        yield GaugeMetricFamily("mlxguard_ceiling_bytes", "What the child may take.", now.ceiling_bytes)
    if now.max_prompt_tokens is not None:
        longest = "Longest prompt by the plan."
        yield GaugeMetricFamily("mlxguard_plan_max_prompt_tokens", longest, now.max_prompt_tokens)


class Metrics:
    """All metrics of one application."""

    def __init__(self, read: Callable[[], Gauges]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Snapshot(read))
        self.answers = Counter(
            "mlxguard_answers",
            "Completion requests by how they ended.",
            ["outcome", "reason"],
            registry=self.registry,
        )
        self.http = Counter(
            "mlxguard_http_responses", "HTTP answers by status.", ["status"], registry=self.registry
        )
        self.tokens = Counter(
            "mlxguard_tokens", "Tokens of completed answers.", ["kind"], registry=self.registry
        )
        self.drift = Counter(
            "mlxguard_count_drift",
            "Answers whose prompt tokens differed from our count.",
            registry=self.registry,
        )
        self.replays = Counter(
            "mlxguard_replays", "Requests run again after a death of the child.", registry=self.registry
        )
        self.dropped_fields = Counter(
            "mlxguard_dropped_fields",
            "Request fields that are not forwarded; those that no client is known to send are `other`.",
            ["field"],
            registry=self.registry,
        )
        self.own_requests = Counter(
            "mlxguard_own_requests",
            "Requests of the proxy's own to the child.",
            ["kind", "outcome"],
            registry=self.registry,
        )
        self.search_seconds = Counter(
            "mlxguard_search_stall_seconds",
            "Seconds that the child searched its prompt cache where that stalled it.",
            ["kind"],
            registry=self.registry,
        )
        self.prediction_error = Histogram(
            "mlxguard_prediction_error",
            "Predicted peak over the seen one, less 1: below 0, too little was predicted.",
            ["kind"],
            buckets=_ERROR_BUCKETS,
            registry=self.registry,
        )
        self.left = Counter(
            "mlxguard_left",
            "Requests whose clients left, by how the child was known to be done with them.",
            ["how"],
            registry=self.registry,
        )
        self.queue_seconds = Histogram(
            "mlxguard_queue_seconds", "Wait for a place.", buckets=_LATENCY_BUCKETS, registry=self.registry
        )
        self.first_token_seconds = Histogram(
            "mlxguard_first_token_seconds",
            "From arrival to first content.",
            buckets=_LATENCY_BUCKETS,
            registry=self.registry,
        )
        # What each request counts; the package looks its labels up in 2 us, five times.
        self._answers = cache(self.answers.labels)
        self._tokens = cache(self.tokens.labels)
        self._http = cache(self.http.labels)

    def settle(self, job: Job) -> None:
        """Count one completion request at its end."""
        self._answers(job.outcome.value, job.reason).inc()
        self.queue_seconds.observe(job.queue_s)
        if job.answer.attempts > 1:
            self.replays.inc(job.answer.attempts - 1)
        if job.first_content_s is not None:
            self.first_token_seconds.observe(job.first_content_s)
        if job.usage is None:
            return
        self._tokens("prompt").inc(job.usage.prompt_tokens)
        self._tokens("cached").inc(job.usage.cached_tokens or 0)
        self._tokens("completion").inc(job.usage.completion_tokens)
        if job.usage.prompt_tokens != job.fitted.prompt_tokens:
            self.drift.inc()

    def own_request(self, kind: str, answered: bool, seconds: float) -> None:
        """Count one request of our own; no user's metric moves."""
        del seconds
        self.own_requests.labels(kind, "ok" if answered else "unanswered").inc()

    def search_stall(self, foreseen_s: float, seen_s: float) -> None:
        """Count one stall of a request that had the child for itself."""
        self.search_seconds.labels("foreseen").inc(foreseen_s)
        self.search_seconds.labels("seen").inc(seen_s)

    def predicted(self, sample: PeakSample) -> None:
        """Count one prediction of memory that was held against what was seen."""
        self.prediction_error.labels("together" if sample.together else "alone").observe(sample.error)

    def gone(self, how: DropEvidence, seconds: float) -> None:
        """Count one request that was seen out."""
        del seconds
        self.left.labels(how.value).inc()

    def dropped(self, names: Iterable[str]) -> None:
        """Count fields that were left out of a request. Strangers choose names: only known ones are told."""
        for name in names:
            self.dropped_fields.labels(name if name in MEANINGLESS else "other").inc()

    def http_answer(self, request: web.Request, status: int, seconds: float) -> None:
        """Count one HTTP answer; the path is left out, since strangers choose it."""
        del request, seconds
        self._http(str(status)).inc()

    def http_refusal(self, status: int) -> None:
        """Count an answer to what was no request."""
        self._http(str(status)).inc()

    def exposition(self) -> bytes:
        """The text format, version 0.0.4, which every scraper reads."""
        return generate_latest(self.registry)
