"""OPTIONS requests, and the CORS headers that let an allowed web page read responses.

The middleware has decided by then which origins are allowed. The headers are those of the Fetch standard,
"HTTP extensions".
"""

from __future__ import annotations

import re

from aiohttp import web

from proxy import errors
from proxy.http import routes

#: The Origin of a request, set once that origin was allowed.
ORIGIN = web.RequestKey("origin", str)

#: Field names as a preflight lists them; a value of any other form is not echoed.
_FIELD_NAMES = re.compile(r"[A-Za-z0-9_, -]{1,2000}\Z")

_EXPOSED = (
    "x-request-id, retry-after, x-should-retry, x-mlxguard-prompt-tokens, x-mlxguard-queue-ms, "
    "x-mlxguard-attempts, x-mlxguard-max-tokens, x-mlxguard-truncated, "
    "x-mlxguard-mended, x-mlxguard-left-out, x-mlxguard-ignored, x-mlxguard-tool-calls, "
    "x-mlxguard-structured-output"
)


async def options(request: web.Request) -> web.Response:
    """Answer OPTIONS with the methods of the path, and a preflight with its permission.

    Needs no key: browsers send preflights without one.

    Raises:
        NotFound: the path does not exist.
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
    """Let the page that sent the request read the response. `Vary` keeps caches from sharing it."""
    origin = request.get(ORIGIN)
    if origin is None:
        return
    response.headers["Access-Control-Allow-Origin"] = origin
    response.headers["Access-Control-Expose-Headers"] = _EXPOSED
    response.headers["Vary"] = "Origin"


async def _methods(request: web.Request) -> set[str]:
    if request.raw_path == "*":
        return {"GET", "HEAD", "OPTIONS", "POST"}
    if allowed := await routes.allowed_methods(request):
        return {*allowed, "OPTIONS"}
    raise errors.NotFound("There is nothing at this path.")
