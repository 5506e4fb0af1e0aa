from __future__ import annotations

import json

from aiohttp import web

from proxy import errors
from proxy.http.responses import add_standard_headers, error_response, raw_error_response


def test_a_raw_error_response_equals_the_usual_one() -> None:
    error = errors.Unavailable("why")
    response = error_response(error)
    head, _, body = raw_error_response(error).partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines[1:])
    assert lines[0] == "HTTP/1.1 503 Service Unavailable"
    assert json.loads(body) == error.body() == json.loads(response.body or b"")  # type: ignore[arg-type]
    assert int(headers["Content-Length"]) == len(body)
    assert 10 <= int(headers["Retry-After"]) <= 30
    assert headers["Connection"] == "close"
    assert headers["x-request-id"].startswith("req-")


def test_every_response_has_an_id_and_no_version() -> None:
    response = web.Response()
    add_standard_headers(response, "mine")
    assert response.headers["x-request-id"] == "mine"
    assert response.headers["Server"] == "mlxguard-proxy"
    assert response.headers["X-Content-Type-Options"] == "nosniff"
