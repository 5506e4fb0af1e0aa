"""A client whose answer is held back until it was checked: it gets all of it at the end, or an error."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from proxy.errors import GatewayError
from proxy.job import Job
from proxy.relay.client import Client
from proxy.stream import sse
from proxy.stream.aggregate import Aggregator, WholeBody
from proxy.stream.child_stream import StreamProgress, choice_of


class HeldClient:
    """Collects each attempt for another client, which meanwhile keeps its connection alive as it does.

    That client is given the checked answer as if the child had sent it so.
    """

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self._job = job
        self._whole = self._fresh()
        self._content: str | None = None

    def begin(self) -> StreamProgress:
        self._whole = self._fresh()
        return self._whole.seen

    async def feed(self, data: bytes) -> None:
        self._whole.feed(data)

    def pass_through(self, data: bytes) -> bool:
        return self._whole.pass_through(data)

    def end_of_input(self) -> None:
        self._whole.end()

    def choice(self) -> dict[str, Any]:
        """The only choice of the answer, which is complete."""
        return choice_of(sse.loads(self._whole.body())) or {}

    def accept(self, content: str | None) -> None:
        """Let the answer be sent by `finish`; `content`: in place of its own."""
        self._content = content

    async def finish(self) -> web.StreamResponse:
        answer = sse.loads(self._whole.body())
        choice = choice_of(answer) or {}
        if self._content is not None:
            choice["message"]["content"] = self._content
        self._client.begin()
        await self._client.feed(sse.dumps(answer) if self._job.unstreamed else _as_stream(answer, choice))
        self._client.end_of_input()
        return await self._client.finish()

    async def fail(self, error: GatewayError) -> web.StreamResponse:
        return await self._client.fail(error)

    async def aclose(self) -> None:
        await self._client.aclose()

    def _fresh(self) -> Aggregator | WholeBody:
        return WholeBody(self._job.answer) if self._job.unstreamed else Aggregator(self._job.answer)


def _as_stream(answer: dict[str, Any], choice: dict[str, Any]) -> bytes:
    """The answer as the events that the child would have sent, in one piece."""
    head = {name: value for name, value in answer.items() if name not in ("choices", "usage")}
    delta = {name: value for name, value in choice["message"].items() if name != "reasoning_content"}
    if calls := delta.get("tool_calls"):
        delta["tool_calls"] = [{**call, "index": index} for index, call in enumerate(calls)]
    said = {"index": 0, "finish_reason": None, "delta": delta}
    ended = {"index": 0, "finish_reason": choice["finish_reason"], "delta": {"role": "assistant"}}
    events = [sse.event({**head, "choices": [each]}) for each in (said, ended)]
    if "usage" in answer:
        events.append(sse.event({**head, "choices": [], "usage": answer["usage"]}))
    return b"".join((*events, sse.DONE, sse.END))
