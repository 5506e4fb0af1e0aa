"""The real server is done with a request whose client left, soon after, and the gate knows it when it is."""

from __future__ import annotations

import json
import socket
import threading
import urllib.request

from tests.real.processes import Gateway, until

#: Some seconds of generating; nobody wants them.
ENDLESS = 3000


def ask(proxy: Gateway, prompt: str, max_tokens: int, **more: object) -> socket.socket:
    """A streamed request by hand, which can be left at any moment."""
    body = json.dumps({"prompt": prompt, "max_tokens": max_tokens, "stream": True, **more}).encode()
    host, port = proxy.url.removeprefix("http://").split(":")
    connection = socket.create_connection((host, int(port)), timeout=30)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    return connection


def left(proxy: Gateway) -> float:
    """How many were seen out and known to be gone."""
    _, page = proxy.get("/metrics")
    counted = (line.split() for line in page.splitlines() if line.startswith("mlxguard_disconnects_total"))
    return sum(float(count) for name, count in counted if "timeout" not in name)


def at_work(proxy: Gateway) -> list[str]:
    return [each["answer_id"] for each in proxy.status()["requests"] if each["stage"] == "prefill"]


def rests(proxy: Gateway) -> bool:
    queue = proxy.status()["queue"]
    return (queue["running"], queue["disconnected"]) == (0, 0)


def test_what_is_reserved_is_released_when_the_child_is_done(shared_guard: Gateway) -> None:
    before = left(shared_guard)
    for more in ({}, {"seed": 1}):
        with ask(shared_guard, "hello", ENDLESS, **more) as connection:
            until("content", lambda: b"data:" in connection.recv(65536))
        until("it has left", lambda: not shared_guard.status()["requests"], 5)
        until("the gate knows that it is gone", lambda: rests(shared_guard), 10)
    assert left(shared_guard) == before + 2


def test_one_that_leaves_before_the_child_began_to_answer_is_not_generated(shared_guard: Gateway) -> None:
    """Bare, it runs to its last token: its mark is never set."""
    before = left(shared_guard)
    long = json.dumps({"prompt": "far " * 1000, "max_tokens": 1}).encode()
    url = f"{shared_guard.base_url}/completions"
    reading = threading.Thread(target=lambda: urllib.request.urlopen(url, long, timeout=60).close())
    reading.start()
    until("the child reads", lambda: at_work(shared_guard))
    with ask(shared_guard, "hello", ENDLESS):
        until("it was given to the child", lambda: len(at_work(shared_guard)) == 2)
    reading.join()
    until("the gate knows that it is gone", lambda: rests(shared_guard), 5)
    assert left(shared_guard) == before + 1
