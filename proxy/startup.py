"""Starts the process: opens the port, and answers /livez there while everything else is being imported.

Most of the time of a start goes into imports (aiohttp, the supervisor, some hundred small classes). A process
manager that probes meanwhile gets its 200; other connections are held, then served with all they have sent.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import logging
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

from proxy.config.open_files import hard_limit, shortages
from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode
from proxy.http.early_listener import EarlyListener, explain_listen_error, listen

log = logging.getLogger("mlxguard.app")

#: File descriptors that are wanted: one for each of 512 clients, as many to the child, and some to spare.
_FILES = 4096

#: Seconds between two log lines that say that no connection can be accepted. asyncio tells of each attempt,
#: some 500 times a second.
_QUIET_S = 10.0


def raise_file_limit() -> None:
    """Raise the soft limit on open files to what all connections need; macOS starts processes with 256."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def serve(settings: Settings, source: str) -> int:
    """Serve until a signal; returns an `ExitCode`. `source`: where the settings are from, for the log."""
    raise_file_limit()
    for shortage in shortages(hard_limit(), settings.server.max_connections):
        log.warning("file_limit_too_low", extra={"reason": shortage})
    try:
        sock = listen(settings.server)
    except OSError as error:
        log.error("cannot_listen", extra={"reason": explain_listen_error(settings.server, error)})
        return ExitCode.PORT_IN_USE if error.errno == errno.EADDRINUSE else ExitCode.CONFIGURATION
    with sock:
        return asyncio.run(_serve(settings, sock, source))


class LoopErrors:
    """The event loop's exception handler: logs what no task or handler caught."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._silent_until = 0.0

    def __call__(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "socket.accept()" not in context["message"]:
            # Without the rest of the context, which may have a client's bytes in it.
            log.error("loop_error", extra={"reason": context["message"]}, exc_info=error)
        elif self._clock() >= self._silent_until:
            self._silent_until = self._clock() + _QUIET_S
            log.error("cannot_accept", extra={"reason": f"{error}; connections wait until there is space"})


async def _serve(settings: Settings, sock: socket.socket, source: str) -> int:
    asyncio.get_running_loop().set_exception_handler(LoopErrors())
    listener = await EarlyListener.open(sock)
    server = await asyncio.to_thread(importlib.import_module, "proxy.server")
    # Imported objects live until the end; frozen, they no longer cost each full collection 20 ms in the loop.
    gc.collect()
    gc.freeze()
    code: int = await server.run(settings, listener, source)
    return code
