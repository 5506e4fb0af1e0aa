"""The response headers that describe a request: tokens, time in the queue, attempts and truncation."""

from __future__ import annotations

from proxy.http import via
from proxy.job import Job
from proxy.request.mends import header_list
from proxy.request.parse import ignored


def response_headers(job: Job) -> dict[str, str]:
    """The proxy's own headers for a job in its present state. The middleware adds `x-request-id`."""
    fitted = job.fitted
    headers = {
        "x-mlxguard-prompt-tokens": str(fitted.prompt_tokens),
        "x-mlxguard-queue-ms": str(round(job.queue_s * 1000)),
        "x-mlxguard-attempts": str(job.answer.attempts),
        "Via": via.RESPONSE,
    }
    if fitted.clamped:
        headers["x-mlxguard-max-tokens"] = str(fitted.max_tokens)
    if fitted.dropped_messages or fitted.dropped_tokens:
        headers["x-mlxguard-truncated"] = (
            f"messages={fitted.dropped_messages}; tokens={fitted.dropped_tokens}"
        )
    mends = job.request.mends
    if mended := mends.header():
        headers["x-mlxguard-mended"] = mended
    if mends.omitted_tools:
        headers["x-mlxguard-omitted-tools"] = mends.omitted()
    if dropped := ignored(job.request.dropped):
        headers["x-mlxguard-ignored"] = header_list(dropped)
    if job.output_check is not None:
        headers["x-mlxguard-structured-output"] = f"answers={job.output_check.unfit + 1}"
    if job.call_mends:
        counts = sorted(job.call_mends.items())
        headers["x-mlxguard-tool-calls"] = ", ".join(f"{kind}={count}" for kind, count in counts)
    return headers
