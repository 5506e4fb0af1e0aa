"""Pure. Which adapters, draft models, role mappings and template arguments a request may ask for.

A request may name only what the operator has listed. Each of these reaches deep into the server: an adapter
or a draft model makes it load files, a template argument or a role mapping changes how the prompt is made.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from proxy.request.fields import mapping, refuse, string
from proxy.request.model_names import CHILD_MODEL

#: Arguments of chat templates that agents set; every template may be given them.
USUAL_ARGUMENTS = (
    "clear_thinking",
    "enable_thinking",
    "preserve_thinking",
    "reasoning_effort",
    "thinking",
    "thinking_budget",
)
#: Arguments of transformers' own `apply_chat_template` and of the functions it calls. They change the type of
#: its result or replace the template, which kills the server's generation thread; no setting can allow them.
RESERVED_ARGUMENTS = frozenset(
    {
        "add_generation_prompt", "chat_template", "continue_final_message", "conversation", "documents",
        "max_length", "messages", "padding", "return_assistant_tokens_mask", "return_dict", "return_tensors",
        "sanitize_control_tokens", "self", "tokenize", "tokenizer_kwargs", "tools", "truncation",
    }
)  # fmt: skip
#: Longest text of a template argument, name of an adapter or draft model, and role prefix, in characters.
_LONGEST_VALUE, _LONGEST_NAME, _LONGEST_PREFIX = 256, 4096, 1024
#: Roles that the server's `convert_chat` looks up.
_ROLES = frozenset({"system_prompt", "system", "user", "assistant", "tool", "stop"})


def template_arguments(entries: Iterable[str]) -> dict[str, frozenset[str] | None]:
    """Map each usual argument and each `NAME` or `NAME=VALUE|VALUE` to its allowed values; None: any."""
    split = (entry.partition("=") for entry in (*USUAL_ARGUMENTS, *entries))
    return {name: frozenset(values.split("|")) if values else None for name, _, values in split}


@dataclass(frozen=True, slots=True)
class Allowlist:
    """What requests may ask for. `model` is the child's own --model, for requests that name an adapter."""

    adapters: frozenset[str] = frozenset()
    draft_models: frozenset[str] = frozenset()
    role_mapping: bool = False
    arguments: Mapping[str, frozenset[str] | None] = field(default_factory=lambda: template_arguments(()))
    model: str = CHILD_MODEL

    def variant(self, fields: Mapping[str, Any]) -> dict[str, str]:
        """The fields of the child's request that choose adapter and draft model. Raises InvalidRequest."""
        chosen: dict[str, str] = {}
        if fields.get("adapters") is not None:
            # For `default_model` the server uses its own --adapter-path, whatever the request says
            # (`ModelProvider.load`), so the model is named as it was given to the server.
            chosen = {"model": self.model, "adapters": _listed(fields, "adapters", self.adapters)}
        if fields.get("draft_model") is not None:
            chosen["draft_model"] = _listed(fields, "draft_model", self.draft_models)
        return chosen

    def roles(self, fields: Mapping[str, Any]) -> dict[str, str] | None:
        """The prefix of each role, for a model without a chat template. Raises InvalidRequest."""
        given = fields.get("role_mapping")
        prefixes = {} if given is None else mapping(given, "role_mapping")
        prefixes = {name: text for name, text in prefixes.items() if text is not None}
        if prefixes and not self.role_mapping:
            refuse("role_mapping", "must not be set: [request] role_mapping does not allow it")
        if not prefixes.keys() <= _ROLES:
            refuse("role_mapping", f"may have only {', '.join(sorted(_ROLES))}")
        for name, text in prefixes.items():
            string(text, f"role_mapping.{name}", _LONGEST_PREFIX)
        return prefixes or None

    def template_kwargs(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments for the chat template. Raises InvalidRequest."""
        given = fields.get("chat_template_kwargs")
        if given is None:
            return {}
        kwargs = {k: v for k, v in mapping(given, "chat_template_kwargs").items() if v is not None}
        if not kwargs.keys() <= self.arguments.keys():
            names = ", ".join(sorted(self.arguments)) or "no fields"
            refuse("chat_template_kwargs", f"may have only {names}")
        for name, value in kwargs.items():
            _check_value(value, f"chat_template_kwargs.{name}", self.arguments[name])
        return kwargs

    def allows(self, name: str, value: Any) -> bool:
        """Whether the chat template may be given this argument by a field that stands for it."""
        allowed = self.arguments.get(name)
        return name in self.arguments and (allowed is None or _as_written(value) in allowed)


def _listed(fields: Mapping[str, Any], name: str, listed: frozenset[str]) -> str:
    """The value of the field if it is listed; the error does not show the list, which may contain paths."""
    value = string(fields[name], name, _LONGEST_NAME)
    if not listed:
        refuse(name, "must not be set: this server has one model, chosen when it was started")
    if value not in listed:
        refuse(name, "must be one of those that this server allows")
    return value


def _check_value(value: Any, param: str, allowed: frozenset[str] | None) -> None:
    if type(value) not in (bool, int, float, str):
        refuse(param, "must be a string, a number, true or false")
    if type(value) is str and len(value) > _LONGEST_VALUE:
        refuse(param, f"must be at most {_LONGEST_VALUE} characters long")
    if allowed is not None and _as_written(value) not in allowed:
        refuse(param, f"must be one of {', '.join(sorted(allowed))}")


def _as_written(value: Any) -> str:
    """A value as the settings write it: `true`, `5`, `high`."""
    return str(value).lower() if type(value) is bool else str(value)
