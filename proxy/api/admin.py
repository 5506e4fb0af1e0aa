"""Administration over HTTP: restart the child in order, and cancel a running request."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from proxy.errors import NotFound, Unavailable
from proxy.http.responses import json_response
from proxy.relay.registry import Registry
from supervisor.lifecycle.state_machine import IllegalEvent

log = logging.getLogger("mlxguard.admin")


@dataclass(frozen=True, slots=True)
class AdminActions:
    """Handlers of POST /mlxguard/api/...; the middleware has checked the key.

    `recycle_child`: asks the supervisor for a restart; the argument is the reason for the log.
    """

    recycle_child: Callable[[str], Awaitable[None]]
    registry: Registry

    async def recycle(self, _: web.Request) -> web.Response:
        """Restart the child, also after the supervisor gave up; responds before the restart is complete.

        Raises:
            Unavailable: the gateway is stopping.
        """
        try:
            await self.recycle_child("requested over HTTP")
        except IllegalEvent:
            raise Unavailable("stopping") from None
        return json_response({"status": "recycling"}, status=202)

    async def cancel(self, request: web.Request) -> web.Response:
        """Cancel the request with this answer id or request id; its client gets the error `cancelled`.

        Raises:
            NotFound: no running request has this id.
        """
        wanted = request.match_info["id"]
        if not self.registry.cancel(wanted):
            raise NotFound("No running request has this id.")
        log.info("cancelled", extra={"id": wanted})
        return json_response({"status": "cancelling", "id": wanted}, status=202)
