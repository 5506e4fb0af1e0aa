"""Runs the gateway on its listening socket until a signal or a fatal failure ends it."""

from __future__ import annotations

import asyncio
import signal

from aiohttp import web

from proxy.app import Gateway, log
from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode
from proxy.http.connection import Site
from proxy.http.early_listener import EarlyListener
from supervisor.state.folder import AlreadyRunning

#: Seconds that responses may take to be written once the child has stopped.
_CLOSING_S = 2.0


async def run(settings: Settings, listener: EarlyListener, source: str) -> int:
    """Serve the listener's connections until a signal. `source`: where the settings are from, for the log."""
    gateway = Gateway(settings, port=listener.address[1])
    try:
        await gateway.start()
    except AlreadyRunning as taken:
        log.error("state_locked", extra={"reason": str(taken)})
        return ExitCode.STATE_LOCKED
    except OSError as error:
        reason = f"the state folder cannot be used: {error}; choose another with [supervisor] state_dir"
        log.error("state_not_usable", extra={"reason": reason})
        return ExitCode.CONFIGURATION
    runner = web.AppRunner(
        gateway.web, handler_cancellation=True, access_log=None, shutdown_timeout=_CLOSING_S
    )
    await runner.setup()
    site = Site(runner, listener, settings.server, gateway.metrics.http_response)
    await site.start()
    log.info("listening", extra={"url": site.name, "settings": source})
    try:
        return await _until_stopped(gateway)
    finally:
        await runner.cleanup()


async def _until_stopped(gateway: Gateway) -> ExitCode:
    """Wait for a signal, then stop in order; a second signal stops at once."""
    loop = asyncio.get_running_loop()
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    loop.add_signal_handler(signal.SIGHUP, gateway.recycle, "SIGHUP")
    first = await signals.get()
    log.info("stopping", extra={"signal": first.name, "running": len(gateway.registry)})
    stopping, second = asyncio.create_task(gateway.stop()), asyncio.create_task(signals.get())
    await asyncio.wait((stopping, second), return_when=asyncio.FIRST_COMPLETED)
    if stopping.done():
        second.cancel()
        stopping.result()
        return ExitCode.OK
    log.warning("stopping_at_once")
    gateway.stop_now()
    await stopping
    return ExitCode.INTERRUPTED
