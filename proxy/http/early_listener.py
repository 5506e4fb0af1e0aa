"""The listening socket: opened before the slow imports, it holds connections until the server is ready."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Self

from proxy.config.settings import ServerSettings
from proxy.log.setup import new_request_id

#: Connections that the kernel may queue while none is accepted.
_BACKLOG = 512

#: Bytes that are read from a held connection; the rest waits in the kernel.
_MAX_HELD_BYTES = 64 * 1024

_ALIVE = (
    "HTTP/1.1 200 OK\r\nServer: mlxguard-proxy\r\nX-Content-Type-Options: nosniff\r\nX-Request-ID: {id}\r\n"
    "Content-Type: application/json\r\nContent-Length: 15\r\nConnection: close\r\n\r\n"
    '{{"status":"ok"}}'
)

ProtocolFactory = Callable[[], asyncio.Protocol]


class EarlyListener:
    """A listening socket that holds its connections until `hand_over` names a server for them."""

    def __init__(self) -> None:
        self.held: set[HeldConnection] = set()
        self._factory: ProtocolFactory | None = None
        self._server: asyncio.Server | None = None

    @classmethod
    async def open(cls, sock: socket.socket) -> Self:
        """Accept connections from now on; earlier ones are in the socket's backlog."""
        listener, loop = cls(), asyncio.get_running_loop()
        listener._server = await loop.create_server(listener._protocol, sock=sock, backlog=_BACKLOG)
        return listener

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()[:2]
        return host, port

    def hand_over(self, factory: ProtocolFactory) -> asyncio.Server:
        """Serve all connections, including held ones, by protocols of `factory`; returns the server."""
        assert self._server is not None
        self._factory = factory
        for connection in tuple(self.held):
            connection.hand_over(factory())
        return self._server

    def _protocol(self) -> asyncio.Protocol:
        return self._factory() if self._factory else HeldConnection(self)


class HeldConnection(asyncio.Protocol):
    """A connection that arrived before the server was ready. Only GET /livez is answered."""

    def __init__(self, listener: EarlyListener) -> None:
        self._listener = listener
        self._transport: asyncio.Transport | None = None
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._listener.held.add(self)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        self._received += data
        if self._received.startswith(b"GET /livez HTTP/1.") and b"\r\n\r\n" in self._received:
            self._transport.write(_ALIVE.format(id=new_request_id()).encode())
            self._transport.close()
        elif len(self._received) > _MAX_HELD_BYTES:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._listener.held.discard(self)

    def hand_over(self, protocol: asyncio.Protocol) -> None:
        """Continue as `protocol`, as if the connection had just been made."""
        self._listener.held.discard(self)
        assert self._transport is not None
        if self._transport.is_closing():
            return
        self._transport.set_protocol(protocol)
        protocol.connection_made(self._transport)
        if self._received:
            protocol.data_received(self._received)
        self._transport.resume_reading()


def listen(server: ServerSettings) -> socket.socket:
    """Open the listening socket. SO_REUSEADDR, so that a restart does not wait for old connections.

    Raises:
        OSError: the address cannot be bound; EADDRINUSE if another process has the port.
    """
    family = socket.getaddrinfo(server.host, server.port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((server.host, server.port), family=family, backlog=_BACKLOG)


def explain_listen_error(server: ServerSettings, error: OSError) -> str:
    """A sentence about an error of `listen`: which process holds the port, and what to change."""
    from supervisor.machine.system import holder_of_port  # noqa: PLC0415 - psutil, only for a failure

    holder = holder_of_port(server.port) if error.errno == errno.EADDRINUSE else None
    reason = f"it is in use by {holder}" if holder else (error.strerror or str(error))
    return f"{server.host}:{server.port}: {reason}; choose another with [server] port"
