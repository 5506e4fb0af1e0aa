"""OPTIONS, and what a browser must be told before an allowed web page may read an answer.

Which origins are allowed is decided before; see the Fetch standard, "HTTP extensions", for the headers.
"""

from __future__ import annotations

import re

from aiohttp import web

from proxy import errors
from proxy.http import routes

#: The Origin of a request whose origin was allowed.
ORIGIN = web.RequestKey("origin", str)

#: Field names as a preflight lists them; what does not look like it is not echoed.
_FIELD_NAMES = re.compile(r"[A-Za-z0-9_, -]{1,2000}\Z")

_EXPOSED = (
    "x-request-id, retry-after, x-should-retry, x-mlxguard-prompt-tokens, x-mlxguard-queue-ms, "
    "x-mlxguard-attempts, x-mlxguard-max-tokens, x-mlxguard-truncated"
)


async def options(request: web.Request) -> web.Response:
    """The methods of a path; to a preflight also that it may go on. Needs no key: a preflight has none.

    Raises:
        NotFound: there is nothing at this path.
    """
    allowed = ", ".join(sorted(await _methods(request)))
    response = web.Response(status=204, headers={"Allow": allowed})
    if "Access-Control-Request-Method" in request.headers and ORIGIN in request:
        response.headers["Access-Control-Allow-Methods"] = allowed
        response.headers["Access-Control-Max-Age"] = "600"
        names = request.headers.get("Access-Control-Request-Headers", "")
        if _FIELD_NAMES.match(names):
            response.headers["Access-Control-Allow-Headers"] = names
        if request.headers.get("Access-Control-Request-Private-Network") == "true":
            response.headers["Access-Control-Allow-Private-Network"] = "true"
    return response


def allow(request: web.Request, response: web.StreamResponse) -> None:
    """Let the page that asked read the answer. `Vary`, so that no cache gives it to another."""
    origin = request.get(ORIGIN)
    if origin is None:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    response.headers["Vary"] = "Origin"


async def _methods(request: web.Request) -> set[str]:
    if request.raw_path == "*":
        return {"GET", "HEAD", "OPTIONS", "POST"}
    if allowed := await routes.methods(request):
        return {*allowed, "OPTIONS"}
    raise errors.NotFound("There is nothing at this path.")
