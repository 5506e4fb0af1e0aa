"""Tests of the probes: on templates that refuse or lose something, and on those that models ship."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from proxy.request.thinking import EFFORTS
from proxy.worker.template_probes import probe_template
from tests.support.real_templates import FOLDER, templates

ROOT = Path(__file__).parents[3]

#: These need arguments of their own, or render no tool: the bare server cannot use them either.
UNUSABLE = {"fireworks-ai-llama-3-firefunction-v2", "llama-cpp-deepseek-r1"}
#: It renders no conversation without tools, and no tool without every field.
NEEDS_WHOLE_TOOLS = {"CohereForAI-c4ai-command-r-plus-tool_use"}


def probed(source: str) -> dict[str, Any]:
    environment = ImmutableSandboxedEnvironment()
    environment.globals["raise_exception"] = _raise
    template = environment.from_string(source)

    def render(prompt: dict[str, Any]) -> str:
        return template.render(prompt, **prompt.get("chat_template_kwargs", {}))

    return probe_template(render)


def _raise(text: str) -> None:
    raise jinja2.TemplateError(text)


EVERYTHING = (
    "{% for t in tools %}{{ t | tojson }}{% endfor %}"
    "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% for c in m.tool_calls %}{{ c.function.name }} {{ c.function.arguments | tojson }}{% endfor %}"
    "{% endfor %}"
)


def test_a_template_that_takes_everything() -> None:
    traits = probed(EVERYTHING)
    assert traits.pop("dated") is False
    assert {name: traits.pop(name) for name in ("switches", "efforts", "known_efforts")} == {
        "switches": [],
        "efforts": [],
        "known_efforts": [],
    }
    assert traits.pop("thinking_budget") is False
    assert set(traits.values()) == {True}


@pytest.mark.parametrize(
    ("reads", "efforts", "known"),
    [
        ("{{ 'Reasoning: ' + effort }}", ["low", "medium", "high"], ["low", "medium", "high"]),
        (
            "{% if effort not in ['high', 'no_think'] %}{{ raise_exception(effort) }}{% endif %}{{ effort }}",
            ["no_think", "high"],
            ["no_think", "high"],
        ),
        ("{% if effort in ['low', 'minimal'] %}less{% endif %}", list(EFFORTS), ["minimal", "low"]),
        ("{% if thinking and effort == 'max' %}more{% endif %}", list(EFFORTS), ["max"]),
        ("{{ effort and '' }}", [], []),
    ],
)
def test_the_efforts_that_a_template_knows(reads: str, efforts: list[str], known: list[str]) -> None:
    traits = probed("{% set effort = reasoning_effort | default('high') %}" + reads + EVERYTHING)
    assert (traits["efforts"], traits["known_efforts"]) == (efforts, known)


def test_the_switches_that_a_template_reads() -> None:
    traits = probed("{% if enable_thinking is false %}off{% endif %}{{ thinking_budget }}" + EVERYTHING)
    assert traits["switches"] == ["enable_thinking"]
    assert traits["thinking_budget"]


@pytest.mark.parametrize(
    ("refusal", "trait"),
    [
        ("m.role == 'system' and not loop.first", "later_system"),
        ("m.role == 'system'", "system"),
        ("not loop.first and m.role == loop.previtem.role", "consecutive_users"),
        ("loop.first and m.role == 'assistant'", "assistant_first"),
        ("m.role == 'user' and loop.previtem and loop.previtem.role == 'tool'", "user_after_result"),
        ("m.role == 'assistant' and not m.content and not m.tool_calls", "empty_assistant"),
        ("m.tool_call_id and m.tool_call_id | length != 9", "long_ids"),
        ("m.tool_calls and m.tool_calls | length > 1", "parallel_calls"),
        ("m.tool_calls and m.tool_calls[0].function.arguments is not mapping", "other_arguments"),
        ("m.tool_calls and m.tool_calls[0].function.arguments is mapping", "object_arguments"),
        ("m.tool_calls", "calls"),
        ("m.role == 'tool' and loop.previtem.role != 'assistant'", "orphan_result"),
    ],
)
def test_what_a_template_refuses(refusal: str, trait: str) -> None:
    raises = "{{ raise_exception('no') }}"
    rule = "{% for m in messages %}{% if " + refusal + " %}" + raises + "{% endif %}{% endfor %}"
    assert probed(rule + EVERYTHING)[trait] is False


def test_text_that_is_lost_counts_as_refused() -> None:
    """Some templates take a second system message and never show it."""
    traits = probed(
        "{% for m in messages %}"
        "{% if m.role != 'system' or loop.first %}{{ m.content }}{% endif %}"
        "{% endfor %}"
    )
    assert (traits["system"], traits["two_systems"], traits["later_system"]) == (True, False, False)
    assert traits["tools"] is False


def test_fields_of_tools_that_a_template_needs() -> None:
    traits = probed("{% for t in tools %}{{ t.function.description.strip() }}{% endfor %}" + EVERYTHING)
    assert (traits["undescribed_tools"], traits["tools_without_parameters"]) == (False, True)


def test_todays_date() -> None:
    today = datetime.datetime.now().astimezone()
    assert probed(f"{today:%d %b %Y}" + EVERYTHING)["dated"] is True


def test_a_template_that_renders_nothing_says_why() -> None:
    traits = probed("{{ nothing.at.all }}")
    assert traits["renders"] is False
    assert traits["error"] == "UndefinedError: 'nothing' is undefined"


def test_a_template_that_takes_too_long_is_taken_to_accept_everything(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("proxy.worker.template_probes._PROBING_S", 0.01)

    def endless(_: dict[str, Any]) -> str:
        while True:
            pass

    assert probe_template(endless) == {}


@pytest.mark.clients
@pytest.mark.timeout(600)
def test_real_templates_take_every_adapted_history(tiny_model: Path) -> None:
    """71 templates as models ship them, each with 40 odd histories, counted by segments and as a whole."""
    assert len(templates()) > 60
    command = [sys.executable, "-m", "tests.support.template_rendering", str(tiny_model), str(FOLDER), "40"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    outcomes = json.loads(done.stdout)
    assert {name: each["refused"] for name, each in outcomes.items() if each["refused"]}.keys() <= (
        UNUSABLE | NEEDS_WHOLE_TOOLS
    ), outcomes
    assert [name for name, each in outcomes.items() if each["different"]] == []
    assert sum(each["raw"] for each in outcomes.values()) > 500, "the histories are odd"
