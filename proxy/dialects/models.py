"""Pure. The list of models in one shape that clients of all protocols read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def with_anthropic_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of OpenAI's list, with what Anthropic's has: another name for its kind, and for its times.

    `model`: with `id` and `created` (Unix time in seconds), and `context_window` (tokens) once it is known.
    """
    fields: dict[str, Any] = {
        "type": "model",
        "display_name": model["id"],
        "created_at": datetime.fromtimestamp(model["created"], UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }
    if "context_window" in model:
        fields["max_input_tokens"] = model["context_window"]
    return {**model, **fields}


def model_list(models: list[dict[str, Any]]) -> dict[str, Any]:
    """The list of entries, whole: there are no further pages."""
    ends = {"first_id": models[0]["id"], "last_id": models[-1]["id"]} if models else {}
    return {"object": "list", "data": models, "has_more": False, **ends}
