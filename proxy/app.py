"""The composition root: builds the parts of the gateway, wires them together, and stops them in order."""

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
from proxy.api.router import route_table
from proxy.api.status import Status
from proxy.cache.client import CacheClient
from proxy.cache.internal_requests import InternalRequests
from proxy.cache.search_stalls import SearchStalls
from proxy.cache.search_times import SearchTimes
from proxy.config.folders import cache_folder, state_folder
from proxy.config.rules import is_loopback
from proxy.config.settings import ServerSettings, Settings, SupervisorSettings
from proxy.gate.admission import AdmissionPreview
from proxy.gate.budget import Budget
from proxy.gate.corrections import PeakSample
from proxy.gate.costs import budget
from proxy.gate.gate import Gate
from proxy.http import middleware, routes
from proxy.http.access import AccessControl, canonical
from proxy.http.body_budget import BodyBudget
from proxy.http.image_fetch import ImageFetch
from proxy.http.key_ring import KeyRing, follow
from proxy.memory.ceiling_watch import CeilingWatch
from proxy.memory.guard import MemoryGuard
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.learned_state import LearnedFile
from proxy.planning.preparation import Preparation, image_policy
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.counter import TokenCounter
from proxy.relay.disconnects import Disconnects
from proxy.relay.quarantine import Quarantine
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay
from proxy.request.model_names import ModelNames, served_name
from proxy.upstream.client import Upstream
from supervisor.aio import Tasks
from supervisor.child.options import SupervisorOptions
from supervisor.lifecycle.state_machine import IllegalEvent
from supervisor.memory_model.plan import Plan
from supervisor.supervisor import Supervisor

log = logging.getLogger("mlxguard.app")

#: The default of mlx_lm.server's own --decode-concurrency option.
DECODE_CONCURRENCY = 32

#: All request bodies in memory together may hold as many bytes as this number of bodies of the largest size.
_BODIES_AT_ONCE = 4


class Gateway:
    """One gateway: every part between the client connections and the child."""

    def __init__(self, settings: Settings, *, port: int) -> None:
        self._settings = settings
        counter = TokenCounter(most_pixels=settings.request.max_image_pixels)
        options = _supervisor_options(settings.supervisor, port)
        self._learned = LearnedFile(options.state_dir)
        self._learned_limits = LearnedLimits(self._learned)
        self._preparation = Preparation(
            settings, counter, cache_folder(), on_plan=self._apply, limits=self._learned_limits
        )
        self.registry = Registry()
        self._quarantine = Quarantine(
            self.registry.jobs,
            self._learned,
            model=settings.model.path,
            internal_requests=lambda: self._internal_requests.out,
            limits=self._learned_limits,
        )
        self.supervisor = Supervisor(
            self._preparation.prepare, options, attribute_crash=self._quarantine.attribute
        )
        running = settings.upstream.decode_concurrency
        self._gate = Gate(
            Budget(max_running=DECODE_CONCURRENCY if running == "auto" else running),
            max_waiting=settings.queue.max_waiting,
            fairness=settings.queue.fairness,
            max_wait_s=settings.queue.max_wait_s,
            on_sample=self._learn,
        )
        self._upstream = Upstream()
        self._batched = True
        self._images = ImageFetch(image_policy(settings.request), settings.request.image_timeout_s)
        self._key_ring = KeyRing(settings.server)
        self.metrics = Metrics()
        self._disconnects = Disconnects(batched=lambda: self._batched, on_dropped=self.metrics.disconnected)
        self._cache = CacheClient(
            counter, SearchTimes(self.supervisor.expect_silence), on_contents=self._gate.set_cache
        )
        self._internal_requests = InternalRequests(
            self.supervisor,
            self._gate,
            self._upstream,
            self._cache,
            on_sent=self.metrics.internal_request,
        )
        self._search_stalls = SearchStalls(
            self._cache,
            self._internal_requests,
            idle=lambda: self._gate.idle and not self._internal_requests.out,
            fits=lambda tokens: self._gate.preview("", tokens, 1) is AdmissionPreview.NOW,
            on_stall=self.metrics.search_stall,
            on_read=self._gate.prompt_read,
        )
        self.supervisor.subscribe(self._cache.changed)
        self._memory = MemoryGuard(
            self.supervisor,
            self._gate,
            self.registry.jobs,
            self._internal_requests.send,
            entries=lambda: plan.serving.prompt_cache_size if (plan := self._preparation.plan) else 0,
        )
        self._status = Status(
            self.supervisor,
            self._gate,
            self.registry,
            self._preparation,
            quarantine=self._quarantine,
            learned_limits=self._learned_limits,
            memory=self._memory,
            started_at=int(time.time()),
        )
        self.metrics.register(self._status)
        preparation = self._preparation
        self._ceiling_watch = CeilingWatch(
            self.supervisor, self._gate, lambda: preparation.plan, preparation.replan
        )
        self._watchers = Tasks()
        self._stopping = asyncio.Event()
        self.web = self._web_application(counter)

    async def start(self) -> None:
        """Start the child and the tokenizer worker; return before they are ready.

        Raises:
            AlreadyRunning: another gateway uses the state folder.
            OSError: the state folder cannot be created or written.
        """
        await self.supervisor.start()
        self._quarantine.load()
        self._watchers.repeat(lambda: follow(self._key_ring), "follow keys")
        self._watchers.repeat(self._memory.run, "memory")
        self._watchers.repeat(self._ceiling_watch.run, "ceiling")

    def _apply(self, plan: Plan) -> None:
        """Admit requests by this plan from now on."""
        self._gate.correct(self._learned_limits.corrections)
        self._gate.set_budget(budget(plan))
        self._cache.planned(plan)
        self._batched = plan.model.batched

    def _learn(self, sample: PeakSample) -> None:
        """Record how a memory prediction turned out, and save the corrections that follow."""
        self.metrics.memory_predicted(sample)
        self._learned_limits.record_corrections(self._gate.corrections)

    def recycle(self, reason: str) -> None:
        """Restart the child in order; also starts it again after the supervisor gave up."""
        self._watchers.start(self._recycle(reason), "recycle")

    async def _recycle(self, reason: str) -> None:
        try:
            await self.supervisor.recycle(reason)
        except IllegalEvent:
            log.warning("recycle_refused", extra={"reason": "the proxy is stopping"})

    async def stop(self) -> None:
        """Drain, then stop child and worker; requests that still run end with the documented error."""
        self._stopping.set()
        self._draining = self._watchers.start(self.registry.emptied(), "drain")
        await asyncio.wait((self._draining,), timeout=self._settings.supervisor.drain_s)
        self._draining.cancel()
        self._watchers.cancel()
        await self._watchers.finish()
        await self._search_stalls.stop()
        await self._cache.stop()
        await self.supervisor.stop()
        await self._preparation.stop()
        await self._upstream.stop()
        await self._disconnects.stop()
        await self._images.stop()
        self._learned_limits.save()
        await self._learned.stop()

    def stop_now(self) -> None:
        """Cut `stop` short: stop draining, and kill the child with SIGKILL."""
        self._draining.cancel()
        self.supervisor.stop_now()

    def _web_application(self, counter: TokenCounter) -> web.Application:
        settings = self._settings
        path = settings.model.path
        names = ModelNames(settings.model.served_name or served_name(path), (*settings.model.aliases, path))
        queue = settings.queue
        explainer = Explainer(
            counter, self._gate, lambda: self._preparation.plan, settings.prompt, settings.memory
        )
        completions = Completions(
            server=settings.server,
            queue=queue,
            names=names,
            preparation=self._preparation,
            counter=counter,
            cache=self._cache,
            relay=Relay(
                self.supervisor,
                self._gate,
                self._upstream,
                queue,
                self._quarantine,
                disconnects=self._disconnects,
                search_stalls=self._search_stalls,
            ),
            registry=self.registry,
            explainer=explainer,
            overflow_history=OverflowHistory(),
            metrics=self.metrics,
            body_budget=BodyBudget(_BODIES_AT_ONCE * settings.server.max_body_bytes),
            images=self._images,
            stopping=self._stopping,
        )
        pages = Pages(names=names, preparation=self._preparation, status=self._status, metrics=self.metrics)
        access = access_control(settings.server, self._key_ring.keys)
        app = web.Application(middlewares=[middleware.middleware(access, self.metrics.http_response)])
        app.on_response_prepare.append(middleware.add_headers)
        actions = AdminActions(self.supervisor.recycle, self.registry)
        app.add_routes(routes.table(route_table(completions, pages, actions)))
        return app


def access_control(server: ServerSettings, keys: Mapping[str, str]) -> AccessControl:
    """Build access control from settings and current keys; loopback names are always allowed as Host."""
    names = ("localhost", "127.0.0.1", "::1", server.host, *server.allowed_hosts)
    return AccessControl(
        keys=keys,
        hosts=frozenset(map(canonical, names)),
        origins=frozenset(server.allowed_origins),
        any_address=not is_loopback(server.host),
    )


def _supervisor_options(settings: SupervisorSettings, port: int) -> SupervisorOptions:
    values = settings.model_dump(exclude={"state_dir"})
    return SupervisorOptions(state_dir=state_folder(settings.state_dir), proxy_port=port, **values)
