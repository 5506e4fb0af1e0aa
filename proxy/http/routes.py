"""The route table as aiohttp serves it, including a catch-all, with "100 Continue" deferred.

By default aiohttp sends "100 Continue" as soon as it has found a route, before any middleware runs, and even
for a path that does not exist. The client would then send a body that is going to be refused.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from aiohttp import web

from proxy import errors

_ANY_PATH = "/{path:.*}"


async def defer_continue(_: web.Request) -> None:
    """Do nothing about `Expect`: `body.read_body` sends "100 Continue" once the body is wanted."""


def table(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """Add a route for all other paths and methods, and defer "100 Continue" on each."""
    everything = (*routes, web.route("*", _ANY_PATH, not_found))
    return [
        web.RouteDef(
            route.method, route.path, route.handler, {**route.kwargs, "expect_handler": defer_continue}
        )
        for route in everything
    ]


async def not_found(request: web.Request) -> NoReturn:
    """Raises MethodNotAllowed if the path exists, else NotFound."""
    if allowed := await allowed_methods(request):
        raise errors.MethodNotAllowed(allowed)
    raise errors.NotFound("There is nothing at this path.")


async def allowed_methods(request: web.Request) -> set[str]:
    """The methods that the request's path has; empty if the path does not exist."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != "/{path}":
            allowed |= (await resource.resolve(request))[1]
    return allowed
