"""The one middleware: request id, access checks, and every error as a documented response.

Handlers inside it raise errors of `proxy.errors`; outside it every response has an `x-request-id` and, if it
failed, the OpenAI error object. `connection.py` does the same for what aiohttp refuses before there is a
request.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from proxy import errors
from proxy.http import cors
from proxy.http.access import AccessControl
from proxy.http.body import awaits_continue
from proxy.http.connection import LAST, check_head, check_version, request_began
from proxy.http.responses import REQUEST_ID, add_standard_headers, error_response
from proxy.log.format import current_request_id
from proxy.log.setup import new_request_id

log = logging.getLogger("mlxguard.http")

#: The name of the client that sent the request.
CLIENT = web.RequestKey("client", str)

_ID = web.RequestKey("id", str)

#: Set once the head of a response is on its way.
_BEGUN = web.RequestKey("begun", bool)

#: A client's own request id is used if it has this form, which is harmless in logs and headers.
_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")

#: Paths that need no key and no Host: they reveal nothing, and must work for process managers without a key
#: and for old load balancers that send no Host.
_OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})

#: Paths that only the gateway's own web pages may call, even if other origins are allowed.
_OWN_PATHS = ("/mlxguard", "/metrics")

#: What nginx logs for a client that disconnected before its response; never sent.
_CLIENT_DISCONNECTED = 499


def middleware(access: AccessControl, on_response: Callable[[int], None]) -> Middleware:
    """Build the middleware.

    `on_response` is called with the status of every response except probes: a process manager that polls
    while the model loads would drown out what happens to agents.
    """

    @web.middleware
    async def respond(request: web.Request, handler: Handler) -> web.StreamResponse:
        request_began(request)
        sent = request.headers.get(REQUEST_ID, "")
        request[_ID] = sent if _SAFE_ID.match(sent) else new_request_id()
        token = current_request_id.set(request[_ID])
        status = _CLIENT_DISCONNECTED  # unless the handler returns, rather than being cancelled
        try:
            response = await _respond(request, handler, access)
            status = response.status
        finally:
            if request.path not in _OPEN_PATHS:
                on_response(status)
            current_request_id.reset(token)
        return response

    return respond


async def _respond(request: web.Request, handler: Handler, access: AccessControl) -> web.StreamResponse:
    try:
        response = await _checked(request, handler, access)
    except errors.GatewayError as error:
        _log_refusal(request, error)
        response = _error_response(request, error)
    except web.HTTPException as refusal:
        response = _error_response(request, _translated(refusal))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:  # the outermost frame of ours: a bug becomes a logged 500, never a reset
        log.exception("internal_error")
        response = _error_response(request, errors.InternalError())
    if awaits_continue(request) or request.method == "CONNECT":
        request[LAST] = True  # it is unknown whether a body follows, or another protocol
    if request.get(LAST):
        response.force_close()
    return response


def _error_response(request: web.Request, error: errors.GatewayError) -> web.Response:
    """The response to a request that failed.

    Raises:
        ConnectionResetError: a response has already begun. A second head would be part of its body, so the
            connection closes instead, before the end that the first response announced.
    """
    if request.get(_BEGUN):
        raise ConnectionResetError("the response had begun")
    return error_response(error, request.path)


def _log_refusal(request: web.Request, error: errors.GatewayError) -> None:
    """Log why a request was refused, in our own words and numbers, without any of the text it sent."""
    fields: dict[str, object] = {"status": error.status, "code": error.code, "param": error.param}
    if isinstance(error, errors.PromptTooLong):
        fields |= {"prompt_tokens": error.prompt_tokens, "limit": error.limit}
    if isinstance(error, errors.Unavailable | errors.UpstreamFailed):
        fields["reason"] = error.reason
    resource = request.match_info.route.resource  # the route's pattern, since clients choose paths
    log.info("refused", extra={"path": resource.canonical if resource else None, **fields})


async def _checked(request: web.Request, handler: Handler, access: AccessControl) -> web.StreamResponse:
    check_version(request)
    check_head(request)
    _check_sender(request, access)
    if request.method == "OPTIONS":
        return await cors.options(request)
    if request.path not in _OPEN_PATHS:
        request[CLIENT] = access.client_of(
            request.headers.getall("Authorization", ()), request.headers.getall("x-api-key", ())
        )
    return await handler(request)


def _check_sender(request: web.Request, access: AccessControl) -> None:
    """Check Host, Origin, and an absolute-form target's host, which overrides Host (RFC 9112, 3.2.2)."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host is not None or request.path not in _OPEN_PATHS:
        access.check_host(host)
    if request.raw_path[:1] not in ("/", "*") and request.method != "CONNECT":
        access.check_host(URL(request.raw_path, encoded=True).authority)
    access.check_origin(origin, host, own_only=request.path.startswith(_OWN_PATHS))
    if origin is not None:
        request[cors.ORIGIN] = origin


async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Set the headers that every response has; an `on_response_prepare` signal, so streams have them too."""
    request[_BEGUN] = True
    add_standard_headers(response, request.get(_ID))  # aiohttp refuses some requests before the middleware
    cors.allow(request, response)


def _translated(refusal: web.HTTPException) -> errors.GatewayError:
    """aiohttp's own error for a target that is not a path, as ours."""
    if refusal.status == 404:
        return errors.NotFound("There is nothing at this path.")
    return errors.InvalidRequest("The request could not be understood.")
