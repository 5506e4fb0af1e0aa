"""Pure. Turns the thinking switches of several APIs into arguments of the model's chat template.

Clients send `reasoning_effort` (OpenAI), `reasoning` (OpenRouter), `thinking` (Anthropic, DeepSeek) or
`enable_thinking` (Qwen) beside the messages, where the server reads none of them. Templates read
`enable_thinking`, `thinking`, `reasoning_effort` or `thinking_budget`, if any; the probes have found out
which (`proxy/worker/template_probes.py`). Arguments that the request names itself win, and the operator's
allowlist holds. A switch that the template has no variable for is dropped, and named like any other field.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from proxy.request.template_traits import TemplateTraits

#: Efforts by how much they let the model think. `no_think` is a template's own word for none (Hunyuan).
EFFORTS = ("none", "no_think", "minimal", "low", "medium", "high", "xhigh", "max")

#: Up to this effort a client wants little thinking, so a word that the template does not know will not do.
_LITTLE = EFFORTS.index("low")

#: The fields, the most specific first: of two that contradict each other the first one holds.
FIELDS = ("enable_thinking", "thinking", "reasoning", "reasoning_effort")


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a field asks for; None where it says nothing. `budget`: in tokens."""

    on: bool | None = None
    effort: str | None = None
    budget: int | None = None


_NOTHING = _Wanted()


def thinking_arguments(
    fields: Mapping[str, Any],
    template: TemplateTraits,
    explicit: Mapping[str, Any],
    allows: Callable[[str, Any], bool],
) -> tuple[dict[str, Any], frozenset[str]]:
    """The template's arguments, and the names of the fields that had a part in them.

    Args:
        explicit: arguments that the request names itself; they stay as they are.
        allows: whether the operator allows an argument with this value.
    """
    arguments: dict[str, Any] = dict(explicit)
    read: set[str] = set()
    for name in FIELDS:
        wanted = _wanted(name, fields.get(name))
        for argument, value in _arguments(wanted, template).items():
            if argument in arguments or allows(argument, value):
                arguments.setdefault(argument, value)
                read.add(name)
    return arguments, frozenset(read)


def _wanted(name: str, value: Any) -> _Wanted:
    if type(value) is bool and name != "reasoning_effort":
        return _Wanted(on=value)
    if name == "reasoning_effort" or (name == "thinking" and type(value) is str):
        return _effort(value)
    if type(value) is not dict:
        return _NOTHING
    if name == "thinking":
        kinds = {"disabled": False, "enabled": True, "adaptive": True}
        kind = value.get("type")
        return _Wanted(
            on=kinds.get(kind) if type(kind) is str else None, budget=_count(value.get("budget_tokens"))
        )
    if name == "reasoning":
        switch, effort = value.get("enabled"), _effort(value.get("effort"))
        on = switch if type(switch) is bool else effort.on
        return _Wanted(on=on, effort=effort.effort, budget=_count(value.get("max_tokens")))
    return _NOTHING


def _effort(value: Any) -> _Wanted:
    if type(value) is not str or value not in EFFORTS:
        return _NOTHING
    return _Wanted(on=value not in ("none", "no_think"), effort=value)


def _count(value: Any) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _arguments(wanted: _Wanted, template: TemplateTraits) -> dict[str, Any]:
    arguments: dict[str, Any] = {}
    if wanted.on is not None:
        arguments.update(dict.fromkeys(template.switches, wanted.on))
    effort = wanted.effort or ("none" if wanted.on is False else None)
    if effort is not None and (word := _nearest(effort, template)) is not None:
        arguments["reasoning_effort"] = word
    if wanted.budget is not None and template.thinking_budget:
        arguments["thinking_budget"] = wanted.budget
    return arguments


def _nearest(effort: str, template: TemplateTraits) -> str | None:
    """The template's word for an effort: the same, or else the nearest that it takes."""
    rank = EFFORTS.index(effort)
    if effort in template.known_efforts:
        return effort
    if rank <= _LITTLE:
        words = [word for word in template.known_efforts if EFFORTS.index(word) <= _LITTLE]
    elif effort in template.efforts:
        return effort
    else:
        words = list(template.efforts)
    return min(words, key=lambda word: abs(EFFORTS.index(word) - rank), default=None)
