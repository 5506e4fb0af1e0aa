"""HTTP/1.1 as our connections speak it, over raw sockets: h1spec's list, and what RFC 9112 asks for.

h1spec (github.com/uNetworking/h1spec, a Deno script, in no package registry) tests a server that echoes any
body for any method at `/`. So does the server here, behind the gateway's own connections, middleware and
routes. Its 33 cases are repeated here with the statuses that it expects; the full names are its own.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from proxy.config.settings import ServerSettings
from proxy.http import body, middleware, routes
from proxy.http.access import AccessControl
from proxy.http.body_budget import BodyAccount, BodyBudget
from proxy.http.connection import Site
from proxy.http.early_listener import EarlyListener
from tests.support.http_stand import close

SETTINGS = ServerSettings(max_body_bytes=10_000, body_timeout_s=5)
HOST = "Host: example.com\r\n"
GET = f"GET / HTTP/1.1\r\n{HOST}"
POST = f"POST / HTTP/1.1\r\n{HOST}"
OK, REFUSED = range(200, 300), range(400, 500)


async def _echo(request: web.Request) -> web.Response:
    return web.Response(body=await body.read_body(request, SETTINGS, BodyAccount(BodyBudget(10**6))))


async def echo_site() -> tuple[web.AppRunner, int]:
    """A running echo behind the gateway's own middleware, and its port."""
    access = AccessControl(keys={}, hosts={"example.com", "127.0.0.1", "localhost"}, origins=())
    app = web.Application(middlewares=[middleware.middleware(access, lambda *_: None)])
    app.on_response_prepare.append(middleware.add_headers)
    app.add_routes(routes.table([web.route("*", "/", _echo), web.route("*", "/hello", _echo)]))
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=1)
    await runner.setup()
    sock = socket.create_server(("127.0.0.1", 0))
    await Site(runner, await EarlyListener.open(sock), SETTINGS, lambda _: None).start()
    return runner, sock.getsockname()[1]


@pytest.fixture
async def port() -> AsyncIterator[int]:
    runner, port = await echo_site()
    yield port
    await runner.cleanup()


async def first_answer(port: int, sent: str) -> tuple[int, bytes]:
    """Status and body of the first answer that is not interim."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.encode("latin-1"))
    try:
        async with asyncio.timeout(10):
            head = await reader.readuntil(b"\r\n\r\n")
            if head.startswith(b"HTTP/1.1 100"):
                head = await reader.readuntil(b"\r\n\r\n")
            found = re.search(rb"content-length: (\d+)", head.lower())
            body = await reader.readexactly(int(found[1])) if found else b""
    finally:
        await close(writer)
    return int(head.split()[1]), body


# --- h1spec ---------------------------------------------------------------------------------------------

#: An incomplete request, cut wherever h1spec cuts it.
FRAGMENTS = {
    "method": "G",
    "URL 1": "GET ",
    "URL 2": "GET /hello",
    "URL 3": "GET /hello ",
    "HTTP version": "GET /hello HTTP",
    "request line": "GET /hello HTTP/1.1",
    "request line newline 1": "GET /hello HTTP/1.1\r",
    "request line newline 2": "GET /hello HTTP/1.1\r\n",
    "field name": "GET /hello HTTP/1.1\r\nHos",
    "field value 1": "GET /hello HTTP/1.1\r\nHost:",
    "field value 2": "GET /hello HTTP/1.1\r\nHost: ",
    "field value 3": "GET /hello HTTP/1.1\r\nHost: localhost",
    "field value 4": "GET /hello HTTP/1.1\r\nHost: localhost\r",
    "request": "GET /hello HTTP/1.1\r\nHost: localhost\r\n",
    "request termination": "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r",
}


async def test_a_server_waits_for_the_rest_of_a_fragment(port: int) -> None:
    """All at once, and each is finished afterwards: nothing but waiting was done to it."""
    whole = "GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n"
    opened = [await asyncio.open_connection("127.0.0.1", port) for _ in FRAGMENTS]
    for (_, writer), fragment in zip(opened, FRAGMENTS.values(), strict=True):
        writer.write(fragment.encode())
    answers = [asyncio.ensure_future(reader.read(1)) for reader, _ in opened]
    await asyncio.wait(answers, timeout=0.5)
    answered = [name for name, answer in zip(FRAGMENTS, answers, strict=True) if answer.done()]
    assert answered == []
    for (_, writer), fragment in zip(opened, FRAGMENTS.values(), strict=True):
        writer.write(whole.removeprefix(fragment).encode())
    for (reader, _), answer in zip(opened, answers, strict=True):
        assert await asyncio.wait_for(answer, 10) + await reader.readuntil(b"\r\n") == b"HTTP/1.1 200 OK\r\n"
    await close(*(writer for _, writer in opened))


H1SPEC: dict[str, tuple[str, range]] = {
    "Request without HTTP version": ("GET / \r\n\r\n", range(400, 600)),
    "Request with Expect header": (f"{GET}Expect: 100-continue\r\n\r\n", OK),
    "Valid GET request": (f"{GET}\r\n", OK),
    "Valid GET request with edge cases": ("GET / HTTP/1.1\r\nhoSt:\texample.com\r\nempty:\r\n\r\n", OK),
    "Invalid header characters": (f"{GET}X-Invalid[]: test\r\n\r\n", REFUSED),
    "Missing Host header": ("GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\n", REFUSED),
    "Multiple Host headers": (f"{GET}Host: example.org\r\n\r\n", REFUSED),
    "Overflowing negative Content-Length header": (
        f"{GET}Content-Length: -{'123456789' * 3}\r\n\r\n",
        REFUSED,
    ),
    "Negative Content-Length header": (f"{GET}Content-Length: -1234\r\n\r\n", REFUSED),
    "Non-numeric Content-Length header": (f"{GET}Content-Length: abc\r\n\r\n", REFUSED),
    "Empty header value": (f"{GET}X-Empty-Header: \r\n\r\n", OK),
    "Header containing invalid control character": (f"{GET}X-Bad-Control-Char: test\x07\r\n\r\n", REFUSED),
    "Invalid HTTP version": (f"GET / HTTP/9.9\r\n{HOST}\r\n", range(400, 600)),
    "Invalid prefix of request": (f"Extra line{GET}\r\n", range(400, 600)),
    "Invalid line ending": (f"{GET}\rSome-Header: Test\r\n\r\n", REFUSED),
    "Valid POST request with body": (f"{POST}Content-Length: 5\r\n\r\nhello", OK),
    "Chunked Transfer-Encoding": (
        f"{POST}Transfer-Encoding: chunked\r\n\r\nc\r\nHellO world1\r\n0\r\n\r\n",
        OK,
    ),
    "Conflicting Transfer-Encoding and Content-Length in varying case": (
        f"{POST}content-LengtH: 5\r\nTransFer-Encoding: chunked\r\n\r\nc\r\nHellO world1\r\n0\r\n\r\n",
        REFUSED,
    ),
}


@pytest.mark.parametrize("name", H1SPEC)
async def test_h1spec(port: int, name: str) -> None:
    sent, statuses = H1SPEC[name]
    status, body = await first_answer(port, sent)
    assert status in statuses
    if statuses is OK and sent.startswith("POST"):
        assert body == (b"HellO world1" if "chunked" in sent else b"hello")


def test_all_of_h1spec_is_here() -> None:
    assert len(FRAGMENTS) + len(H1SPEC) == 33


# --- RFC 9112 ---------------------------------------------------------------------------------------------

#: section, what it says -> request, status
RFC_9112: dict[str, tuple[str, int]] = {
    "2.2 an empty line before the request line is skipped": (f"\r\n{GET}\r\n", 200),
    "2.2 space between the request line and the first field is refused": (
        f"GET / HTTP/1.1\r\n {HOST}\r\n",
        400,
    ),
    "2.2 a bare CR is refused": (f"{GET}X: a\rb\r\n\r\n", 400),
    "2.3 a version is case-sensitive": (f"GET / http/1.1\r\n{HOST}\r\n", 400),
    "2.3 a version has one digit each": (f"GET / HTTP/1.10\r\n{HOST}\r\n", 400),
    "3 words of the request line may be further apart": (f"GET  / HTTP/1.1\r\n{HOST}\r\n", 200),
    "3.2 two Host fields are refused": (f"{GET}Host: example.com\r\n\r\n", 400),
    "3.2 an invalid Host is refused": ("GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 403),
    "3.2 no Host is refused in HTTP/1.1": ("GET / HTTP/1.1\r\n\r\n", 400),
    "3.2.1 a fragment is no part of a target": (f"GET /#x HTTP/1.1\r\n{HOST}\r\n", 400),
    "3.2.2 the absolute form is accepted": (f"GET http://example.com/ HTTP/1.1\r\n{HOST}\r\n", 200),
    "3.2.2 its host wins over Host": ("GET http://evil.example/ HTTP/1.1\r\nHost: example.com\r\n\r\n", 403),
    "3.2.3 the authority form is for CONNECT": (f"GET example.com:80 HTTP/1.1\r\n{HOST}\r\n", 400),
    "3.2.4 the asterisk form is for OPTIONS": (f"OPTIONS * HTTP/1.1\r\n{HOST}\r\n", 204),
    "5.1 space between name and colon is refused": (f"{GET}X : 1\r\n\r\n", 400),
    "5.1 space around a value is no part of it": (
        f"POST / HTTP/1.1\r\n{HOST}Content-Length: \t 2 \t\r\n\r\nhi",
        200,
    ),
    "5.2 a folded field is refused": (f"{GET}X: 1\r\n 2\r\n\r\n", 400),
    "6.1 chunked must be the last coding": (f"{POST}Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400),
    "6.1 chunked must not be applied twice": (
        f"{POST}Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "6.1 an unknown coding is refused": (f"{POST}Transfer-Encoding: br, chunked\r\n\r\n0\r\n\r\n", 400),
    "6.1 a coding in HTTP/1.0 is faulty framing": (
        f"POST / HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "6.2 a list of lengths is refused": (f"{POST}Content-Length: 2, 2\r\n\r\nhi", 400),
    "6.2 a sign is no digit": (f"{POST}Content-Length: +2\r\n\r\nhi", 400),
    "6.3 without framing a request has no body": (f"{POST}\r\n", 200),
    "7.1 chunk extensions are passed over": (
        f"{POST}Transfer-Encoding: chunked\r\n\r\n2;a=b\r\nhi\r\n0\r\n\r\n",
        200,
    ),
    "7.1 sizes are hexadecimal in any case": (
        f"{POST}Transfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n",
        200,
    ),
    "7.1 a size that overflows is refused": (f"{POST}Transfer-Encoding: chunked\r\n\r\n{'f' * 17}\r\n", 400),
    "7.1.2 trailers are passed over": (f"{POST}Transfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n\r\n", 200),
    "7.2 names of codings are case-insensitive": (
        f"{POST}Transfer-Encoding: CHUNKED\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
        200,
    ),
}


@pytest.mark.parametrize("rule", RFC_9112)
async def test_rfc_9112(port: int, rule: str) -> None:
    sent, expected = RFC_9112[rule]
    assert (await first_answer(port, sent))[0] == expected


_ANSWER = re.compile(rb"^HTTP/1\.[01] (\d\d\d) ", re.MULTILINE)


async def everything(port: int, sent: str) -> bytes:
    """All that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(sent.encode("latin-1"))
    answer = await asyncio.wait_for(reader.read(), 10)
    await close(writer)
    return answer


async def test_9_3_a_connection_persists_until_it_is_closed_explicitly(port: int) -> None:
    answer = await everything(port, f"{GET}\r\n" * 3 + f"{GET}Connection: close\r\n\r\n")
    assert _ANSWER.findall(answer) == [b"200"] * 4


async def test_9_6_what_follows_a_close_is_not_served(port: int) -> None:
    answer = await everything(port, f"{GET}Connection: close\r\n\r\n" + f"{GET}\r\n")
    assert len(_ANSWER.findall(answer)) == 1


async def test_9_3_2_pipelined_requests_are_answered_in_order(port: int) -> None:
    bodies = [f"body-{n}" for n in range(5)]
    sent = "".join(f"{POST}Content-Length: 6\r\n\r\n{body}" for body in bodies)
    answer = await everything(port, sent + f"{GET}Connection: close\r\n\r\n")
    assert re.findall(rb"body-\d", answer) == [body.encode() for body in bodies]


async def test_9_3_an_older_client_gets_an_answer_that_ends_with_the_connection(port: int) -> None:
    answer = await everything(port, f"POST / HTTP/1.0\r\n{HOST}Content-Length: 2\r\n\r\nhi")
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert b"transfer-encoding" not in answer.lower()


async def test_6_3_what_follows_faulty_framing_is_never_parsed_as_a_request(port: int) -> None:
    smuggled = f"GET /hello HTTP/1.1\r\n{HOST}\r\n"
    for framing in (
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n\r\n",
        "Transfer-Encoding: x\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    ):
        assert _ANSWER.findall(await everything(port, POST + framing + smuggled)) == [b"400"], framing


async def test_head_has_the_fields_of_get_and_no_body(port: int) -> None:
    """RFC 9110, 9.3.2."""
    answer = await everything(port, f"HEAD / HTTP/1.1\r\n{HOST}Connection: close\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert body == b""
