"""Runs the gateway from its first socket until a signal or a fatal failure ends it."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

from proxy.app import Gateway, log
from proxy.config.settings import ServerSettings, Settings
from proxy.exit_codes import ExitCode
from proxy.http.connection import ConnectionLimits, Site
from proxy.http.early_listener import EarlyListener
from supervisor.state.folder import AlreadyRunning

#: Seconds that answers may take to be written out once the child is gone.
_CLOSING_S = 2.0


def _connection_limits(server: ServerSettings) -> ConnectionLimits:
    return ConnectionLimits(
        total=server.max_connections,
        per_address=server.connections_per_address,
        head_s=server.header_timeout_s,
        idle_s=server.idle_timeout_s,
        reading_s=server.read_timeout_s,
    )


async def run(settings: Settings, door: EarlyListener, source: str) -> int:
    """Serve those who come through the door, until a signal says to stop."""
    host, port = door.address
    guard = Gateway(settings, port=port)
    try:
        await guard.start()
    except AlreadyRunning as taken:
        log.error("state_locked", extra={"reason": str(taken)})
        return ExitCode.STATE_LOCKED
    except OSError as error:
        reason = f"the state folder cannot be used: {error}; choose another with [supervisor] state_dir"
        log.error("state_not_usable", extra={"reason": reason})
        return ExitCode.CONFIGURATION
    runner = web.AppRunner(guard.web, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSING_S)
    await runner.setup()
    await Site(runner, door, _connection_limits(settings.server), guard.settle_refusal).start()
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    log.info("listening", extra={"url": f"http://{address}", "settings": source})
    try:
        return await _until_stopped(guard)
    finally:
        await runner.cleanup()


async def _until_stopped(guard: Gateway) -> ExitCode:
    """Wait for a signal, then end in order; a second signal ends at once."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    loop.add_signal_handler(signal.SIGHUP, guard.recycle, "SIGHUP")
    first = await signals.get()
    log.info("stopping", extra={"signal": first.name, "running": len(guard.registry)})
    ending, second = asyncio.create_task(guard.end()), asyncio.create_task(signals.get())
    await asyncio.wait((ending, second), return_when=asyncio.FIRST_COMPLETED)
    if ending.done():
        second.cancel()
        ending.result()
        return ExitCode.OK
    log.warning("stopping_at_once")
    guard.end_now()
    await ending
    return ExitCode.INTERRUPTED
