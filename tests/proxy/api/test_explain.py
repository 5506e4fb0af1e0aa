from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from proxy.api import explain as explain_module
from proxy.api.cost_preview import cost_preview
from proxy.api.explain import Explainer, explain
from proxy.config.settings import MemorySettings, PromptSettings
from proxy.gate.budget import Budget
from proxy.gate.gate import Gate
from proxy.prompt.fit import Limits
from proxy.request.completion import ChatPrompt, CompletionRequest
from proxy.request.mends import Mend
from tests.proxy.prompt.test_fit import CUTTING, FREE, Letters, chat


async def explained(
    request: CompletionRequest, limits: Limits, letters: Letters | None = None, **settings: Any
) -> dict[str, Any]:
    return await explain(request, letters or Letters(), limits, PromptSettings(**settings))


async def test_what_was_mended_is_told() -> None:
    request = chat("u123", 7)
    request.mends.counts[Mend.NUL] += 2
    assert (await explained(request, FREE))["mended"] == {"nul_replaced": 2}


async def test_a_prompt_that_fits() -> None:
    document = await explained(chat("s0 u123 a", 7), replace(FREE, context_length=10))
    assert document == {
        "prompt_tokens": 7,
        "template_arguments": {},
        "sampling": {"fields": {}, "from_model": []},
        "ignored": [],
        "mended": {},
        "tools_tokens": 0,
        "verdict": "unchanged",
        "reason": "The limit is 9 tokens.",
        "sent": {
            "prompt_tokens": 7,
            "dropped_messages": 0,
            "dropped_tokens": 0,
            "max_tokens": 3,
            "max_tokens_clamped": True,
        },
        "messages": [
            {"first": 0, "last": 0, "roles": ["system"], "tokens": 2, "sent": "unchanged"},
            {"first": 1, "last": 1, "roles": ["user"], "tokens": 4, "sent": "unchanged"},
            {"first": 2, "last": 2, "roles": ["assistant"], "tokens": 1, "sent": "unchanged"},
        ],
        "limits": [
            {"name": "context_length", "tokens": 10, "from": "the model's own files"},
            {"name": "default_max_tokens", "tokens": 50, "from": "[prompt] default_max_tokens"},
            {"name": "longest_prompt", "tokens": 9, "from": "the least of these, with room for one token"},
        ],
    }


@pytest.mark.parametrize(
    ("limits", "settings", "place"),
    [
        (replace(FREE, max_prompt_tokens=90, fits_alone=90), {}, "the plan"),
        (replace(FREE, max_prompt_tokens=90, fits_alone=95), {}, "the model"),
        (replace(FREE, max_prompt_tokens=90), {}, "the model"),
        (replace(FREE, max_prompt_tokens=90, fits_alone=90), {"max_prompt_tokens": 90}, "[prompt] max_p"),
    ],
)
async def test_where_the_limit_comes_from(limits: Limits, settings: dict[str, Any], place: str) -> None:
    found = (await explained(chat("u1"), limits, **settings))["limits"]
    assert found[0]["from"].startswith(place)
    assert [each["tokens"] for each in found if each["name"] == "fits_alone"] == (
        [] if limits.fits_alone is None else [limits.fits_alone]
    )


async def test_the_cost_is_that_of_what_would_be_sent() -> None:
    gate = Gate(Budget(max_running=1), max_waiting=1, on_sample=lambda _: None)
    explainer = Explainer(Letters(), gate, lambda: None, PromptSettings(), MemorySettings())
    document = await explainer.document(chat("s0 u1 a1 u2 a2 u3 a3 u4"), CUTTING, "a")
    assert document["verdict"] == "truncated"
    assert document["cost"] == cost_preview(gate, "a", 13, 50)
    refused = await explainer.document(chat("u0123456789"), replace(FREE, max_prompt_tokens=5), "a")
    assert refused["cost"] is None


async def test_a_prompt_that_is_truncated() -> None:
    document = await explained(chat("s0 u1 a1 u2 a2 u3 a3 u4"), CUTTING, max_prompt_tokens=13)
    assert (document["verdict"], document["prompt_tokens"]) == ("truncated", 16)
    assert document["sent"]["prompt_tokens"] == 13
    sent = [entry["sent"] for entry in document["messages"]]
    assert sent == ["unchanged", "dropped", "dropped", "changed", *["unchanged"] * 4]
    assert document["limits"][0] == {
        "name": "max_prompt_tokens",
        "tokens": 13,
        "from": "[prompt] max_prompt_tokens",
    }


async def test_a_prompt_that_is_refused() -> None:
    document = await explained(chat("u0123456789"), replace(FREE, max_prompt_tokens=5))
    assert (document["verdict"], document["sent"]) == ("refused", None)
    assert "11 tokens > 5 maximum" in document["reason"]
    assert document["messages"][0]["sent"] == "refused"


async def test_messages_and_tools_are_the_whole_prompt() -> None:
    class WithTools(Letters):
        def render(self, prompt: Any) -> str:
            return super().render(prompt) + "T" * 5 * len(prompt.tools or ())

    request = chat("s0 u123 a4")
    assert isinstance(request.prompt, ChatPrompt)
    request = replace(request, prompt=replace(request.prompt, tools=({"type": "function"},) * 2))
    document = await explained(request, FREE, WithTools())
    assert document["tools_tokens"] == 10
    assert [entry["tokens"] for entry in document["messages"]] == [2, 4, 2]


async def test_a_message_that_cannot_end_the_conversation_is_grouped_with_the_next() -> None:
    letters = Letters(accepts=lambda prompt: prompt.messages[-1]["role"] == "user")
    document = await explained(chat("s0 u1 a2 u3"), FREE, letters)
    assert [(e["first"], e["last"], e["tokens"]) for e in document["messages"]] == [(0, 1, 4), (2, 3, 4)]


async def test_a_long_conversation_takes_few_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "_MAX_GROUPS", 3)
    letters = Letters()
    document = await explained(chat("u1 a2 u3 a4 u5 a6 u7"), replace(CUTTING, max_prompt_tokens=10), letters)
    assert [(e["first"], e["last"], e["sent"]) for e in document["messages"]] == [
        (0, 2, "dropped"),
        (3, 5, "partly"),
        (6, 6, "unchanged"),
    ]
    assert sum(entry["tokens"] for entry in document["messages"]) == 14


async def test_a_huge_prompt_is_not_broken_down_by_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explain_module, "_MAX_TOKENS", 3)
    letters = Letters()
    document = await explained(chat("u123"), replace(FREE, max_prompt_tokens=2), letters)
    assert (document["prompt_tokens"], document["verdict"]) == (4, "refused")
    assert "messages" not in document
    assert letters.counted == 2
