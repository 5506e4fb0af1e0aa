"""Tests of the response headers that tell a client about its request."""

from __future__ import annotations

from proxy.relay.response_headers import response_headers
from proxy.request.mends import Mend
from tests.proxy.test_job import a_job


def test_plain_headers() -> None:
    job = a_job()
    job.queue_s, job.answer.attempts = 0.25, 2
    assert response_headers(job) == {
        "x-mlxguard-prompt-tokens": "7",
        "x-mlxguard-queue-ms": "250",
        "x-mlxguard-attempts": "2",
        "Via": "1.0 mlxguard-proxy",
    }


def test_headers_say_what_was_changed() -> None:
    headers = response_headers(a_job(clamped=True, dropped_messages=2, dropped_tokens=300))
    assert headers["x-mlxguard-max-tokens"] == "16"
    assert headers["x-mlxguard-truncated"] == "messages=2; tokens=300"


def test_headers_say_what_was_mended_and_which_tools_were_left_out() -> None:
    job = a_job()
    job.request.mends.counts[Mend.NUL] += 2
    job.request.mends.omitted_tools += ["web_search", "bad\r\nname", *["x" * 99] * 30]
    headers = response_headers(job)
    assert headers["x-mlxguard-mended"] == "nul_replaced=2"
    assert headers["x-mlxguard-omitted-tools"] == ", ".join(["web_search", "bad??name", *["x" * 64] * 18])
