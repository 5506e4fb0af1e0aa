"""A gateway without a child, and a client that is connected to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from proxy.api.admin import AdminActions
from proxy.api.completions import Completions
from proxy.api.explain import Explainer
from proxy.api.metrics import Metrics
from proxy.api.pages import Pages
from proxy.api.router import route_table
from proxy.api.status import Status
from proxy.app import access_control
from proxy.cache.client import CacheClient
from proxy.cache.search_times import SearchTimes
from proxy.config.settings import Settings
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.http import middleware, routes
from proxy.http.body_budget import BodyBudget
from proxy.http.image_fetch import ImageFetch
from proxy.planning.preparation import Preparation
from proxy.prompt.compaction import OverflowHistory
from proxy.prompt.counter import TokenCounter
from proxy.relay.registry import Registry
from proxy.relay.relay import Relay
from proxy.request.model_names import ModelNames
from tests.support.api_stand import FixedStatus, Stage


@pytest.fixture
async def stage() -> Stage:
    return Stage()


@pytest.fixture
async def client(stage: Stage) -> AsyncIterator[TestClient[web.Request, web.Application]]:
    settings = Settings()
    metrics, registry = Metrics(), Registry()
    names = ModelNames("tiny", ())
    completions = Completions(
        server=settings.server,
        queue=settings.queue,
        names=names,
        preparation=cast("Preparation", stage),
        counter=cast("TokenCounter", stage),
        cache=CacheClient(cast("TokenCounter", stage), SearchTimes(lambda _: None)),
        relay=cast("Relay", stage),
        registry=registry,
        explainer=Explainer(
            cast("TokenCounter", stage),
            Gate(Budget(max_running=1), max_waiting=1, on_sample=lambda _: None),
            lambda: None,
            settings.prompt,
            settings.memory,
        ),
        overflow_history=OverflowHistory(),
        metrics=metrics,
        body_budget=BodyBudget(10**6),
        images=cast("ImageFetch", stage),
        stopping=stage.stopping,
    )
    status = cast("Status", FixedStatus(stage))
    pages = Pages(names=names, preparation=cast("Preparation", stage), status=status, metrics=metrics)
    app = web.Application(
        middlewares=[middleware.middleware(access_control(settings.server, {}), metrics.http_response)]
    )
    app.on_response_prepare.append(middleware.add_headers)
    app.add_routes(routes.table(route_table(completions, pages, AdminActions(stage.recycle, registry))))
    async with TestClient(TestServer(app)) as client:
        yield client
