"""What Go's reverse proxy is tested for, where it applies here: ideas, told anew.

The list is that of net/http/httputil, reverseproxy_test.go. Behind the proxy is a server that says what
mlx_lm.server never does, such as fields for one connection only; everything else is the real thing.
"""

from __future__ import annotations

import http.client
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.real.processes import Gateway, guard, until

pytestmark = pytest.mark.real

#: Test of Go's -> the tests of ours that hold the same idea, or why it has no meaning here.
IDEAS: dict[str, str] = {
    "TestReverseProxy": "test_fields_of_a_request_end_here, test_fields_of_an_answer_end_here, "
    "test_a_server_that_does_not_answer_is_an_error_object",
    "TestReverseProxyStripHeadersPresentInConnection": "test_fields_of_a_request_end_here, "
    "test_fields_of_an_answer_end_here",
    "TestReverseProxyStripEmptyConnection": "test_fields_of_a_request_end_here",
    "TestXForwardedFor": "test_fields_of_a_request_end_here",
    "TestXForwardedFor_Omit": "test_fields_of_a_request_end_here",
    "TestReverseProxyRewriteStripsForwarded": "test_fields_of_a_request_end_here",
    "TestReverseProxyQuery": "test_a_query_ends_here",
    "TestReverseProxyQueryParameterSmuggling": "test_a_query_ends_here",
    "TestReverseProxyFlushInterval": "test_each_event_is_passed_on_at_once",
    "TestReverseProxyFlushIntervalHeaders": "test_each_event_is_passed_on_at_once",
    "TestSelectFlushInterval": "test_each_event_is_passed_on_at_once",
    "TestReverseProxyCancellation": "test_a_client_that_leaves_is_told_to_the_server",
    "TestNilBody": "test_a_request_without_a_body_is_refused_here",
    "TestReverseProxy_NilBody": "test_a_request_without_a_body_is_refused_here",
    "TestUserAgentHeader": "test_fields_of_a_request_end_here",
    "TestReverseProxy_Post": "test_a_large_body_arrives_whole",
    "TestReverseProxyModifyResponse": "no hooks: answers are always made anew",
    "TestReverseProxyErrorHandler": "test_a_server_that_does_not_answer_is_an_error_object",
    "TestReverseProxy_CopyBuffer": "test_a_server_that_does_not_answer_is_an_error_object",
    "TestReverseProxy_PanicBodyError": "test_a_server_that_does_not_answer_is_an_error_object",
    "TestReverseProxy_PanicClosesIncoming": "test_a_server_that_does_not_answer_is_an_error_object",
    "TestReverseProxy_AllocatedHeader": "an interface of Go's",
    "TestServeHTTPDeepCopy": "an interface of Go's",
    "TestClonesRequestHeaders": "an interface of Go's",
    "TestModifyResponseClosesBody": "no hooks: answers are always made anew",
    "TestReverseProxyGetPutBuffer": "an interface of Go's",
    "TestReverseProxyHijackCopyError": "test_an_upgrade_is_not_passed_on",
    "TestReverseProxyWebSocket": "test_an_upgrade_is_not_passed_on",
    "TestReverseProxyWebSocketCancellation": "test_an_upgrade_is_not_passed_on",
    "TestReverseProxyWebSocketHalfTCP": "test_an_upgrade_is_not_passed_on",
    "TestUnannouncedTrailer": "test_a_server_that_does_not_answer_is_an_error_object",
    "Test1xxHeadersNotModifiedAfterRoundTrip": "test_interim_answers_end_here",
    "Test1xxResponses": "test_interim_answers_end_here",
    "TestSetURL": "one server, and three paths",
    "TestSingleJoinSlash": "one server, and three paths",
    "TestJoinURLPath": "one server, and three paths",
    "TestReverseProxyRewriteReplacesOut": "an interface of Go's",
}


@dataclass
class Odd:
    """A proxy before the odd backend, and what that was asked."""

    proxy: Gateway
    record: Path

    @property
    def port(self) -> int:
        return int(self.proxy.url.rpartition(":")[2])

    def notes(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.record.read_text().splitlines()]

    def ask(
        self,
        mode: str,
        headers: dict[str, str] | None = None,
        *,
        path: str = "/v1/chat/completions",
        **fields: Any,
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, fields and body of the answer."""
        message = {"role": "user", "content": mode}
        body = json.dumps({"messages": [message], "max_tokens": 2, **fields})
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request("POST", path, body, headers or {})
            answer = connection.getresponse()
            named = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, named, answer.read()


@pytest.fixture(scope="module")
def odd(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Odd]:
    folder = tmp_path_factory.mktemp("odd")
    record = folder / "record.jsonl"
    record.touch()
    backend = Path(__file__).with_name("odd_backend.py")
    command = json.dumps([sys.executable, str(backend), "--record", str(record)])
    with guard(tiny_model, folder, f"--set=upstream.command={command}") as proxy:
        yield Odd(proxy, record)


def test_every_idea_has_its_test_or_its_reason() -> None:
    for name, ours in IDEAS.items():
        for told in ours.split(", ") if ours.startswith("test_") else ():
            assert told in globals(), f"{name}: {told}"


def test_fields_of_a_request_end_here(odd: Odd) -> None:
    """Hop-by-hop fields, those that Connection nominates, and all others: none is for the server. `Via` says
    which way it came (RFC 9110, 7.6.3)."""
    sent = {
        "Connection": "X-Nominated, , keep-alive",
        "X-Nominated": "secret",
        "Keep-Alive": "timeout=secret",
        "Proxy-Connection": "secret",
        "Proxy-Authorization": "secret",
        "Authorization": "Bearer secret",
        "Te": "trailers, secret",
        "Upgrade": "secret",
        "Cookie": "secret",
        "User-Agent": "secret",
        "Forwarded": "for=secret",
        "X-Forwarded-For": "secret",
        "X-Forwarded-Host": "secret",
        "X-Forwarded-Proto": "secret",
        "Accept-Encoding": "secret",
        "Content-Type": "text/secret",
        "X-Unknown": "secret",
        "Via": "1.0 front (secret), 1.1 next.example:80",
    }
    assert odd.ask("plain", sent)[0] == 200
    note = odd.notes()[-1]
    fields = {name.lower(): value for name, value in note["fields"]}
    assert "secret" not in json.dumps(note)
    assert fields.keys() == {"host", "content-type", "content-length", "via"}
    assert fields["via"] == "1.0 front, 1.1 next.example:80, 1.1 mlxguard-proxy"
    assert fields["content-type"] == "application/json"
    assert fields["host"].split(":")[0] == "127.0.0.1"
    assert int(fields["content-length"]) == note["length"]


@pytest.mark.parametrize("stream", [False, True])
def test_fields_of_an_answer_end_here(odd: Odd, stream: bool) -> None:
    status, fields, body = odd.ask("private", {"x-request-id": "mine"}, stream=stream)
    assert status == 200
    assert b"hello" in body
    assert b"secret" not in body
    assert "secret" not in json.dumps(fields)
    assert not fields.keys() & {
        "keep-alive", "upgrade", "proxy-authenticate", "trailer", "set-cookie", "x-nominated",
        "access-control-allow-origin",
    }  # fmt: skip
    assert (fields["via"], fields["server"]) == ("1.0 mlxguard-proxy", "mlxguard-proxy")
    assert fields["x-request-id"] == "mine"


def test_a_query_ends_here(odd: Odd) -> None:
    assert odd.ask("plain", path="/v1/chat/completions?api-version=1&a=1;b=2&c=%zz")[0] == 200
    assert odd.notes()[-1]["line"] == "POST /v1/chat/completions HTTP/1.0"


def test_a_request_without_a_body_is_refused_here(odd: Odd) -> None:
    before = len(odd.notes())
    with closing(http.client.HTTPConnection("127.0.0.1", odd.port, timeout=30)) as connection:
        connection.request("POST", "/v1/chat/completions")
        assert connection.getresponse().status == 400
    assert len(odd.notes()) == before


def test_a_large_body_arrives_whole(odd: Odd) -> None:
    messages = [{"role": "system", "content": "a" * 20_000}, {"role": "user", "content": "plain"}]
    assert odd.ask("plain", messages=messages)[0] == 200
    assert odd.notes()[-1]["length"] > 20_000


@pytest.mark.parametrize(
    "mode", ["hang up", "short", "chunked", "redirect", "upgrade", "odd status", "not HTTP", "huge head"]
)
def test_a_server_that_does_not_answer_is_an_error_object(odd: Odd, mode: str) -> None:
    before = len(odd.notes())
    status, fields, body = odd.ask(mode)
    assert status in (400, 500, 503), body
    assert json.loads(body)["error"]["message"]
    assert b"secret" not in body + json.dumps(fields).encode()
    assert "location" not in fields
    assert len(odd.notes()) == before + 1, "and it is not asked twice: it lives"


def test_a_stream_that_is_cut_ends_in_an_error_and_done(odd: Odd) -> None:
    status, _, body = odd.ask("cut", stream=True)
    assert status == 200
    assert b'"error"' in body
    assert body.endswith(b"data: [DONE]\n\n")


@pytest.mark.parametrize("stream", [False, True])
def test_interim_answers_end_here(odd: Odd, stream: bool) -> None:
    """The server is asked in HTTP/1.0, and so must not give any (RFC 9110, 15.2)."""
    message = {"role": "user", "content": "early hints"}
    body = json.dumps({"messages": [message], "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", odd.port), timeout=30) as client:
        head = "POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n"
        client.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 500 "), answer[:200]
    assert b"</x>" not in answer


def test_an_upgrade_is_not_passed_on(odd: Odd) -> None:
    sent = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x"}
    status, fields, _ = odd.ask("plain", sent)
    assert status == 200
    assert "upgrade" not in fields
    assert "upgrade" not in {name.lower() for name, _ in odd.notes()[-1]["fields"]}


def opened(odd: Odd) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """A stream of which the server has sent one event, and nothing more."""
    connection = http.client.HTTPConnection("127.0.0.1", odd.port, timeout=30)
    body = {"messages": [{"role": "user", "content": "slow"}], "stream": True}
    connection.request("POST", "/v1/chat/completions", json.dumps(body))
    return connection, connection.getresponse()


def test_each_event_is_passed_on_at_once(odd: Odd) -> None:
    connection, answer = opened(odd)
    with closing(connection), closing(answer):
        assert b"hello" in answer.readline()
        assert "gone" not in odd.notes()[-1], "the server has more to say, and has not said it"


def test_a_client_that_leaves_is_told_to_the_server(odd: Odd) -> None:
    until("it is done with others", lambda: "line" not in odd.notes()[-1])
    before = len(odd.notes())
    connection, answer = opened(odd)
    with closing(connection), closing(answer):
        answer.readline()
    assert until("the server is told", lambda: odd.notes()[-1].get("gone") and len(odd.notes()) == before + 2)
