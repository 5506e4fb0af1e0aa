"""One HTTP/1.0 exchange on a connection of its own: exactly what the child speaks.

The child is http.server: a connection per request, a status line, some fields, and a body that ends with the
connection or, for one JSON object, after `Content-Length` bytes. A server that is asked in HTTP/1.0 may not
answer in chunks (RFC 9112, 7.1) or with an interim status (RFC 9110, 15.2).

A client for all of HTTP takes more than twice as long: aiohttp's takes 215 us of CPU for a short request and
its answer, this took 94 when it still had a transport (16 at once, in turns in one process; 2026-11). The
difference is two fifths of what the smallest aiohttp proxy takes for a whole request.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import socket
import struct
from collections.abc import Callable
from contextlib import suppress

#: Bytes that are read ahead of a slow reader, before the child has to wait.
_READ_AHEAD_BYTES = 128 * 1024

#: A response head may have this size; the child's has some 300 bytes.
_MOST_HEAD_BYTES = 64 * 1024

#: Bytes that one `recv` may return: a block of this size comes from the heap, a larger one from the system.
_RECEIVED_BYTES = 64 * 1024

_STATUS = re.compile(rb"HTTP/1\.[01] ([1-9]\d\d)(?: |\r?\n)")
_LENGTH = re.compile(rb"\ncontent-length:[ \t]*(\d{1,15})[ \t]*\r?\n", re.IGNORECASE)
_END_OF_HEAD = re.compile(rb"\r?\n\r?\n")

#: SO_LINGER for zero seconds, so that closing resets the connection.
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

#: Takes bytes at once, and returns whether it did.
Sink = Callable[[bytes], bool]

_STILL_CONNECTING = frozenset({errno.EINPROGRESS, errno.EALREADY})
_CONNECTED = frozenset({0, errno.EISCONN})


def _no_sink(_: bytes) -> bool:
    return False


class BadAnswer(ConnectionError):
    """The child sent no valid answer, or less of it than it announced."""


class Http10Connection:
    """An open connection, until `abort`. One reader at a time.

    It reads its socket in the loop's callback: asyncio's transport took a quarter of an exchange's time.

    Attributes:
        status: of the answer; known once `answered` returned.
        port: the gateway's own.
    """

    __slots__ = (
        "_asking", "_buffered", "_error", "_fd", "_head", "_loop", "_lost", "_missing", "_paused", "_pieces",
        "_reader", "_sink", "_sock", "port", "status",
    )  # fmt: skip

    def __init__(self, sock: socket.socket) -> None:
        """`sock`: connected, and not blocking."""
        self.status = 0
        self.port: int = sock.getsockname()[1]
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()  # for a socket object the loop builds its repr, with two system calls
        self._head: bytes | None = b""  # what has come so far; None once it is complete
        self._pieces: list[bytes] = []
        self._buffered = 0
        self._missing: int | None = None  # bytes of the body that are missing, if its length is known
        self._paused = self._lost = self._asking = False
        self._error: OSError | None = None
        self._reader: asyncio.Future[None] | None = None
        self._sink: Sink = _no_sink
        self._loop.add_reader(self._fd, self._readable)

    # For the client

    async def ask(self, path: str, body: bytes, fields: str = "") -> None:
        """Send a request. `fields`: further header lines, each with its CR LF."""
        head = (
            f"POST {path} HTTP/1.0\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n{fields}\r\n"
        )
        self._asking = True
        try:
            # The reader gets the error, after what has arrived before it: a server may answer and close
            # before it has read the whole request.
            with suppress(OSError):
                await self._loop.sock_sendall(self._sock, head.encode("ascii") + body)
        finally:
            self._asking = False
            if self._lost:
                self._sock.close()

    async def answered(self) -> None:
        """Wait for the head of the answer. Raises OSError if none comes."""
        while self._head is not None:
            if self._lost:
                raise self._error or BadAnswer("closed without an answer")
            await self._wait()

    async def read(self, sink: Sink | None = None) -> bytes:
        """All of the body that has arrived, at least one byte; b"" at its end, also if that is a reset.

        `sink`: is offered at once what arrives while this waits; what it takes is not returned.

        Raises:
            OSError: the body ended before its announced length, or `interrupt` was called while this waited.
        """
        while not self._pieces:
            if self._lost and self._missing:
                raise self._error or BadAnswer(f"{self._missing} bytes less than announced")
            if self.ended:
                return b""
            self._sink = sink or _no_sink
            try:
                await self._wait()
            finally:
                self._sink = _no_sink
        data = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._buffered = 0
        if self._paused:
            self._paused = False
            if not self._lost:
                self._loop.add_reader(self._fd, self._readable)
        return data

    @property
    def ended(self) -> bool:
        """Whether nothing more will arrive."""
        return self._lost or self._missing == 0

    def interrupt(self, error: OSError) -> None:
        """Raise `error` in the reader that waits for bytes, if there is one."""
        self._fail_reader(error)

    def abort(self) -> None:
        """Close it at any point, by a reset: the other side's next write fails."""
        if self._lost:
            return
        with suppress(OSError):  # macOS: EINVAL for a connection that the child has just ended
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._end(None)

    async def _wait(self) -> None:
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    # For the event loop

    def _readable(self) -> None:
        try:
            data = self._sock.recv(_RECEIVED_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(None)
            return
        if self._head is not None:
            data = self._take_head(self._head + data)
        if data:
            self._take(data)
        else:
            self._wake()

    def _end(self, error: OSError | None) -> None:
        self._lost, self._error = True, self._error or error
        self._loop.remove_reader(self._fd)
        if self._asking:  # the loop would wait for ever to write to a closed socket
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)
        else:
            self._sock.close()
        self._wake()

    def _take_head(self, head: bytes) -> bytes:
        """Parse the head if it is complete; the part of the body that came with it."""
        end = _END_OF_HEAD.search(head)
        if end is None:
            self._head = head
            if len(head) > _MOST_HEAD_BYTES:
                self._refuse()
            return b""
        status = _STATUS.match(head)
        if status is None:
            self._refuse()
            return b""
        self._head, self.status = None, int(status[1])
        length = _LENGTH.search(head, 0, end.end())
        self._missing = int(length[1]) if length else None
        return head[end.end() :]

    def _refuse(self) -> None:
        self._error = BadAnswer("not HTTP")
        self.abort()

    def _take(self, data: bytes) -> None:
        if self._missing is None:
            try:
                if not self._pieces and self._sink(data):
                    return
            except Exception as error:  # noqa: BLE001 - the reader gets it; only the loop would see it here
                self._fail_reader(error)
                return
        else:
            data = data[: self._missing]
            self._missing -= len(data)
        self._pieces.append(data)
        self._buffered += len(data)
        if self._buffered > _READ_AHEAD_BYTES and not self._paused and not self._lost:
            self._paused = True
            self._loop.remove_reader(self._fd)
        self._wake()

    def _fail_reader(self, error: Exception) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_exception(error)

    def _wake(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)


async def connected(host: str, port: int, timeout_s: float) -> Http10Connection:
    """Connect to an IPv4 address. Raises OSError, also after `timeout_s` seconds."""
    loop, sock = asyncio.get_running_loop(), socket.socket()
    try:
        sock.setblocking(False)
        code = sock.connect_ex((host, port))
        if code == errno.EINPROGRESS:  # on loopback it is done, if the backlog had space: asking again tells
            code = sock.connect_ex((host, port))
        if code in _STILL_CONNECTING:
            async with asyncio.timeout(timeout_s):
                await loop.sock_connect(sock, (host, port))
        elif code not in _CONNECTED:
            raise OSError(code, os.strerror(code))
        return Http10Connection(sock)
    except BaseException:
        sock.close()
        raise
