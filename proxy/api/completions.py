"""The completion endpoints. `Completions.complete` is the journey of a request from its body to its end."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aiohttp import web

from proxy.api.explain import Explainer
from proxy.api.metrics import Metrics
from proxy.cache.client import CacheClient
from proxy.config.settings import QueueSettings, ServerSettings
from proxy.dialects.chat import untranslated
from proxy.dialects.messages.translate import count_request, messages_request
from proxy.dialects.responses.last_tools import LastTools
from proxy.dialects.responses.translate import responses_request
from proxy.dialects.translation import Translation
from proxy.errors import Unavailable
from proxy.http import via
from proxy.http.body import read_body
from proxy.http.body_budget import BodyBudget
from proxy.http.image_fetch import ImageFetch
from proxy.http.middleware import CLIENT
from proxy.http.responses import json_response
from proxy.job import Job
from proxy.log.format import current_request_id
from proxy.planning.preparation import Preparation, Prepared
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.counter import TokenCounter
from proxy.prompt.fit import fit
from proxy.prompt.output_check import OutputCheck
from proxy.prompt.turns import ASKER, Asker
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay
from proxy.request.completion import Bounds, CompletionRequest
from proxy.request.model_names import ModelNames
from proxy.request.parse import parse_chat, parse_text
from proxy.request.session import named_session
from proxy.stream.answer import Answer

log = logging.getLogger("mlxguard.answer")

Parse = Callable[[bytes, Bounds], Translation]

#: Seconds that a request waits for a model that is being prepared, before it gets 503. Preparing a downloaded
#: model takes a few seconds; a download takes minutes, and there is no keep-alive for the request yet.
PREPARATION_WAIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Completions:
    """Handlers of the completion endpoints and of explain."""

    server: ServerSettings
    queue: QueueSettings
    names: ModelNames
    preparation: Preparation
    counter: TokenCounter
    cache: CacheClient
    relay: Relay
    registry: Registry
    explainer: Explainer
    overflow_history: OverflowHistory
    metrics: Metrics
    body_budget: BodyBudget
    images: ImageFetch
    stopping: asyncio.Event
    last_tools: LastTools = field(default_factory=LastTools)

    async def chat(self, http_request: web.Request) -> web.StreamResponse:
        return await self.complete(http_request, _parse_chat)

    async def text(self, http_request: web.Request) -> web.StreamResponse:
        return await self.complete(http_request, lambda body, bounds: untranslated(parse_text(body, bounds)))

    async def messages(self, http_request: web.Request) -> web.StreamResponse:
        return await self.complete(http_request, messages_request)

    async def responses(self, http_request: web.Request) -> web.StreamResponse:
        client = http_request[CLIENT]

        def parse(body: bytes, bounds: Bounds) -> Translation:
            return responses_request(body, bounds, self.last_tools, client)

        return await self.complete(http_request, parse)

    async def count_tokens(self, http_request: web.Request) -> web.Response:
        """Count a prompt, exactly but for huge ones. Only the tokenizer is waited for, not the queue."""
        translation, prepared = await self._read(http_request, count_request)
        self.names.check(translation.request.model)
        tokens = await self.counter.count(translation.request.prompt, prepared.limits.longest_prompt)
        return json_response({"input_tokens": tokens})

    async def complete(self, http_request: web.Request, parse: Parse) -> web.StreamResponse:
        """Serve one completion request, from its body to the end of its response.

        Raises:
            GatewayError: nothing was sent yet, and this is the response.
        """
        arrived = time.monotonic()
        if self.stopping.is_set():
            raise Unavailable("stopping")
        translation, prepared = await self._read(http_request, parse)
        request = translation.request
        self.names.check(request.model)
        self.metrics.fields_dropped(request.dropped)
        self.metrics.mended(request.mends)
        answer = Answer.new(
            unique=str(uuid.uuid4()),
            created=int(time.time()),
            model=self.names.served,
            is_chat=request.is_chat,
            id_prefix=translation.id_prefix,
        )
        with self.cache.counting(answer.id, request) as counter:
            fitted = await fit(request, counter, prepared.limits, refusals=self.overflow_history, now=arrived)
            output_check = await self._output_check(request, prepared)
        job = Job(
            request_id=current_request_id.get(),
            request=request,
            fitted=fitted,
            answer=answer,
            form=translation.form(answer, fitted.prompt_tokens),
            client=http_request[CLIENT],
            arrived=arrived,
            deadline=arrived + self.queue.max_wait_s,
            via=via.forward(http_request.headers.getall("Via", ()), http_request.version),
            left_out=(*translation.left_out, *(f"tool {name}" for name in request.mends.omitted_tools)),
            output_check=output_check,
        )
        with self.registry.track(job):
            try:
                return await self.relay.serve(http_request, job)
            finally:
                self._record(job)

    async def explain(self, http_request: web.Request) -> web.Response:
        """Explain what would happen to a chat request, without running it."""
        translation, prepared = await self._read(http_request, _parse_chat)
        document = await self.explainer.document(translation.request, prepared.limits, http_request[CLIENT])
        return json_response(document)

    async def _read(self, http_request: web.Request, parse: Parse) -> tuple[Translation, Prepared]:
        """Read and parse the body, and fetch its images; the body's memory is released at the end."""
        with self.body_budget.account(http_request[CLIENT]) as account:
            body = await read_body(http_request, self.server, account)
            ASKER.set(Asker(http_request[CLIENT], len(body)))
            prepared = await self.preparation.ready(min(PREPARATION_WAIT_S, self.queue.max_wait_s))
            translation = parse(body, prepared.bounds)
            request = translation.request
            if named := named_session(http_request.headers):
                request = replace(request, named_session=named)
            if request.remote:
                request = request.with_images(await self.images.fetch(request.remote, account))
            return replace(translation, request=request.adapted(prepared.bounds.template)), prepared

    async def _output_check(self, request: CompletionRequest, prepared: Prepared) -> OutputCheck | None:
        """The check of an answer that must have a certain form. Raises InvalidRequest for a bad schema."""
        if (wanted := request.wanted) is None:
            return None
        if wanted.schema is not None:
            await self.counter.json_problem(wanted.schema, None)
        return OutputCheck(wanted, self.counter, prepared.limits, prepared.bounds.template)

    def _record(self, job: Job) -> None:
        """Count and log how the request ended; the relay has released its slot."""
        self.metrics.request_ended(job)
        if job.usage is not None:
            self.counter.check(job.fitted.prompt_tokens, job.usage.prompt_tokens)
        summary = job.summary()
        del summary["request_id"]  # every line of a request has it
        log.info("answered", extra=summary)


def _parse_chat(body: bytes, bounds: Bounds) -> Translation:
    return untranslated(parse_chat(body, bounds))
