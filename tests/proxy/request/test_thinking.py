"""Thinking switches of several APIs as arguments of the model's chat template."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from proxy.request.allowlist import Allowlist, template_arguments
from proxy.request.completion import Bounds, ChatPrompt
from proxy.request.parse import ignored, parse_chat
from proxy.request.template_traits import TemplateTraits
from proxy.request.thinking import EFFORTS

QWEN = TemplateTraits(switches=("enable_thinking",))
DEEPSEEK = TemplateTraits(switches=("enable_thinking", "thinking"), efforts=EFFORTS, known_efforts=("max",))
GPT_OSS = TemplateTraits(efforts=("low", "medium", "high"), known_efforts=("low", "medium", "high"))
SOLAR = TemplateTraits(efforts=EFFORTS, known_efforts=("minimal", "low"))
HUNYUAN = TemplateTraits(efforts=("no_think", "low", "high"), known_efforts=("no_think", "low", "high"))
SEED = TemplateTraits(thinking_budget=True)
NONE = TemplateTraits()


def _mapped(
    fields: dict[str, Any], template: TemplateTraits, *entries: str
) -> tuple[dict[str, Any], list[str]]:
    """The template's arguments, and the fields that had no effect."""
    bounds = Bounds(template=template, allowlist=Allowlist(arguments=template_arguments(entries)))
    body = {"messages": [{"role": "user", "content": "hi"}], **fields}
    request = parse_chat(orjson.dumps(body), bounds)
    assert isinstance(request.prompt, ChatPrompt)
    return request.prompt.template_kwargs, ignored(request.dropped)


OFF: list[dict[str, Any]] = [
    {"reasoning_effort": "none"},
    {"enable_thinking": False},
    {"thinking": {"type": "disabled"}},
    {"thinking": False},
    {"reasoning": {"effort": "none"}},
    {"reasoning": {"enabled": False}},
]


@pytest.mark.parametrize("field", OFF)
@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        (QWEN, {"enable_thinking": False}),
        (DEEPSEEK, {"enable_thinking": False, "thinking": False}),
        (GPT_OSS, {"reasoning_effort": "low"}),
        (SOLAR, {"reasoning_effort": "minimal"}),
        (HUNYUAN, {"reasoning_effort": "no_think"}),
    ],
)
def test_off(field: dict[str, Any], template: TemplateTraits, arguments: dict[str, Any]) -> None:
    assert _mapped(field, template) == (arguments, [])


@pytest.mark.parametrize(
    ("field", "template", "arguments"),
    [
        ({"reasoning_effort": "high"}, QWEN, {"enable_thinking": True}),
        ({"reasoning_effort": "high"}, GPT_OSS, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "minimal"}, GPT_OSS, {"reasoning_effort": "low"}),
        ({"reasoning": {"effort": "xhigh"}}, GPT_OSS, {"reasoning_effort": "high"}),
        ({"reasoning_effort": "medium"}, HUNYUAN, {"reasoning_effort": "low"}),
        ({"reasoning_effort": "high"}, SOLAR, {"reasoning_effort": "high"}),
        (
            {"reasoning_effort": "max"},
            DEEPSEEK,
            {"enable_thinking": True, "thinking": True, "reasoning_effort": "max"},
        ),
        ({"thinking": {"type": "enabled", "budget_tokens": 512}}, SEED, {"thinking_budget": 512}),
        ({"thinking": {"type": "adaptive"}}, QWEN, {"enable_thinking": True}),
    ],
)
def test_on(field: dict[str, Any], template: TemplateTraits, arguments: dict[str, Any]) -> None:
    assert _mapped(field, template) == (arguments, [])


@pytest.mark.parametrize("field", [*OFF, {"thinking": 7}, {"reasoning_effort": "much"}])
def test_what_the_template_does_not_read_is_named(field: dict[str, Any]) -> None:
    assert _mapped(field, NONE) == ({}, list(field))


def test_arguments_of_the_request_win() -> None:
    fields = {"chat_template_kwargs": {"enable_thinking": True}, "reasoning_effort": "none"}
    assert _mapped(fields, QWEN) == ({"enable_thinking": True}, [])


def test_the_most_specific_field_wins() -> None:
    fields = {"reasoning_effort": "high", "enable_thinking": False}
    assert _mapped(fields, QWEN) == ({"enable_thinking": False}, [])


def test_what_the_operator_does_not_allow_is_not_sent() -> None:
    fields = {"reasoning_effort": "high"}
    assert _mapped(fields, GPT_OSS, "reasoning_effort=low|medium") == ({}, ["reasoning_effort"])
    assert _mapped({"reasoning_effort": "low"}, GPT_OSS, "reasoning_effort=low") == (
        {"reasoning_effort": "low"},
        [],
    )
