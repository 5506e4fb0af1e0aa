"""What answers each path. `Completions.answer` is a request's journey, from its body to settling."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import orjson
from aiohttp import web

from proxy import openapi
from proxy.config import QueueSettings, ServerSettings
from proxy.core import via
from proxy.core.answer import Answer
from proxy.core.chat import Bounds, CompletionRequest, parse_chat, parse_text
from proxy.core.compaction import Refusals
from proxy.core.holdings import Holdings
from proxy.core.names import ModelNames
from proxy.edge import CLIENT, read_body
from proxy.errors import Unavailable
from proxy.explain import Explainer
from proxy.fitting import fit
from proxy.logs import request_id as request_id_var
from proxy.metrics import CONTENT_TYPE, Metrics
from proxy.mirroring import Mirroring
from proxy.picture_fetch import PictureFetch
from proxy.preparation import Preparation, Prepared
from proxy.relay import Job, Relay
from proxy.status import Registry, Status
from proxy.tokens import Tokens
from supervisor.lifecycle import State

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
    tokens: Tokens
    mirroring: Mirroring
    relay: Relay
    registry: Registry
    explainer: Explainer
    refusals: Refusals
    metrics: Metrics
    bodies: Holdings
    pictures: PictureFetch
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
                request = request.with_pictures(await self.pictures.fetch(request.remote, account))
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


@dataclass(frozen=True, slots=True)
class Pages:
    """Everything that is asked with GET."""

    names: ModelNames
    preparation: Preparation
    status: Status
    metrics: Metrics

    async def livez(self, _: web.Request) -> web.Response:
        """The proxy is up, whatever the child does."""
        return _json({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """200 when requests would be served, 503 with the reason when they would not."""
        child = self.status.child()
        if child.state is not State.READY:
            reason = child.explanation or f"the model server is {child.state}"
        elif self.preparation.prepared is None:
            reason = self.preparation.failure or "the tokenizer is still loading"
        else:
            return _json({"status": "ok"})
        return _json({"status": "unavailable", "state": child.state, "reason": reason}, status=503)

    async def models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [self._model()]})

    async def model(self, request: web.Request) -> web.Response:
        self.names.check(request.match_info["id"])
        return _json(self._model())

    async def api_status(self, _: web.Request) -> web.Response:
        return _json(self.status.document())

    async def exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _: web.Request) -> web.Response:
        return _json(openapi.document(version("mlxguard-proxy")))

    def _model(self) -> dict[str, Any]:
        """The one model, with its context length under every name that some agent reads."""
        entry: dict[str, Any] = {
            "id": self.names.served,
            "object": "model",
            "created": self.status.started_at,
            "owned_by": "mlxguard-proxy",
        }
        prepared = self.preparation.prepared
        if prepared is None:
            return entry
        context, limit = prepared.limits.context_length, prepared.limits.max_prompt_tokens
        for name in ("context_length", "max_model_len", "context_window"):
            entry[name] = limit
        entry["meta"] = {"n_ctx": limit, "n_ctx_train": context}
        return entry


def _json(document: dict[str, Any], *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=status, content_type="application/json")


def routes(completions: Completions, pages: Pages) -> list[web.RouteDef]:
    """Every path of the proxy."""
    return [
        web.post("/v1/chat/completions", completions.chat),
        web.post("/chat/completions", completions.chat),
        web.post("/v1/completions", completions.text),
        web.get("/v1/models", pages.models),
        web.get("/v1/models/{id:.+}", pages.model),
        web.get("/livez", pages.livez),
        web.get("/readyz", pages.readyz),
        web.get("/health", pages.readyz),
        web.get("/metrics", pages.exposition),
        web.get("/mlxguard/api/status", pages.api_status),
        web.get("/mlxguard/openapi.json", pages.openapi),
        web.post("/mlxguard/api/explain", completions.explain),
    ]
