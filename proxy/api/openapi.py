"""The OpenAPI description of the proxy, served at /mlxguard/openapi.json.

Names and statuses come from the code that acts on them (sampling fields, roles, template arguments, the tree
of errors); tests/proxy/api/test_openapi.py holds the rest to it: every route is described, and every range is
the one that is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from proxy import errors
from proxy.request.allowlist import USUAL_ARGUMENTS
from proxy.request.messages import ROLES

Schema = dict[str, Any]


def _number(low: float, high: float) -> Schema:
    return {"type": ["number", "null"], "minimum": low, "maximum": high}


def _integer(low: int, high: int | None = None) -> Schema:
    bounds: Schema = {"minimum": low} if high is None else {"minimum": low, "maximum": high}
    return {"type": ["integer", "null"], **bounds}


_FLAG: Schema = {"type": ["boolean", "null"]}
_TEXT: Schema = {"type": "string"}

#: How tokens are chosen; keys are those of `proxy.request.sampling`.
SAMPLING: Mapping[str, Schema] = {
    "temperature": _number(0, 100),
    "top_p": _number(0, 1),
    "top_k": _integer(-1),
    "min_p": _number(0, 1),
    "repetition_penalty": _number(0, 100),
    "repetition_context_size": _integer(0),
    "presence_penalty": _number(-100, 100),
    "presence_context_size": _integer(0),
    "frequency_penalty": _number(-100, 100),
    "frequency_context_size": _integer(0),
    "xtc_probability": _number(0, 1),
    "xtc_threshold": _number(0, 1),
    "logit_bias": {
        "type": ["object", "null"],
        "description": "Token id to bias; ids of this model's vocabulary.",
        "additionalProperties": {"type": "number", "minimum": -100, "maximum": 100},
    },
    "seed": _integer(-(2**63), 2**64 - 1),
    "stop": {
        "oneOf": [
            {"type": "null"},
            {"type": "string", "maxLength": 4096},
            {"type": "array", "items": _TEXT, "maxItems": 64},
        ]
    },
}

_GENERATION: Mapping[str, Schema] = {
    "model": {"type": ["string", "null"], "description": "The served model or an alias; else 404."},
    "stream": _FLAG,
    "stream_options": {"type": ["object", "null"], "properties": {"include_usage": _FLAG}},
    "max_tokens": _integer(-1) | {"description": "Clamped to what fits; -1: the configured default."},
    "max_completion_tokens": _integer(-1) | {"description": "Wins over max_tokens."},
    "top_logprobs": _integer(-1, 11),
    "n": _integer(1, 1),
    "adapters": {"type": ["string", "null"], "description": "One that [request] adapters lists."},
    "draft_model": {"type": ["string", "null"], "description": "One that [request] draft_models lists."},
    **SAMPLING,
}

_TEXT_PART: Schema = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": _TEXT},
    "required": ["type", "text"],
}
_IMAGE_PART: Schema = {
    "type": "object",
    "description": "Where the model takes images: a data: URL, or one of a host in [request] image_hosts.",
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {"type": "object", "properties": {"url": _TEXT}, "required": ["url"]},
    },
    "required": ["type", "image_url"],
}
_PART: Schema = {"oneOf": [_TEXT_PART, _IMAGE_PART]}
_CALL: Schema = {
    "type": "object",
    "properties": {
        "id": {"type": "string", "maxLength": 256},
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 256},
                "arguments": {"type": ["string", "object"], "description": "An object, or its JSON text."},
            },
            "required": ["name"],
        },
    },
    "required": ["function"],
}
_TOOL: Schema = {
    "type": "object",
    "properties": {
        "type": {"const": "function"},
        "function": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 256},
                "description": {"type": ["string", "null"]},
                "parameters": {"type": ["object", "null"]},
            },
            "required": ["name"],
        },
    },
    "required": ["function"],
}
_MESSAGE: Schema = {
    "type": "object",
    "properties": {
        "role": {"enum": sorted(ROLES)},
        "content": {"oneOf": [{"type": ["string", "null"]}, {"type": "array", "items": _PART}]},
        "name": {"type": ["string", "null"], "maxLength": 256},
        "tool_calls": {"type": ["array", "null"], "items": _CALL},
        "tool_call_id": {"type": ["string", "null"], "maxLength": 256},
        "reasoning_content": {"type": ["string", "null"]},
        "reasoning": {"type": ["string", "null"]},
    },
    "required": ["role"],
}

SCHEMAS: Mapping[str, Schema] = {
    "Error": {
        "type": "object",
        "properties": {
            "error": {
                "type": "object",
                "properties": {
                    "message": _TEXT,
                    "type": {"enum": ["invalid_request_error", "server_error"]},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
                "required": ["message", "type", "param", "code"],
            }
        },
        "required": ["error"],
    },
    "ChatRequest": {
        "type": "object",
        "description": "Fields that are not listed are left out; some that cannot be served are refused.",
        "properties": {
            "messages": {"type": "array", "minItems": 1, "items": _MESSAGE},
            "tools": {"type": ["array", "null"], "items": _TOOL},
            "tool_choice": {"enum": ["auto", "none", "required", None]},
            "chat_template_kwargs": {
                "type": ["object", "null"],
                "properties": {
                    name: {"type": ["string", "number", "boolean", "null"]} for name in USUAL_ARGUMENTS
                },
                "description": "Further ones where [request] template_arguments lists them.",
            },
            "role_mapping": {
                "type": ["object", "null"],
                "description": "Only where [request] role_mapping allows it.",
                "additionalProperties": {"type": "string", "maxLength": 1024},
            },
            "logprobs": _FLAG,
            **_GENERATION,
        },
        "required": ["messages"],
    },
    "TextRequest": {
        "type": "object",
        "properties": {
            "prompt": {"type": "string", "minLength": 1},
            "logprobs": {"oneOf": [_FLAG, {"type": "integer", "minimum": 0, "maximum": 11}]},
            **_GENERATION,
        },
        "required": ["prompt"],
    },
}

#: (method, path) -> (what it is for, schema of its body or None, media types of its answer).
OPERATIONS: Mapping[tuple[str, str], tuple[str, str | None, tuple[str, ...]]] = {
    ("post", "/v1/chat/completions"): ("Chat", "ChatRequest", ("application/json", "text/event-stream")),
    ("post", "/chat/completions"): ("Chat", "ChatRequest", ("application/json", "text/event-stream")),
    ("post", "/v1/completions"): ("Completion", "TextRequest", ("application/json", "text/event-stream")),
    ("post", "/mlxguard/api/explain"): ("What a chat would cost", "ChatRequest", ("application/json",)),
    ("get", "/v1/models"): ("The served model, as a list", None, ("application/json",)),
    ("get", "/v1/models/{id}"): ("The served model", None, ("application/json",)),
    ("get", "/livez"): ("Whether the proxy is up", None, ("application/json",)),
    ("get", "/readyz"): ("Whether requests are served", None, ("application/json",)),
    ("get", "/health"): ("As readyz", None, ("application/json",)),
    ("get", "/metrics"): ("Prometheus metrics", None, ("text/plain",)),
    ("get", "/mlxguard/api/status"): ("Child, queue and requests", None, ("application/json",)),
    ("get", "/mlxguard/openapi.json"): ("This description", None, ("application/json",)),
}

#: Answer 503 with a document of their own.
_PROBES = frozenset({"/readyz", "/health"})


def document(version: str) -> dict[str, Any]:
    """The whole description; `version` is the proxy's."""
    paths: dict[str, dict[str, Any]] = {}
    for (method, path), (summary, body, media) in OPERATIONS.items():
        paths.setdefault(path, {})[method] = _operation(path, summary, body, media)
    return {
        "openapi": "3.1.0",
        "info": {"title": "mlxguard-proxy", "version": version},
        "paths": paths,
        "components": {
            "schemas": dict(SCHEMAS),
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"key": []}],
    }


def _operation(path: str, summary: str, body: str | None, media: tuple[str, ...]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": summary,
        "responses": {
            "200": {"description": "OK", "content": {kind: {} for kind in media}},
            **{str(status): _failure(status) for status in sorted(_statuses(errors.GuardError))},
        },
    }
    if path in _PROBES:
        operation["responses"]["503"] = {"description": "Not now", "content": {"application/json": {}}}
    if body is not None:
        reference = {"schema": {"$ref": f"#/components/schemas/{body}"}}
        operation["requestBody"] = {"required": True, "content": {"application/json": reference}}
    if "{id}" in path:
        parameter = {"name": "id", "in": "path", "required": True, "schema": {**_TEXT, "minLength": 1}}
        operation["parameters"] = [parameter]
    return operation


def _failure(status: int) -> Schema:
    reference = {"schema": {"$ref": "#/components/schemas/Error"}}
    return {"description": HTTPStatus(status).phrase, "content": {"application/json": reference}}


def _statuses(kind: type[errors.GuardError]) -> Iterator[int]:
    """Every status in the tree of errors."""
    yield kind.status
    for child in kind.__subclasses__():
        yield from _statuses(child)
