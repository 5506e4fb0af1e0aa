"""Builds the routing table: which path and method is answered by which handler."""

from __future__ import annotations

from aiohttp import web

from proxy.api.completions import Completions
from proxy.api.pages import Pages


def routes(completions: Completions, pages: Pages) -> list[web.RouteDef]:
    """Every path of the proxy."""
    return [
        web.post("/v1/chat/completions", completions.chat),
        web.post("/chat/completions", completions.chat),
        web.post("/v1/completions", completions.text),
        web.get("/v1/models", pages.models),
        web.get("/v1/models/{id:.+}", pages.model),
        web.get("/livez", pages.livez),
        web.get("/readyz", pages.readyz),
        web.get("/health", pages.readyz),
        web.get("/metrics", pages.exposition),
        web.get("/mlxguard/api/status", pages.api_status),
        web.get("/mlxguard/openapi.json", pages.openapi),
        web.post("/mlxguard/api/explain", completions.explain),
    ]
