"""The OpenAPI description of the gateway, served at /mlxguard/openapi.json.

Paths and schemas are written by hand in `openapi.json`, next to this module. What the code itself defines
(roles, template arguments, error statuses, the version) is filled in here. tests/proxy/api/test_openapi.py
checks the rest against the code: every route is described, and every range is the one that is enforced.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from http import HTTPStatus
from pathlib import Path
from typing import Any

from proxy import errors
from proxy.dialects.errors import MESSAGES_PATH
from proxy.request.allowlist import USUAL_ARGUMENTS
from proxy.request.messages import ROLES


@cache
def document(version: str) -> dict[str, Any]:
    """The whole description, to be read only. `version`: the gateway's."""
    description: dict[str, Any] = json.loads(Path(__file__).with_name("openapi.json").read_bytes())
    description["info"]["version"] = version
    schemas = description["components"]["schemas"]
    schemas["Message"]["properties"]["role"] = {"enum": sorted(ROLES)}
    schemas["ChatRequest"]["properties"]["chat_template_kwargs"]["properties"] = {
        name: {"type": ["string", "number", "boolean", "null"]} for name in USUAL_ARGUMENTS
    }
    for path, operations in description["paths"].items():
        schema = "MessagesError" if path.startswith(MESSAGES_PATH) else "Error"
        for operation in operations.values():
            operation["responses"] = _failures(schema) | operation["responses"]
    return description


def _failures(schema: str) -> dict[str, Any]:
    statuses = sorted(set(_statuses(errors.GatewayError)))
    return {str(status): _failure(status, schema) for status in statuses}


def _failure(status: int, schema: str) -> dict[str, Any]:
    reference = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": reference}}


def _statuses(kind: type[errors.GatewayError]) -> Iterator[int]:
    """The status of an error class and of all classes below it."""
    yield kind.status
    for child in kind.__subclasses__():
        yield from _statuses(child)
