"""The way to the child for the gateway's own requests: they evict entries and work around defects of mlx-lm.

They are small, are counted apart from users' requests, and never run next to an isolated suspect, since a
crash then must be that suspect's doing. A death while one is at the child blames no request
(proxy/relay/quarantine.py).
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Literal

import orjson

from proxy.cache.client import CacheClient
from proxy.gate.gate import Gate
from proxy.request.completion import ChatPrompt, Prompt, TextPrompt
from proxy.upstream.broken import UpstreamBroken
from proxy.upstream.client import Upstream
from supervisor.child.generation import NotReady
from supervisor.supervisor import Supervisor

log = logging.getLogger("mlxguard.internal_requests")

InternalRequestKind = Literal["eviction", "search_shortcut", "exact_hit"]


class InternalRequests:
    """Sends internal requests, one for each call; any number may be out together.

    `on_sent`: called at the end of each with its kind, whether the child answered, and the seconds it took.
    `out`: how many are at the child now.
    """

    def __init__(
        self,
        supervisor: Supervisor,
        gate: Gate,
        upstream: Upstream,
        cache: CacheClient,
        *,
        on_sent: Callable[[InternalRequestKind, bool, float], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._supervisor = supervisor
        self._gate = gate
        self._upstream = upstream
        self._cache = cache
        self._on_sent = on_sent
        self._clock = clock
        self._numbers = itertools.count(1)
        self.out = 0

    async def send(
        self, kind: InternalRequestKind, body: Mapping[str, Any], *, abandon: bool = False
    ) -> bool:
        """Predict, deliver and record one, as its entries change what later requests find in the cache.

        Arguments and result as for `deliver`. One that is an exact hit itself is not sent: it would kill the
        child.
        """
        id, answered = f"{kind}-{next(self._numbers)}", False
        await self._cache.predict(id, _prompt(body))
        prediction = await self._cache.ask(id)
        try:
            if not (prediction and prediction.exact_hit):
                answered = await self.deliver(kind, body, abandon=abandon)
        finally:
            if answered:
                self._cache.read(id, None)
            self._cache.ended(id, 1, None, complete=answered and not abandon)
        return answered

    async def deliver(
        self, kind: InternalRequestKind, body: Mapping[str, Any], *, abandon: bool = False
    ) -> bool:
        """Ask the child at once, or not at all; its caller has predicted it, and records it.

        There is no time limit: a child that answers nothing is found by its watch, and then is dead.

        Args:
            body: one with `messages` is a chat, any other a completion.
            abandon: disconnect as soon as the child begins to answer; it ends the request at its next write.

        Returns False if the child did not answer: it is not ready, a suspect has it to itself, or it refused.
        """
        with self._gate.internal_request() as allowed:
            if not allowed:
                return False
            began = self._clock()
            self.out += 1
            try:
                answered = await self._ask(kind, body, abandon=abandon)
            finally:
                self.out -= 1
        self._on_sent(kind, answered, self._clock() - began)
        return answered

    async def _ask(self, kind: InternalRequestKind, body: Mapping[str, Any], *, abandon: bool) -> bool:
        path = "/v1/chat/completions" if "messages" in body else "/v1/completions"
        whole = orjson.dumps({**body, "model": "default_model", "stream": abandon})
        try:
            generation = await self._supervisor.ready(0)
            with generation.busy():
                async with self._upstream.post(generation, path, whole) as exchange:
                    while not abandon and await exchange.read():
                        pass  # the child is done with it only at its end
                    if exchange.status != HTTPStatus.OK:
                        extra = {"kind": kind, "status": exchange.status}
                        log.warning("internal_request_refused", extra=extra)
                    return exchange.status == HTTPStatus.OK
        except NotReady:
            return False
        except UpstreamBroken as broken:
            log.warning("internal_request_failed", extra={"kind": kind, "how": broken.how.name.lower()})
            return False


def _prompt(body: Mapping[str, Any]) -> Prompt:
    return ChatPrompt(tuple(body["messages"])) if "messages" in body else TextPrompt(body["prompt"])
