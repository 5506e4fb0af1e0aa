"""The route table: which handler serves which method and path."""

from __future__ import annotations

from aiohttp import web

from proxy.api.admin import AdminActions
from proxy.api.completions import Completions
from proxy.api.pages import Pages


def route_table(completions: Completions, pages: Pages, admin: AdminActions) -> list[web.RouteDef]:
    """Every route of the gateway."""
    return [
        web.post("/v1/chat/completions", completions.chat),
        web.post("/chat/completions", completions.chat),
        web.post("/v1/completions", completions.text),
        web.post("/v1/messages", completions.messages),
        web.post("/v1/messages/count_tokens", completions.count_tokens),
        web.post("/v1/responses", completions.responses),
        web.head("/api/hello", pages.hello),
        web.get("/v1/models", pages.models),
        web.get("/v1/models/{id:.+}", pages.model),
        web.get("/livez", pages.livez),
        web.get("/readyz", pages.readyz),
        web.get("/health", pages.readyz),
        web.get("/metrics", pages.exposition),
        web.get("/mlxguard/api/status", pages.api_status),
        web.get("/mlxguard/openapi.json", pages.openapi),
        web.post("/mlxguard/api/explain", completions.explain),
        web.post("/mlxguard/api/recycle", admin.recycle),
        web.post("/mlxguard/api/requests/{id}/cancel", admin.cancel),
    ]
