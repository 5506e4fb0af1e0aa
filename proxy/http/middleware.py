"""The edge: who may come in, under which id, how a body is read, and how every error leaves.

One middleware. Inside it a handler raises errors of `proxy.errors`; outside it every answer has an
`x-request-id` and, if it failed, the OpenAI error object. What aiohttp refuses before there is a request
is answered alike by `connection.py`.
"""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from proxy import errors
from proxy.http import cors
from proxy.http.access import AccessControl
from proxy.http.body import _awaits_continue
from proxy.http.connection import LAST, began, check_head, check_version
from proxy.http.responses import REQUEST_ID, error_response, identify
from proxy.log.format import request_id as request_id_var
from proxy.log.setup import new_request_id

log = logging.getLogger("mlxguard.edge")

CLIENT = web.RequestKey("client", str)
_ID = web.RequestKey("id", str)

#: A client's own request id is taken over when it is harmless in logs and headers.
_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")

#: Probes tell nothing and must work for a process manager that has no key, or an old balancer that sends
#: no Host.
_OPEN_PATHS = frozenset({"/livez", "/readyz", "/health"})

#: What no web page but our own may call, listed or not: the dashboard's data, administration.
_OWN_PATHS = ("/mlxguard", "/metrics")


def middleware(admittance: AccessControl, settle: Callable[[web.Request, int, float], None]) -> Middleware:
    """The one middleware. `settle(request, status, seconds)` is called at the end of every request but
    probes: a process manager that polls while the model loads would drown what happens to agents."""

    @web.middleware
    async def edge(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.monotonic()
        began(request)
        request[_ID] = _request_id(request)
        token = request_id_var.set(request[_ID])
        status = 499  # nginx's word for a client that left: what stays if the handler is cancelled
        try:
            response = await _answer(request, handler, admittance)
            status = response.status
        finally:
            if request.path not in _OPEN_PATHS:
                settle(request, status, time.monotonic() - started)
            request_id_var.reset(token)
        return response

    return edge


async def _answer(request: web.Request, handler: Handler, admittance: AccessControl) -> web.StreamResponse:
    try:
        response = await _admitted(request, handler, admittance)
    except errors.GuardError as error:
        _log_refusal(request, error)
        response = error_response(error)
    except web.HTTPException as refusal:
        response = error_response(_translated(refusal))
    except (ConnectionResetError, asyncio.CancelledError):
        raise
    except Exception:  # the outermost frame of ours: a bug becomes a logged 500, never a reset
        log.exception("internal_error")
        response = error_response(errors.InternalError())
    if _awaits_continue(request) or request.method == "CONNECT":
        request[LAST] = True  # whether a body follows, or another protocol, nobody can tell
    if request.get(LAST):
        response.force_close()
    return response


def _log_refusal(request: web.Request, error: errors.GuardError) -> None:
    """Why an agent was refused, for who runs it; our own words and numbers, nothing of the request's text."""
    fields: dict[str, object] = {"status": error.status, "code": error.code, "param": error.param}
    if isinstance(error, errors.PromptTooLong):
        fields |= {"prompt_tokens": error.prompt_tokens, "limit": error.limit}
    if isinstance(error, errors.Unavailable | errors.UpstreamFailed):
        fields["reason"] = error.reason
    resource = request.match_info.route.resource  # strangers choose paths; routes are ours
    log.info("refused", extra={"path": resource.canonical if resource else None, **fields})


async def _admitted(request: web.Request, handler: Handler, admittance: AccessControl) -> web.StreamResponse:
    check_version(request)
    check_head(request)
    _check_sender(request, admittance)
    if request.method == "OPTIONS":
        return await cors.options(request)
    if request.path not in _OPEN_PATHS:
        request[CLIENT] = admittance.client_of(request.headers.getall("Authorization", ()))
    return await handler(request)


def _check_sender(request: web.Request, admittance: AccessControl) -> None:
    """Host and Origin; of an absolute-form target its own host too, which HTTP puts above Host
    (RFC 9112, 3.2.2)."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if host is not None or request.path not in _OPEN_PATHS:
        admittance.check_host(host)
    if request.raw_path[:1] not in ("/", "*") and request.method != "CONNECT":
        admittance.check_host(URL(request.raw_path, encoded=True).authority)
    admittance.check_origin(origin, host, own_only=request.path.startswith(_OWN_PATHS))
    if origin is not None:
        request[cors.ORIGIN] = origin


async def sign(request: web.Request, response: web.StreamResponse) -> None:
    """Put on what every answer has, also a stream (an `on_response_prepare` signal)."""
    identify(response, request.get(_ID))  # aiohttp refuses some expectations before the middleware
    cors.allow(request, response)


def _request_id(request: web.Request) -> str:
    sent = request.headers.get(REQUEST_ID, "")
    return sent if _SANE_ID.match(sent) else new_request_id()


def _translated(refusal: web.HTTPException) -> errors.GuardError:
    """What aiohttp's router says of targets that are no paths, in our tree."""
    if refusal.status == 404:
        return errors.NotFound("There is nothing at this path.")
    return errors.InvalidRequest("The request could not be understood.")


# --- bodies -------------------------------------------------------------------------------------------
