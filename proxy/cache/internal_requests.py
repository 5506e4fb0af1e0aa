"""Requests of the proxy's own to the child: they displace what it keeps, cure its search, evade a key.

They are tiny, are counted apart from what users ask, and never share the child with a suspect that runs
alone: what happens then must be that one's doing. A death while one is out blames nobody (inquest.py).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager
from http import HTTPStatus
from typing import Any, Literal, Protocol

import orjson

from proxy.upstream.broken import UpstreamBroken
from proxy.upstream.client import Upstream
from proxy.upstream.exchange import Exchange, GenerationLike
from supervisor.child.generation import NotReady

log = logging.getLogger("mlxguard.synthetic")

GrowthKind = Literal["displace", "cure", "evade"]


class SupervisorLike(Protocol):
    """What is used of supervisor.supervisor.Supervisor."""

    def ready(self, timeout_s: float) -> Awaitable[GenerationLike]: ...


class GateLike(Protocol):
    """What is used of proxy.gate.gate.Gate."""

    def errand(self) -> AbstractContextManager[bool]: ...


class InternalRequests:
    """Sends them, one call each; any number may be out together.

    Args:
        on_sent: told of each at its end: its kind, whether the child answered, and the seconds it took.
    """

    def __init__(
        self,
        supervisor: SupervisorLike,
        gate: GateLike,
        upstream: Upstream,
        *,
        on_sent: Callable[[GrowthKind, bool, float], None] = lambda *_: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._upstream = upstream
        self._on_sent = on_sent
        self._clock = clock
        self._out = 0

    @property
    def out(self) -> int:
        """How many the child has now."""
        return self._out

    async def send(self, kind: GrowthKind, body: Mapping[str, Any], *, abandon: bool = False) -> bool:
        """Ask the child at once, or not at all. A body with `messages` is a chat, else a completion.

        There is no time limit here: a child that answers nothing is found out by its watch, and then is dead.

        Args:
            abandon: leave as soon as the child has begun to answer; it ends the request at its next write.

        Returns:
            False if the child did not answer: it does not serve, a suspect has it alone, or it refused.
        """
        with self._gate.errand() as allowed:
            if not allowed:
                return False
            began = self._clock()
            self._out += 1
            try:
                answered = await self._ask(kind, body, abandon=abandon)
            finally:
                self._out -= 1
        self._on_sent(kind, answered, self._clock() - began)
        return answered

    async def _ask(self, kind: GrowthKind, body: Mapping[str, Any], *, abandon: bool) -> bool:
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        whole = orjson.dumps({**body, "model": "default_model", "stream": abandon})
        try:
            generation = await self._supervisor.ready(0)
            with generation.busy():
                async with self._upstream.post(generation, path, whole) as exchange:
                    if not abandon:
                        await _to_the_end(exchange)
                    return _was_served(kind, exchange)
        except NotReady:
            return False
        except UpstreamBroken as broken:
            log.warning("own_request_broke", extra={"kind": kind, "how": broken.how.name.lower()})
            return False


async def _to_the_end(exchange: Exchange) -> None:
    """The child is done with it only then."""
    while await exchange.read():
        pass


def _was_served(kind: GrowthKind, exchange: Exchange) -> bool:
    if exchange.status != HTTPStatus.OK:
        log.warning("own_request_refused", extra={"kind": kind, "status": exchange.status})
    return exchange.status == HTTPStatus.OK
