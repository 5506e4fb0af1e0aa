"""The composition root: the only place that builds the parts, wires them, and ends them in order."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping

from aiohttp import web

from proxy.api.admin import AdminActions
from proxy.api.completions import Completions
from proxy.api.explain import Explainer
from proxy.api.metrics import Metrics
from proxy.api.pages import Pages
from proxy.api.router import routes
from proxy.api.status import Status
from proxy.cache.client import CacheClient
from proxy.cache.internal_requests import InternalRequests
from proxy.cache.search_stalls import SearchStalls
from proxy.config.folders import cache_folder, state_folder
from proxy.config.rules import is_loopback
from proxy.config.settings import ServerSettings, Settings, SupervisorSettings
from proxy.gate.admission import AdmissionPreview
from proxy.gate.budget import Budget
from proxy.gate.corrections import PeakSample
from proxy.gate.costs import budget
from proxy.gate.gate import Gate
from proxy.http import middleware
from proxy.http import routes as routing
from proxy.http.access import AccessControl, canonical
from proxy.http.body_budget import BodyBudget
from proxy.http.image_fetch import ImageFetch
from proxy.http.key_ring import KeyRing, follow
from proxy.memory.ceiling_watch import CeilingWatch
from proxy.memory.guard import MemoryGuard, MemorySnapshot
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.limits_file import FILE as LIMITS
from proxy.planning.preparation import Preparation
from proxy.planning.request_bounds import picture_policy
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.counter import TokenCounter
from proxy.relay.disconnects import Disconnects
from proxy.relay.quarantine import FILE as SUSPECTS
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay, RelayOptions
from proxy.request.model_names import ModelNames, served_name
from proxy.upstream.client import Upstream
from supervisor.aio import Tasks
from supervisor.memory_model.plan import Plan
from supervisor.supervisor import IllegalEvent, Supervisor, SupervisorOptions

log = logging.getLogger("mlxguard.app")

#: mlx_lm.server's own default (its argparse, --decode-concurrency).
DECODE_CONCURRENCY = 32


#: Bodies of the largest size that may be in memory together, as bytes of any number.
_BODIES_AT_ONCE = 4


class Gateway:
    """All parts of one proxy, from the listening socket to the child."""

    def __init__(self, settings: Settings, *, port: int) -> None:
        self._settings = settings
        tokens = TokenCounter(most_pixels=settings.request.max_image_pixels)
        options = _supervisor_options(settings.supervisor, port)
        self._limits = LearnedLimits(options.state_dir / LIMITS)
        self._preparation = Preparation(
            settings, tokens, cache_folder(), on_plan=self._apply, limits=self._limits
        )
        self.registry = Registry()
        self._inquest = Quarantine(
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
        self._pictures = ImageFetch(picture_policy(settings.request), settings.request.image_timeout_s)
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
        self._leavings = Disconnects(batched=lambda: self._batched, on_gone=self._metrics.gone)
        self._synthetics = InternalRequests(
            self.supervisor, self._gate, self._upstream, on_sent=self._metrics.own_request
        )
        self._mirroring = CacheClient(tokens)
        self._stalls = SearchStalls(
            self._mirroring,
            self.supervisor,
            self._synthetics,
            idle=lambda: self._gate.idle and not self._gate.snapshot().held and not self._synthetics.out,
            fits=lambda tokens: self._gate.would_run("", tokens, 1) is AdmissionPreview.NOW,
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

    def _learn(self, sample: PeakSample) -> None:
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

    def _web_application(self, tokens: TokenCounter) -> web.Application:
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
            refusals=OverflowHistory(),
            metrics=self._metrics,
            bodies=BodyBudget(_BODIES_AT_ONCE * settings.server.max_body_bytes),
            pictures=self._pictures,
            stopping=self._stopping,
        )
        pages = Pages(names=names, preparation=self._preparation, status=self._status, metrics=self._metrics)
        app = web.Application(
            middlewares=[
                middleware.middleware(
                    admittance(settings.server, self._keys.names), self._metrics.http_answer
                )
            ]
        )
        app.on_response_prepare.append(middleware.sign)
        actions = AdminActions(self.supervisor.recycle, self.registry)
        app.add_routes(routing.table([*routes(completions, pages), *actions.routes()]))
        return app


def admittance(server: ServerSettings, keys: Mapping[str, str]) -> AccessControl:
    """Who may come in, from the settings and the keys in force. Loopback names are always allowed as Host."""
    names = ("localhost", "127.0.0.1", "::1", server.host, *server.allowed_hosts)
    return AccessControl(
        keys=keys,
        hosts=frozenset(map(canonical, names)),
        origins=frozenset(server.allowed_origins),
        any_address=not is_loopback(server.host),
    )


def _concurrency(settings: Settings) -> int:
    chosen = settings.upstream.decode_concurrency
    return DECODE_CONCURRENCY if chosen == "auto" else chosen


def _supervisor_options(settings: SupervisorSettings, port: int) -> SupervisorOptions:
    values = settings.model_dump(exclude={"state_dir"})
    return SupervisorOptions(state_dir=state_folder(settings.state_dir), proxy_port=port, **values)
