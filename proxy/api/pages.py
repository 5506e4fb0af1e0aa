"""The GET endpoints: models, health, metrics, status and the API description."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from aiohttp import web

from proxy.api import openapi
from proxy.api.metrics import CONTENT_TYPE, Metrics
from proxy.api.status import Status
from proxy.dialects.models import model_list, with_anthropic_fields
from proxy.http.responses import json_response
from proxy.planning.preparation import Preparation
from proxy.request.model_names import ModelNames
from supervisor.lifecycle.state_machine import State


@dataclass(frozen=True, slots=True)
class Pages:
    """Handlers of every GET route."""

    names: ModelNames
    preparation: Preparation
    status: Status
    metrics: Metrics

    async def livez(self, _: web.Request) -> web.Response:
        """200 while the gateway runs, whatever the child's state."""
        return json_response({"status": "ok"})

    async def readyz(self, _: web.Request) -> web.Response:
        """200 while requests are being served, else 503 with the reason."""
        child = self.status.child()
        if child.state is not State.READY:
            reason = child.explanation or f"the model server is {child.state}"
        elif self.preparation.prepared is None:
            reason = self.preparation.failure or "the tokenizer is still loading"
        else:
            return json_response({"status": "ok"})
        return json_response({"status": "unavailable", "state": child.state, "reason": reason}, status=503)

    async def hello(self, _: web.Request) -> web.Response:
        """200: Claude Code asks at its start whether there is a server."""
        return web.Response()

    async def models(self, _: web.Request) -> web.Response:
        return json_response(model_list([self._model()]))

    async def model(self, request: web.Request) -> web.Response:
        self.names.check(request.match_info["id"])
        return json_response(self._model())

    async def api_status(self, _: web.Request) -> web.Response:
        return json_response(self.status.document())

    async def exposition(self, _: web.Request) -> web.Response:
        return web.Response(body=self.metrics.exposition(), headers={"Content-Type": CONTENT_TYPE})

    async def openapi(self, _: web.Request) -> web.Response:
        return json_response(openapi.document(version("mlxguard-proxy")))

    def _model(self) -> dict[str, Any]:
        """The served model, with its context length under each name that some agent reads."""
        entry: dict[str, Any] = {
            "id": self.names.served,
            "object": "model",
            "created": self.status.started_at,
            "owned_by": "mlxguard-proxy",
        }
        prepared = self.preparation.prepared
        if prepared is None:
            return with_anthropic_fields(entry)
        context, limit = prepared.limits.context_length, prepared.limits.max_prompt_tokens
        for name in ("context_length", "max_model_len", "context_window"):
            entry[name] = limit
        entry["meta"] = {"n_ctx": limit, "n_ctx_train": context}
        return with_anthropic_fields(entry)
