"""Sends hostile bytes to a running proxy and says what was wrong with the answer, or with who gave it."""

from __future__ import annotations

import http.client
import json
import re
import socket
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass

from tests.real.hostile_corpus import GOOD, Hostile, request
from tests.real.processes import Gateway

#: Settings of a proxy under attack: what never comes is given up soon.
SETTINGS = (
    "--set=server.header_timeout_s=1",
    "--set=server.body_timeout_s=1",
    "--set=server.idle_timeout_s=1",
)

#: Longer than the proxy takes to refuse 4 MB of text; a hang lasts for ever.
_PATIENCE_S = 30.0

_STATUS_LINE = re.compile(rb"^HTTP/1\.[01] (\d\d\d) ", re.MULTILINE)


@dataclass(frozen=True)
class Fault:
    """What must not happen, and to which request. `kind`: death, hang, server_error or answer."""

    kind: str
    name: str
    what: str


@dataclass
class Target:
    """A proxy, and the generation of its child that must live through everything."""

    proxy: Gateway
    generation: int
    child_port: int

    @classmethod
    def of(cls, proxy: Gateway) -> Target:
        child = proxy.status()["child"]
        return cls(proxy, child["generation"], child["port"])

    @property
    def port(self) -> int:
        return int(self.proxy.url.rpartition(":")[2])

    def attack(self, hostile: Hostile) -> Iterator[Fault]:
        """Send it, then ask the child for its health and a canary token."""
        yield from self.send(hostile)
        yield from self.vital_signs(hostile.name)

    def send(self, hostile: Hostile) -> Iterator[Fault]:
        """Send it and judge the answer."""
        try:
            answer = exchange(self.port, hostile.sent)
        except TimeoutError:
            yield Fault("hang", hostile.name, f"no answer in {_PATIENCE_S:g} s")
        else:
            yield from judge(hostile, answer)

    def vital_signs(self, name: str) -> Iterator[Fault]:
        """Nothing if the child is well: same life, /health 200, one token."""
        child = self.proxy.status()["child"]
        if (child["generation"], child["state"]) != (self.generation, "ready"):
            yield Fault("death", name, f"{child['state']}: {child['explanation']}")
            self.generation, self.child_port = child["generation"], child["port"]
            return
        with closing(http.client.HTTPConnection("127.0.0.1", self.child_port, timeout=10)) as connection:
            connection.request("GET", "/health")
            if connection.getresponse().status != 200:
                yield Fault("death", name, "/health is not 200")
        canary = exchange(self.port, request(GOOD))
        if not canary.startswith(b"HTTP/1.1 200"):
            yield Fault("death", name, f"canary: {canary[:100]!r}")


def exchange(port: int, sent: bytes, patience_s: float = _PATIENCE_S) -> bytes:
    """All that comes back on one connection. Raises TimeoutError if it stays open."""
    deadline = time.monotonic() + patience_s
    received = bytearray()
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as client:
        with suppress(BrokenPipeError, ConnectionResetError):  # it may be answered before all is sent
            client.sendall(sent)
        with suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += data
                if time.monotonic() > deadline:
                    raise TimeoutError
    return bytes(received)


def judge(hostile: Hostile, answer: bytes) -> Iterator[Fault]:
    """What is wrong with the answer."""
    statuses = [int(found[1]) for found in _STATUS_LINE.finditer(answer) if found[1] != b"100"]
    status = statuses[0] if statuses else 0
    if status >= 500:
        yield Fault("server_error", hostile.name, answer[:300].decode(errors="replace"))
    elif status not in hostile.statuses:
        yield Fault("answer", hostile.name, f"{status}: {answer[:300].decode(errors='replace')}")
    if len(statuses) > hostile.most_answers:
        yield Fault("answer", hostile.name, f"{len(statuses)} answers: {statuses}")
    if status >= 400 and not _is_error_object(answer.partition(b"\r\n\r\n")[2]):
        yield Fault("answer", hostile.name, f"no error object: {answer[:300]!r}")


def _is_error_object(body: bytes) -> bool:
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    return isinstance(error["message"], str) and error.keys() == {"message", "type", "param", "code"}
