"""Prometheus metrics: counters and histograms that requests move; `Status` adds the gauges.

There is one registry per gateway, so that several in one process, as in tests, share no state.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Histogram, disable_created_metrics
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.exposition import generate_latest
from prometheus_client.registry import Collector

from proxy.gate.corrections import PeakSample
from proxy.job import Job
from proxy.relay.drop_detection import DropEvidence
from proxy.request.mends import Mends
from proxy.request.parse import MEANINGLESS

__all__ = ["CONTENT_TYPE", "Metrics"]

# OpenMetrics' creation times would double the page, and nothing here needs them.
disable_created_metrics()  # type: ignore[no-untyped-call]  # prometheus_client types everything but this

#: Seconds, from a warm side request to the prefill of 128k tokens on a laptop.
_LATENCY_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100, 250, 500)

#: Relative errors of a prediction, as fractions of the observed value.
_ERROR_BUCKETS = (-0.5, -0.2, -0.1, -0.05, 0, 0.05, 0.1, 0.2, 0.4, 0.6, 1, 2, 4)


class Metrics:
    """All metrics of one gateway."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        requests = self._counter("requests", "Completion requests by how they ended.", "outcome", "reason")
        responses = self._counter("http_responses", "HTTP responses by status.", "status")
        tokens = self._counter("tokens", "Tokens of completed requests.", "kind")
        self._mismatches = self._counter(
            "prompt_count_mismatches",
            "Requests whose prompt tokens, as the child counted them, differ from the proxy's count.",
        )
        self._replays = self._counter("replays", "Requests run again after the child died.")
        self._dropped_fields = self._counter(
            "dropped_fields",
            "Request fields that were ignored, by name; names that no known client sends are `other`.",
            "field",
        )
        self._mended = self._counter(
            "mended_items", "Items of requests that were mended instead of refused, by what was done.", "kind"
        )
        self._call_mends = self._counter(
            "mended_tool_calls",
            "Tool calls of the model that were mended, asked for again or left out, by what was done.",
            "kind",
        )
        self._structured = self._counter(
            "structured_answers",
            "Requests that demand a form of their answer, by how many answers did not have it.",
            "unfit",
        )
        self._internal_requests = self._counter(
            "internal_requests", "Requests that the proxy itself sent to the child.", "kind", "outcome"
        )
        self._stall_seconds = self._counter(
            "search_stall_seconds",
            "Time that the child spent searching its prompt cache while it could do nothing else.",
            "kind",
        )
        self._disconnects = self._counter(
            "disconnects",
            "Requests whose clients disconnected, by the evidence that the child had dropped them.",
            "evidence",
        )
        self._prediction_error = self._histogram(
            "memory_prediction_error",
            "Predicted peak memory divided by the observed one, minus 1; negative: too little was predicted.",
            _ERROR_BUCKETS,
            "kind",
        )
        self._queue_time = self._histogram(
            "queue_time_seconds", "Time that requests waited in the queue.", _LATENCY_BUCKETS
        )
        self._time_to_first_token = self._histogram(
            "time_to_first_token_seconds",
            "Time from a request's arrival to its first content.",
            _LATENCY_BUCKETS,
        )
        # Moved by every request: prometheus_client takes 2 us to look up a label, and each needs five.
        self._requests, self._tokens, self._responses = map(
            cache, (requests.labels, tokens.labels, responses.labels)
        )

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"mlxguard_{name}", about, labels, registry=self._registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"mlxguard_{name}", about, labels, buckets=buckets, registry=self._registry)

    def register(self, gauges: Collector) -> None:
        """Add metrics that are read at each scrape."""
        self._registry.register(gauges)

    def request_ended(self, job: Job) -> None:
        """Count one completion request at its end."""
        self._requests(job.outcome.value, job.reason).inc()
        self._queue_time.observe(job.queue_s)
        for kind, count in job.call_mends.items():
            self._call_mends.labels(kind.value).inc(count)
        if job.output_check is not None:
            self._structured.labels(str(job.output_check.unfit)).inc()
        if (replays := job.answer.attempts - 1 - job.asked_anew) > 0:
            self._replays.inc(replays)
        if job.first_content_s is not None:
            self._time_to_first_token.observe(job.first_content_s)
        if job.usage is None:
            return
        self._tokens("prompt").inc(job.usage.prompt_tokens)
        self._tokens("cached").inc(job.usage.cached_tokens or 0)
        self._tokens("completion").inc(job.usage.completion_tokens)
        if job.usage.prompt_tokens != job.fitted.prompt_tokens:
            self._mismatches.inc()

    def internal_request(self, kind: str, answered: bool, _seconds: float) -> None:
        """Count one internal request; it appears in no metric of client requests."""
        self._internal_requests.labels(kind, "ok" if answered else "unanswered").inc()

    def search_stall(self, predicted_s: float, observed_s: float) -> None:
        """Count one search stall of a request that ran alone."""
        self._stall_seconds.labels("predicted").inc(predicted_s)
        self._stall_seconds.labels("observed").inc(observed_s)

    def memory_predicted(self, sample: PeakSample) -> None:
        """Count one prediction of memory, compared with the observed peak."""
        self._prediction_error.labels("together" if sample.together else "alone").observe(sample.error)

    def disconnected(self, evidence: DropEvidence, _seconds: float) -> None:
        """Count one request whose client disconnected, once the child has dropped it."""
        self._disconnects.labels(evidence.value).inc()

    def fields_dropped(self, names: Iterable[str]) -> None:
        """Count ignored request fields. Clients choose names, so only known ones become labels."""
        for name in names:
            self._dropped_fields.labels(name if name in MEANINGLESS else "other").inc()

    def mended(self, mends: Mends) -> None:
        """Count what was mended in one request."""
        for kind, count in mends.counts.items():
            self._mended.labels(kind.value).inc(count)

    def http_response(self, status: int) -> None:
        """Count one HTTP response; not by path, since clients choose paths."""
        self._responses(str(status)).inc()

    def exposition(self) -> bytes:
        """The page in the text format 0.0.4, which every scraper reads."""
        return generate_latest(self._registry)
