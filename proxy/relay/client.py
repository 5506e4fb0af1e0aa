"""What the relay needs of a client, the headers of its response, and the client that waits for a whole body.

A client is fed what the child sends, attempt by attempt; `answer.phase` says what it has been sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Protocol

from aiohttp import web

from proxy.errors import GatewayError
from proxy.http import via
from proxy.job import Job
from proxy.request.parse import ignored
from proxy.stream.aggregate import Aggregator, WholeBody
from proxy.stream.child_stream import StreamProgress

#: Names of tools come from the client, and a header must have no line ends.
_UNPRINTABLE = re.compile(r"[^ -~]")
#: Characters of a list of names in a header.
_LONGEST_LIST = 512


class ClientGone(Exception):
    """The client closed its connection; `response` is what was begun."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


class Client(Protocol):
    """Where an answer goes. Each attempt begins with `begin`; `finish` or `fail` ends the answer, once."""

    def begin(self) -> StreamProgress:
        """Begin a new attempt, and discard what an earlier one withheld."""

    async def feed(self, data: bytes) -> None:
        """Take bytes of the child's answer. Raises Malformed, ClientGone."""

    def pass_through(self, data: bytes) -> bool:
        """Take them at once, without waiting or failing; False if they have to be fed."""

    def end_of_input(self) -> None:
        """Note that the child closed the connection. Raises Malformed."""

    async def finish(self) -> web.StreamResponse:
        """End a complete answer. Raises ClientGone."""

    async def fail(self, error: GatewayError) -> web.StreamResponse:
        """End an incomplete answer. Raises `error` itself while nothing was sent, ClientGone."""

    async def aclose(self) -> None:
        """End what runs for this client."""


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
        truncated = f"messages={fitted.dropped_messages}; tokens={fitted.dropped_tokens}"
        headers["x-mlxguard-truncated"] = truncated
    if mended := job.request.mends.header():
        headers["x-mlxguard-mended"] = mended
    for name, names in (("left-out", job.left_out), ("ignored", ignored(job.request.dropped))):
        if names:
            headers[f"x-mlxguard-{name}"] = _header_list(names)
    if job.output_check is not None:
        headers["x-mlxguard-structured-output"] = f"answers={job.output_check.unfit + 1}"
    if job.call_mends:
        counts = sorted(job.call_mends.items())
        headers["x-mlxguard-tool-calls"] = ", ".join(f"{kind}={count}" for kind, count in counts)
    return headers


def _header_list(names: Iterable[str]) -> str:
    """Names that clients chose, with only what a header may hold."""
    return _UNPRINTABLE.sub("?", ", ".join(dict.fromkeys(names)))[:_LONGEST_LIST]


class WaitingClient:
    """Gets one JSON body at the end, and nothing before."""

    def __init__(self, http_request: web.Request, job: Job) -> None:
        self._http_request = http_request
        self._job = job
        self._whole: Aggregator | WholeBody = self._fresh()

    def begin(self) -> StreamProgress:
        self._whole = self._fresh()
        return self._whole.seen

    async def feed(self, data: bytes) -> None:
        self._whole.feed(data)

    def pass_through(self, data: bytes) -> bool:
        return self._whole.pass_through(data)

    def end_of_input(self) -> None:
        self._whole.end()

    async def finish(self) -> web.StreamResponse:
        """Send it at once: the client waits, and records can be written afterwards."""
        body = self._job.form.whole(self._whole.body())
        headers = response_headers(self._job)
        response = web.Response(body=body, headers=headers, content_type="application/json")
        try:
            await response.prepare(self._http_request)
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone(response) from error
        return response

    async def fail(self, error: GatewayError) -> web.StreamResponse:
        raise error

    async def aclose(self) -> None:
        pass

    def _fresh(self) -> Aggregator | WholeBody:
        return WholeBody(self._job.answer) if self._job.unstreamed else Aggregator(self._job.answer)
