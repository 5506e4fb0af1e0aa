"""The listening socket, opened before the slow imports, and the connections it holds until they are done."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Self

from proxy.config.settings import ServerSettings
from proxy.log.setup import new_request_id

_BACKLOG = 512

#: Of a held connection; the rest waits in the kernel.
_MOST_HELD_BYTES = 64 * 1024

_ALIVE = (
    "HTTP/1.1 200 OK\r\nServer: mlxguard-proxy\r\nX-Content-Type-Options: nosniff\r\nX-Request-ID: {id}\r\n"
    "Content-Type: application/json\r\nContent-Length: 15\r\nConnection: close\r\n\r\n"
    '{{"status":"ok"}}'
)

Protocols = Callable[[], asyncio.Protocol]


class EarlyListener:
    """A listening socket, and who takes its connections: nobody yet, or the server that was handed it."""

    def __init__(self) -> None:
        self.visitors: set[HeldConnection] = set()
        self._protocols: Protocols | None = None
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """Take connections from now on; who arrived before is in the socket's backlog."""
        door, loop = cls(), asyncio.get_running_loop()
        door._server = await loop.create_server(door._protocol, sock=sock, backlog=_BACKLOG)
        return door

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def hand_over(self, protocols: Protocols) -> asyncio.Server:
        """Let `protocols` serve every connection, also those that are held. Returns what listens."""
        assert self._server is not None
        self._protocols = protocols
        for visitor in tuple(self.visitors):
            visitor.hand_over(protocols())
        return self._server

    def _protocol(self) -> asyncio.Protocol:
        return self._protocols() if self._protocols else HeldConnection(self)


class HeldConnection(asyncio.Protocol):
    """A connection that arrived before there was anything to serve it."""

    def __init__(self, door: EarlyListener) -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._sent = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._door.visitors.add(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._sent += data
        if self._sent.startswith(b"GET /livez HTTP/1.") and b"\r\n\r\n" in self._sent:
            self._transport.write(_ALIVE.format(id=new_request_id()).encode())
            self._transport.close()
        elif len(self._sent) > _MOST_HELD_BYTES:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._door.visitors.discard(self)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Go on as this protocol, as if the connection had just been made."""
        self._door.visitors.discard(self)
        assert self._transport is not None
        if self._transport.is_closing():
            return
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._sent:
            protocol.data_received(self._sent)
        self._transport.resume_reading()


def listen(server: ServerSettings) -> socket.socket:
    """The listening socket. SO_REUSEADDR, so that a restart does not wait for old connections.

    Raises:
        OSError: the address cannot be bound; EADDRINUSE if somebody else has the port.
    """
    family = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)


def why_not(server: ServerSettings, error: OSError) -> str:
    """A sentence for what `listen` raised: who holds the port, and what to do."""
    from supervisor.machine.system import holder_of_port  # noqa: PLC0415 - loads psutil, which a start need not wait for

    holder = holder_of_port(server.port) if error.errno == errno.EADDRINUSE else None
    reason = f"it is in use by {holder}" if holder else (error.strerror or str(error))
    return f"{server.host}:{server.port}: {reason}; choose another with [server] port"
