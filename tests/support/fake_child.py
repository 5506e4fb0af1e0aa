"""A child whose every byte is sent by the test: for exact timing, which the real server does not give.

It speaks as mlx_lm.server does: HTTP/1.0, one connection per request, a body that ends with the
connection. Tests that need no timing use the real server (tests/real).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
import time
from types import TracebackType
from typing import Any, Self

from supervisor.child.generation import ChildSnapshot, Death, Generation, NotReady
from supervisor.child.process import Telemetry
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State

_EVENT_STREAM = b"HTTP/1.0 200 OK\r\nContent-type: text/event-stream\r\nCache-Control: no-cache\r\n\r\n"


class Call:
    """One request that reached the child."""

    def __init__(self, path: str, body: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self.path = path
        self.body = body
        self._reader = reader
        self._writer = writer

    @property
    def json(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.body)
        return value

    async def start(self) -> None:
        """The child's 200, sent after tokenization and before prefill."""
        await self.send(_EVENT_STREAM)

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def finish(self) -> None:
        """An orderly end, which is all that tells a whole body from a cut one: nothing."""
        self._writer.close()
        await self._writer.wait_closed()

    async def answer(self, stream: bytes) -> None:
        await self.start()
        await self.send(stream)
        await self.finish()

    async def refuse(self, status: int, text: str) -> None:
        body = json.dumps({"error": text}).encode()
        await self.send(f"HTTP/1.0 {status} X\r\nContent-type: application/json\r\n\r\n".encode() + body)
        await self.finish()

    def reset(self) -> None:
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()

    async def was_reset(self) -> bool:
        """How the proxy has ended it: by a reset, or in order."""
        try:
            await self._reader.read()
        except ConnectionResetError:
            return True
        return False

    async def dropped(self) -> None:
        """Returns when the proxy has closed its side, or reset it."""
        with contextlib.suppress(ConnectionError):
            while await self._reader.read(65536):
                pass


class FakeChild:
    """Listens while in its block; `port` is its own."""

    def __init__(self) -> None:
        self.port = 0
        self._calls: asyncio.Queue[Call] = asyncio.Queue()
        self._server: asyncio.Server | None = None
        self._writers: list[asyncio.StreamWriter] = []

    async def __aenter__(self) -> Self:
        await self.listen_again()
        assert self._server is not None
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop_listening()
        await asyncio.sleep(0)  # what was accepted a moment ago gets its writer
        for writer in self._writers:
            if not writer.is_closing() or writer.transport.get_write_buffer_size():
                writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    def stop_listening(self) -> None:
        """From now on connections are refused, as after an exit."""
        if self._server is not None:
            self._server.close()

    async def listen_again(self) -> None:
        """On the same port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=2**20)

    async def call(self) -> Call:
        """The next request, read whole."""
        async with asyncio.timeout(10):
            return await self._calls.get()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            fields = dict(line.lower().split(": ", 1) for line in head.splitlines()[1:] if line)
            body = await reader.readexactly(int(fields["content-length"]))
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            return
        await self._calls.put(Call(head.split()[1], body, reader, writer))


def _idle() -> Telemetry:
    """Who looks finds the child with nothing to do: it drops what is broken off at once."""
    return Telemetry(0, 0, 0, 0, time.monotonic(), idle=True)


class FakeSupervisor:
    """Says that the child is alive or dead when the test says so."""

    def __init__(self) -> None:
        self._number = 0
        self._ready = asyncio.Event()
        self._failed = False
        self._generation: Generation | None = None
        self.judged = 0
        self.lacks_memory = False
        self.chokes = False

    def up(self, child: FakeChild) -> Generation:
        """A new generation is ready."""
        self._number += 1
        self._generation = Generation(self._number, child.port, lambda: None, _idle)
        self._ready.set()
        return self._generation

    def down(self, cause: Cause = Cause.KILLED_BY_SYSTEM) -> Death:
        """The generation died, and that is known."""
        assert self._generation is not None
        self._ready.clear()
        death = Death(self._number, cause, "it died", "", None, None, (), State.READY)
        self._generation.died.set_result(death)
        return death

    def give_up(self) -> None:
        self._failed = True
        self._ready.set()

    async def ready(self, timeout_s: float) -> Generation:
        try:
            async with asyncio.timeout(timeout_s):  # of 0 seconds too: nothing is waited for when it is ready
                await self._ready.wait()
        except TimeoutError:
            raise NotReady(self._snapshot(State.BACKOFF)) from None
        if self._failed:
            raise NotReady(self._snapshot(State.FAILED))
        assert self._generation is not None
        return self._generation

    def short_of_memory(self) -> bool:
        return self.lacks_memory

    def choked_on_tool_call(self, port: int) -> bool:
        return self.chokes

    async def judge(self, generation: Generation) -> Death | None:
        self.judged += 1
        return generation.died.result() if generation.died.done() else None

    def _snapshot(self, state: State) -> ChildSnapshot:
        return ChildSnapshot(
            state=state,
            generation=self._number,
            cause=None,
            explanation=None,
            advice=None,
            pid=None,
            port=None,
            since=0.0,
            ready_since=None,
            restarts=0,
            restarts_by_cause={},
            next_restart_s=None,
            in_flight=0,
            telemetry=None,
            memory_bytes=None,
            log_tail=(),
        )
