"""The two kinds of client: one that reads a stream and is kept alive, one that waits for a whole body.

Both are fed what the child sends, attempt by attempt; `answer.phase` says what they have been given.
"""

from __future__ import annotations

from types import TracebackType
from typing import Protocol, Self

from aiohttp import web

from proxy.errors import GuardError
from proxy.job import Job
from proxy.relay.response_headers import response_headers
from proxy.stream.aggregate import Aggregator, WholeBody
from proxy.stream.child_stream import StreamProgress


class ClientGone(Exception):
    """The client closed its connection; `response` is what it had begun to get."""

    def __init__(self, response: web.StreamResponse) -> None:
        super().__init__()
        self.response = response


class Client(Protocol):
    """Where an answer goes."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def begin(self) -> StreamProgress:
        """A new attempt: forget what an earlier one held back."""

    async def feed(self, data: bytes) -> None:
        """Bytes of the child's answer. Raises Malformed, ClientGone."""

    def pass_through(self, data: bytes) -> bool:
        """The same at once, where nothing can go wrong; False if it has to be fed."""

    def end_of_input(self) -> None:
        """The child closed the connection. Raises Malformed."""

    async def finish(self) -> web.StreamResponse:
        """The answer is complete."""

    async def fail(self, error: GuardError) -> web.StreamResponse:
        """There will be no (more) answer. Raises `error` itself while nothing was sent."""


class WaitingClient:
    """Gets one JSON body at the end; until then it just waits."""

    def __init__(self, http_request: web.Request, job: Job) -> None:
        self._http_request = http_request
        self._job = job
        self._whole: Aggregator | WholeBody = self._fresh()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

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
        """Sent here and now: what is to be recorded of it can wait, and its client does."""
        response = web.Response(
            body=self._whole.body(), headers=response_headers(self._job), content_type="application/json"
        )
        try:
            await response.prepare(self._http_request)
            await response.write_eof()
        except ConnectionError as error:
            raise ClientGone(response) from error
        return response

    async def fail(self, error: GuardError) -> web.StreamResponse:
        raise error

    def _fresh(self) -> Aggregator | WholeBody:
        return WholeBody(self._job.answer) if self._job.unstreamed else Aggregator(self._job.answer)
