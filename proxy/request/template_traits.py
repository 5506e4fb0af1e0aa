"""Pure. What the model's chat template takes, as probes have shown, and what its operator is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True, slots=True)
class TemplateTraits:
    """What a chat template takes. True: it renders it, and where text is concerned, shows the text.

    Attributes:
        renders: at least one plain conversation renders.
        error: kind and text of what it raised, if none renders.
        system: a system message in front.
        two_systems: two system messages in front.
        later_system: a system message after the first turn.
        consecutive_users: two user messages in a row.
        assistant_first: a conversation that begins with the assistant.
        user_after_result: a user message right after a tool result.
        unanswered_call: a call without a result.
        orphan_result: a tool result without a call.
        long_ids: call ids as servers and agents make them, such as UUIDs.
        other_arguments: arguments of a call that are no object.
        empty_assistant: an assistant message without text and calls.
        tools: tools change the prompt; an agent is of no use without them.
        undescribed_tools: a tool without a description.
        tools_without_parameters: a tool without parameters.
        calls: an assistant message with calls, whatever the form of their arguments.
        object_arguments: arguments as the object that the server makes of their text.
        parallel_calls: several calls in one message.
        no_user: a conversation without a user message.
        switches: arguments that turn thinking on and off, of those that templates are known to read.
        efforts: values of `reasoning_effort` that the template takes; empty if it does not read it.
        known_efforts: those of them that it does not treat like an unknown word.
        thinking_budget: it reads an argument of this name.
        dated: today's date is in the prompt, so the prefix of every session changes at midnight.
    """

    renders: bool = True
    error: str = ""
    system: bool = True
    two_systems: bool = True
    later_system: bool = True
    consecutive_users: bool = True
    assistant_first: bool = True
    user_after_result: bool = True
    unanswered_call: bool = True
    orphan_result: bool = True
    long_ids: bool = True
    other_arguments: bool = True
    empty_assistant: bool = True
    tools: bool = True
    undescribed_tools: bool = True
    tools_without_parameters: bool = True
    calls: bool = True
    object_arguments: bool = True
    parallel_calls: bool = True
    no_user: bool = True
    switches: tuple[str, ...] = ()
    efforts: tuple[str, ...] = ()
    known_efforts: tuple[str, ...] = ()
    thinking_budget: bool = False
    dated: bool = False


def warnings(traits: TemplateTraits, *, parses_calls: bool) -> list[str]:
    """What an operator should know of the template, in sentences. `parses_calls`: the server has a parser for
    the model's tool calls."""
    if not traits.renders:
        return [f"The chat template renders no conversation ({traits.error}): every chat request is refused."]
    found = []
    if not traits.tools:
        found.append("The chat template does not show tools to the model: agents cannot use it.")
    elif not parses_calls:
        found.append("The server has no parser for this model's tool calls: they reach agents as plain text.")
    elif not traits.calls:
        found.append(
            "The chat template renders no conversation with tool calls: past calls are sent as text."
        )
    if traits.dated:
        found.append(
            "The chat template writes today's date: each session's prompt is read anew after midnight."
        )
    return found


def known(fields: dict[str, Any]) -> TemplateTraits:
    """The traits that the worker reports."""
    read: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()
    }
    return replace(TemplateTraits(), **read)
