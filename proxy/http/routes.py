"""The table of routes as it is served: all of them, also what there is no route for, are checked before they
answer an `Expect`.

aiohttp sends "100 Continue" for a request as soon as its route is known, before any middleware; also for a
path that does not exist. Then a client sends a body that nobody wants, to somebody who may refuse it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NoReturn

from aiohttp import web

from proxy import errors

_ANY_PATH = "/{path:.*}"


async def later(_: web.Request) -> None:
    """An `expect_handler`: "100 Continue" is only sent when the body is about to be read (`edge.read_body`),
    so that nothing is sent for a request that is refused by its head."""


def table(routes: Iterable[web.RouteDef]) -> list[web.RouteDef]:
    """The routes, and one for all other paths and methods."""
    everything = (*routes, web.route("*", _ANY_PATH, nowhere))
    return [
        web.RouteDef(route.method, route.path, route.handler, {**route.kwargs, "expect_handler": later})
        for route in everything
    ]


async def nowhere(request: web.Request) -> NoReturn:
    """Raises MethodNotAllowed or NotFound."""
    if allowed := await methods(request):
        raise errors.MethodNotAllowed(allowed)
    raise errors.NotFound("There is nothing at this path.")


async def methods(request: web.Request) -> set[str]:
    """The methods of the request's path; none if there is nothing."""
    allowed: set[str] = set()
    for resource in request.app.router.resources():
        if resource.canonical != "/{path}":
            allowed |= (await resource.resolve(request))[1]
    return allowed
