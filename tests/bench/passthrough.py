"""The least that an aiohttp proxy can be: reads a body, asks the server behind it, passes on what comes.

    python -m tests.bench.passthrough PORT UPSTREAM_PORT

It has no policy at all; what the guard costs is measured against it.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import aiohttp
from aiohttp import web


class Passthrough:
    def __init__(self, upstream: str) -> None:
        self._upstream = upstream

    async def session(self, _: web.Application) -> AsyncIterator[None]:
        async with aiohttp.ClientSession() as self._http:
            yield

    async def handle(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        headers = {"Content-Type": "application/json"}
        async with self._http.post(self._upstream + request.path, data=body, headers=headers) as answer:
            response = web.StreamResponse(
                status=answer.status, headers={"Content-Type": answer.headers["Content-Type"]}
            )
            response.content_length = answer.content_length
            await response.prepare(request)
            async for data in answer.content.iter_any():
                await response.write(data)
            await response.write_eof()
            return response


def main() -> None:
    port, upstream = (int(word) for word in sys.argv[1:])
    passthrough = Passthrough(f"http://127.0.0.1:{upstream}")
    app = web.Application(client_max_size=2**26)
    app.cleanup_ctx.append(passthrough.session)
    app.router.add_post("/{path:.*}", passthrough.handle)
    app.router.add_get("/livez", lambda _: _alive())
    web.run_app(app, host="127.0.0.1", port=port, access_log=None, print=None)


async def _alive() -> web.Response:
    return web.json_response({"status": "ok"})


if __name__ == "__main__":
    main()
