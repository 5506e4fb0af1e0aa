"""The edge: who may come in, under which id, and how every error leaves.

One middleware. Inside it a handler raises errors of `proxy.errors`; outside it every answer, also to a
request that aiohttp itself refuses, has an `x-request-id` and, if it failed, the OpenAI error object.
"""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import logging
import re
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from random import randint
from secrets import token_hex

import orjson
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from proxy import errors
from proxy.logs import request_id as request_id_var

log = logging.getLogger("mlxguard.edge")

REQUEST_ID = "x-request-id"
SERVER = "mlxguard-proxy"
CLIENT = web.RequestKey("client", str)
_ID = web.RequestKey("id", str)

#: A client's own request id is taken over when it is harmless in logs and headers.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")

#: Probes tell nothing and must work for a process manager that has no key.
_OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})

_ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Admittance:
    """Who may come in.

    Attributes:
        keys: bearer key -> the name it goes by in logs and in the queue; empty lets everyone in.
        hosts: names that a Host header may carry, lower-case, without port; addresses of this machine
            are always allowed when `any_address` is set.
        origins: web origins that may call, as browsers send them; empty lets no web page in.
        any_address: the proxy listens beyond loopback, so any IP address is a plausible Host.
    """

    keys: Mapping[str, str]
    hosts: Collection[str]
    origins: Collection[str]
    any_address: bool = False

    def check_host(self, header: str | None) -> None:
        """Refuse names that are not ours: a rebound DNS name points here, but its Host gives it away.

        Raises:
            Forbidden: the Host header is missing, malformed or names another host.
        """
        host = _host_of(header or "")
        if host in self.hosts or (self.any_address and _is_address(host)):
            return
        raise errors.Forbidden("This Host is not allowed; see [server] allowed_hosts.")

    def check_origin(self, header: str | None) -> None:
        """Refuse web pages that are not listed.

        Raises:
            Forbidden: an Origin header is present and not allowed.
        """
        if header is not None and header not in self.origins:
            raise errors.Forbidden("This Origin is not allowed; see [server] allowed_origins.")

    def client_of(self, authorization: str | None) -> str:
        """The name of the client that this Authorization header belongs to.

        Raises:
            Unauthorized: keys are configured and this is none of them.
        """
        if not self.keys:
            return _ANONYMOUS
        scheme, _, sent = (authorization or "").partition(" ")
        found = _ANONYMOUS
        for key, name in self.keys.items():  # every key is compared, so that time tells nothing
            if hmac.compare_digest(key.encode(), sent.strip().encode()):
                found = name
        if scheme.lower() != "bearer" or found == _ANONYMOUS:
            raise errors.Unauthorized("Missing or unknown API key.")
        return found


def _host_of(header: str) -> str:
    """The host part of a Host header: without port, brackets, trailing dot, lower-case (RFC 9110, 7.2)."""
    host = header.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0].rstrip(".") if host.count(":") == 1 else host.rstrip(".")


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def middleware(admittance: Admittance, settle: Callable[[web.Request, int, float], None]) -> Middleware:
    """The one middleware. `settle(request, status, seconds)` is called once for every request, at its end."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        request[_ID] = _request_id(request)
        token = request_id_var.set(request[_ID])
        status = 499  # nginx's word for a client that left: what stays if the handler is cancelled
        try:
            response = await _answer(request, handler, admittance)
            status = response.status
        finally:
            settle(request, status, time.monotonic() - started)
            request_id_var.reset(token)
        return response

    return edge


async def _answer(request: web.Request, handler: Handler, admittance: Admittance) -> web.StreamResponse:
    try:
        admittance.check_host(request.headers.get("Host"))
        admittance.check_origin(request.headers.get("Origin"))
        if request.path not in _OPEN_PATHS:
            request[CLIENT] = admittance.client_of(request.headers.get("Authorization"))
        response = await handler(request)
    except errors.GuardError as error:
        response = error_response(error)
    except web.HTTPException as refusal:
        response = error_response(_translated(refusal))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:  # the outermost frame of ours: a bug becomes a logged 500, never a reset
        log.exception("internal_error")
        response = error_response(errors.InternalError())
    return response


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id on every answer, also on a stream (an `on_response_prepare` signal)."""
    response.headers[REQUEST_ID] = request[_ID]
    response.headers["Server"] = SERVER


def _request_id(request: web.Request) -> str:
    sent = request.headers.get(REQUEST_ID, "")
    return sent if _SANE_ID.match(sent) else f"req-{token_hex(8)}"


def _translated(refusal: web.HTTPException) -> errors.GuardError:
    """What aiohttp's router and body reader say, in our tree."""
    if refusal.status == 413:
        return errors.BodyTooLarge("The request body is larger than [server] max_body_bytes.")
    if refusal.status == 405:
        return errors.MethodNotAllowed("This path does not take this method.")
    if refusal.status == 404:
        return errors.NotFound("There is nothing at this path.")
    return errors.InvalidRequest("The request could not be understood.")


def error_response(error: errors.GuardError) -> web.Response:
    """An error as its JSON answer, with what tells agents whether and when to come back."""
    retry_after_s = randint(*errors.RETRY_AFTER_RANGE)
    return web.Response(
        body=orjson.dumps(error.body()),
        status=error.status,
        headers=error.headers(retry_after_s),
        content_type="application/json",
    )


async def read_body(request: web.Request, *, timeout_s: float) -> bytes:
    """The whole body; aiohttp enforces `max_body_bytes`, also for chunked bodies.

    Raises:
        BodyTimeout: it did not arrive in time.
        web.HTTPRequestEntityTooLarge: it is too large.
    """
    try:
        async with asyncio.timeout(timeout_s):
            return await request.read()
    except TimeoutError:
        raise errors.BodyTimeout("The request body did not arrive in time.") from None
