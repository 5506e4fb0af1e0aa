"""The composition root: the only place that builds the parts, wires them, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Mapping

from aiohttp import web

from proxy import edge, routing
from proxy.actions import Actions
from proxy.ceiling_watch import CeilingWatch
from proxy.config import ServerSettings, Settings, SupervisorSettings
from proxy.config_rules import is_loopback
from proxy.connection import ConnectionLimits, Site
from proxy.core.admission import Outlook
from proxy.core.admittance import Admittance, canonical
from proxy.core.budget import Budget
from proxy.core.compaction import Refusals
from proxy.core.holdings import Holdings
from proxy.core.learning import Sample
from proxy.core.names import ModelNames, served_name
from proxy.costs import budget
from proxy.door import Door
from proxy.exit_codes import ExitCode
from proxy.explain import Explainer
from proxy.folders import cache_folder, state_folder
from proxy.gate import Gate
from proxy.handlers import Completions, Pages, routes
from proxy.inquest import FILE as SUSPECTS
from proxy.inquest import Inquest
from proxy.key_ring import KeyRing, follow
from proxy.learned_limits import LearnedLimits
from proxy.leaving import Leavings
from proxy.limits_file import FILE as LIMITS
from proxy.memory_guard import MemoryGuard, MemorySnapshot
from proxy.metrics import Metrics
from proxy.mirroring import Mirroring
from proxy.picture_fetch import PictureFetch
from proxy.preparation import Preparation
from proxy.relay import Relay, RelayOptions
from proxy.request_bounds import picture_policy
from proxy.stalls import Stalls
from proxy.status import Registry, Status
from proxy.synthetic import Synthetics
from proxy.tokens import Tokens
from proxy.upstream import Upstream
from supervisor.plan import Plan
from supervisor.records import AlreadyRunning
from supervisor.runner import IllegalEvent, Supervisor, SupervisorOptions
from supervisor.tasks import Tasks

log = logging.getLogger("mlxguard.app")

#: mlx_lm.server's own default (its argparse, --decode-concurrency).
DECODE_CONCURRENCY = 32

#: Seconds that answers may take to be written out once the child is gone.
_CLOSING_S = 2.0

#: Bodies of the largest size that may be in memory together, as bytes of any number.
_BODIES_AT_ONCE = 4


class Guard:
    """All parts of one proxy, from the listening socket to the child."""

    def __init__(self, settings: Settings, *, port: int) -> None:
        self._settings = settings
        tokens = Tokens(most_pixels=settings.request.max_image_pixels)
        options = _supervisor_options(settings.supervisor, port)
        self._limits = LearnedLimits(options.state_dir / LIMITS)
        self._preparation = Preparation(
            settings, tokens, cache_folder(), on_plan=self._apply, limits=self._limits
        )
        self.registry = Registry()
        self._inquest = Inquest(
            self.registry.jobs,
            options.state_dir / SUSPECTS,
            model=settings.model.path,
            errands=lambda: self._synthetics.out,
            limits=self._limits,
        )
        self.supervisor = Supervisor(self._preparation.prepare, options, inquest=self._inquest.hold)
        self._gate = Gate(
            Budget(max_running=_concurrency(settings)),
            max_waiting=settings.queue.max_waiting,
            fairness=settings.queue.fairness,
            on_sample=self._learn,
        )
        self._upstream = Upstream()
        self._batched = True
        self._pictures = PictureFetch(picture_policy(settings.request), settings.request.image_timeout_s)
        self._keys = KeyRing(settings.server)
        parts = (self.supervisor, self._gate, self.registry, self._preparation)
        self._status = Status(
            *parts,
            inquest=self._inquest,
            limits=self._limits,
            memory=self._memory_now,
            started_at=int(time.time()),
        )
        self._metrics = Metrics(self._status.gauges)
        self._leavings = Leavings(batched=lambda: self._batched, on_gone=self._metrics.gone)
        self._synthetics = Synthetics(
            self.supervisor, self._gate, self._upstream, on_sent=self._metrics.own_request
        )
        self._mirroring = Mirroring(tokens)
        self._stalls = Stalls(
            self._mirroring,
            self.supervisor,
            self._synthetics,
            idle=lambda: self._gate.idle and not self._gate.snapshot().held and not self._synthetics.out,
            fits=lambda tokens: self._gate.would_run("", tokens, 1) is Outlook.NOW,
            on_stall=self._metrics.search_stall,
        )
        self.supervisor.subscribe(self._mirroring.changed)
        self.supervisor.subscribe(self._stalls.changed)
        self._memory = MemoryGuard(
            self.supervisor,
            self._gate,
            self.registry.jobs,
            self._stalls.send,
            entries=lambda: plan.serving.kept_sequences if (plan := self._preparation.plan) else 0,
        )
        preparation = self._preparation
        self._ceiling = CeilingWatch(
            self.supervisor, self._gate, lambda: preparation.plan, preparation.plan_again
        )
        self._watching = Tasks()
        self._stopping = asyncio.Event()
        self.web = self._web_application(tokens)

    async def start(self) -> None:
        """Start the child and the tokenizer behind the open port; returns at once.

        Raises:
            AlreadyRunning: another proxy uses the state folder.
            OSError: the state folder cannot be made or written.
        """
        await self.supervisor.start()
        self._inquest.load()
        self._watching.start(follow(self._keys), "follow keys")
        self._watching.start(self._memory.run(), "memory")
        self._watching.start(self._ceiling.run(), "ceiling")

    def settle_refusal(self, status: int) -> None:
        """Count an answer to what was no request: not HTTP, too late, or one connection too many."""
        self._metrics.http_refusal(status)

    def _apply(self, plan: Plan) -> None:
        """Let in from now on what the plan says fits together."""
        self._gate.correct(self._limits.corrections)
        self._gate.set_budget(budget(plan))
        self._mirroring.planned(plan)
        self._batched = plan.model.batched

    def _learn(self, sample: Sample) -> None:
        """Count how a prediction turned out; what follows from it is kept over restarts."""
        self._metrics.predicted(sample)
        self._limits.corrected(self._gate.corrections)

    def _memory_now(self) -> MemorySnapshot:
        return self._memory.snapshot()

    def recycle(self, reason: str) -> None:
        """Restart the child as planned, or try again after giving up."""
        self._recycling = asyncio.ensure_future(self._recycle(reason))

    async def _recycle(self, reason: str) -> None:
        try:
            await self.supervisor.recycle(reason)
        except IllegalEvent:
            log.warning("recycle_refused", extra={"reason": "the proxy is stopping"})

    async def end(self) -> None:
        """Drain, then end child and worker; who still waits for an answer gets the contract's error."""
        self._stopping.set()
        self._draining = asyncio.ensure_future(self.registry.emptied())
        await asyncio.wait((self._draining,), timeout=self._settings.supervisor.drain_s)
        self._draining.cancel()
        self._watching.cancel()
        await self._watching.finish()
        await self._stalls.stop()
        await self.supervisor.stop()
        await self._preparation.stop()
        await self._upstream.stop()
        await self._leavings.stop()
        await self._pictures.stop()
        await self._inquest.stop()
        await self._limits.stop()

    def end_now(self) -> None:
        """Cut an `end` short: no draining, and SIGKILL for the child."""
        self._draining.cancel()
        self.supervisor.stop_now()

    def _web_application(self, tokens: Tokens) -> web.Application:
        settings = self._settings
        path = settings.model.path
        names = ModelNames(settings.model.served_name or served_name(path), (*settings.model.aliases, path))
        queue = settings.queue
        options = RelayOptions(hold_grace_s=queue.hold_grace_s, keepalive_s=queue.keepalive_s)
        explainer = Explainer(
            tokens, self._gate, lambda: self._preparation.plan, settings.prompt, settings.memory
        )
        completions = Completions(
            server=settings.server,
            queue=queue,
            names=names,
            preparation=self._preparation,
            tokens=tokens,
            mirroring=self._mirroring,
            relay=Relay(
                self.supervisor,
                self._gate,
                self._upstream,
                options,
                self._inquest,
                leavings=self._leavings,
                foresight=self._stalls,
            ),
            registry=self.registry,
            explainer=explainer,
            refusals=Refusals(),
            metrics=self._metrics,
            bodies=Holdings(_BODIES_AT_ONCE * settings.server.max_body_bytes),
            pictures=self._pictures,
            stopping=self._stopping,
        )
        pages = Pages(names=names, preparation=self._preparation, status=self._status, metrics=self._metrics)
        app = web.Application(
            middlewares=[
                edge.middleware(admittance(settings.server, self._keys.names), self._metrics.http_answer)
            ]
        )
        app.on_response_prepare.append(edge.sign)
        actions = Actions(self.supervisor.recycle, self.registry)
        app.add_routes(routing.table([*routes(completions, pages), *actions.routes()]))
        return app


def admittance(server: ServerSettings, keys: Mapping[str, str]) -> Admittance:
    """Who may come in, from the settings and the keys in force. Loopback names are always allowed as Host."""
    names = ("localhost", "127.0.0.1", "::1", server.host, *server.allowed_hosts)
    return Admittance(
        keys=keys,
        hosts=frozenset(map(canonical, names)),
        origins=frozenset(server.allowed_origins),
        any_address=not is_loopback(server.host),
    )


def _connection_limits(server: ServerSettings) -> ConnectionLimits:
    return ConnectionLimits(
        total=server.max_connections,
        per_address=server.connections_per_address,
        head_s=server.header_timeout_s,
        idle_s=server.idle_timeout_s,
        reading_s=server.read_timeout_s,
    )


def _concurrency(settings: Settings) -> int:
    chosen = settings.upstream.decode_concurrency
    return DECODE_CONCURRENCY if chosen == "auto" else chosen


def _supervisor_options(settings: SupervisorSettings, port: int) -> SupervisorOptions:
    values = settings.model_dump(exclude={"state_dir"})
    return SupervisorOptions(state_dir=state_folder(settings.state_dir), proxy_port=port, **values)


async def run(settings: Settings, door: Door, source: str) -> int:
    """Serve those who come through the door, until a signal says to stop."""
    host, port = door.address
    guard = Guard(settings, port=port)
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


async def _until_stopped(guard: Guard) -> ExitCode:
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
