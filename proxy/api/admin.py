"""What an administrator may do over HTTP: restart the child in order, and end a request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import orjson
from aiohttp import web

from proxy.errors import NotFound, Unavailable
from proxy.relay.registry import Registry
from supervisor.supervisor import IllegalEvent

log = logging.getLogger("mlxguard.actions")

Recycle = Callable[[str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class AdminActions:
    """POST /mlxguard/api/...; the edge has asked for the key, if there are any."""

    recycle_child: Recycle
    registry: Registry

    async def recycle(self, _: web.Request) -> web.Response:
        """Restart the child as planned, or try again after giving up. Answers before it is done.

        Raises:
            Unavailable: the proxy is stopping.
        """
        try:
            await self.recycle_child("asked for over HTTP")
        except IllegalEvent:
            raise Unavailable("stopping") from None
        return _accepted({"status": "recycling"})

    async def cancel(self, request: web.Request) -> web.Response:
        """End the request with this answer id or request id; its client is told by the contract.

        Raises:
            NotFound: none is running under this id.
        """
        wanted = request.match_info["id"]
        if not self.registry.cancel(wanted):
            raise NotFound("No running request has this id.")
        log.info("cancelled", extra={"id": wanted})
        return _accepted({"status": "cancelling", "id": wanted})

    def routes(self) -> list[web.RouteDef]:
        return [
            web.post("/mlxguard/api/recycle", self.recycle),
            web.post("/mlxguard/api/requests/{id}/cancel", self.cancel),
        ]


def _accepted(document: dict[str, str]) -> web.Response:
    return web.Response(body=orjson.dumps(document), status=202, content_type="application/json")
