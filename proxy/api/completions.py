"""What answers each path. `Completions.answer` is a request's journey, from its body to settling."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from proxy.api.explain import Explainer
from proxy.api.metrics import Metrics
from proxy.api.pages import _json
from proxy.cache.client import CacheClient
from proxy.config.settings import QueueSettings, ServerSettings
from proxy.errors import Unavailable
from proxy.http import via
from proxy.http.body import read_body
from proxy.http.body_budget import BodyBudget
from proxy.http.image_fetch import ImageFetch
from proxy.http.middleware import CLIENT
from proxy.log.format import request_id as request_id_var
from proxy.planning.preparation import Preparation, Prepared
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.counter import TokenCounter
from proxy.prompt.fit import fit
from proxy.relay.registry import Registry
from proxy.relay.relay import Job, Relay
from proxy.request.completion import Bounds, CompletionRequest
from proxy.request.model_names import ModelNames
from proxy.request.parse import parse_chat, parse_text
from proxy.stream.answer import Answer

log = logging.getLogger("mlxguard.answer")

Parse = Callable[[bytes, Bounds], CompletionRequest]

#: Seconds that a request waits for a model that is still being prepared before it gets 503. Preparing an
#: already downloaded model takes a few; a download takes minutes, and a held request gets no keep-alive yet.
PREPARATION_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Completions:
    """POST /v1/chat/completions and /v1/completions."""

    server: ServerSettings
    queue: QueueSettings
    names: ModelNames
    preparation: Preparation
    tokens: TokenCounter
    mirroring: CacheClient
    relay: Relay
    registry: Registry
    explainer: Explainer
    refusals: OverflowHistory
    metrics: Metrics
    bodies: BodyBudget
    pictures: ImageFetch
    stopping: asyncio.Event

    async def chat(self, http_request: web.Request) -> web.StreamResponse:
        return await self.answer(http_request, parse_chat)

    async def text(self, http_request: web.Request) -> web.StreamResponse:
        return await self.answer(http_request, parse_text)

    async def answer(self, http_request: web.Request, parse: Parse) -> web.StreamResponse:
        """One request, from its body to the end of its answer.

        Raises:
            GuardError: nothing was sent yet, and this is the answer.
        """
        arrived = time.monotonic()
        if self.stopping.is_set():
            raise Unavailable("stopping")
        request, prepared = await self._understood(http_request, parse)
        self.names.check(request.model)
        self.metrics.dropped(request.dropped)
        answer = self._new_answer(is_chat=request.is_chat)
        with self.mirroring.counting(answer.id, request) as counter:
            fitted = await fit(request, counter, prepared.limits, refusals=self.refusals, now=arrived)
        job = Job(
            request_id=request_id_var.get(),
            request=request,
            fitted=fitted,
            answer=answer,
            client=http_request[CLIENT],
            arrived=arrived,
            deadline=arrived + self.queue.max_wait_s,
            via=via.onward(http_request.headers.getall("Via", ()), http_request.version),
        )
        with self.registry.track(job):
            try:
                return await self.relay.serve(http_request, job)
            finally:
                self._settle(job)

    async def explain(self, http_request: web.Request) -> web.Response:
        """What would become of a chat request; it is not run."""
        request, prepared = await self._understood(http_request, parse_chat)
        return _json(await self.explainer.document(request, prepared.limits, http_request[CLIENT]))

    async def _understood(
        self, http_request: web.Request, parse: Parse
    ) -> tuple[CompletionRequest, Prepared]:
        """The request that the body makes, and the model that it is for; the body itself is let go of."""
        server = self.server
        with self.bodies.account() as account:
            body = await read_body(
                http_request,
                most_bytes=server.max_body_bytes,
                timeout_s=server.body_timeout_s,
                bytes_per_s=server.body_min_bytes_per_s,
                account=account,
            )
            prepared = await self.preparation.ready(min(PREPARATION_WAIT_S, self.queue.max_wait_s))
            request = parse(body, prepared.bounds)
            if request.remote:
                request = request.with_images(await self.pictures.fetch(request.remote, account))
            return request, prepared

    def _new_answer(self, *, is_chat: bool) -> Answer:
        unique, created = str(uuid.uuid4()), int(time.time())
        return Answer.new(unique=unique, created=created, model=self.names.served, is_chat=is_chat)

    def _settle(self, job: Job) -> None:
        """Measure and record; the gate's place was given back by the relay."""
        self.metrics.settle(job)
        if job.usage is not None:
            self.tokens.check(job.fitted.prompt_tokens, job.usage.prompt_tokens)
        summary = job.summary()
        del summary["request_id"]  # every line of a request carries it
        log.info("answered", extra=summary)
