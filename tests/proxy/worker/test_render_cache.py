from __future__ import annotations

from typing import Any

import pytest

from proxy.worker.render_cache import RenderCache

A, B, C = ({"role": "user", "content": content} for content in "abc")


class Stand:
    """Renders, and says how often."""

    def __init__(self) -> None:
        self.now, self.times = 0.0, 0
        self.last = RenderCache(self.render, lambda: self.now)

    def render(self, prompt: dict[str, Any]) -> str:
        self.times += 1
        return str(prompt)


def test_the_same_prompt_is_rendered_once() -> None:
    stand = Stand()
    first = stand.last({"messages": [A, B, dict(C)], "tools": [{"x": 1}]})
    assert stand.last({"messages": [A, B, dict(C)], "tools": [{"x": 1}]}) == first
    assert stand.times == 1


def test_so_is_the_same_object_though_rendering_has_changed_it() -> None:
    stand = Stand()
    prompt = {"messages": [A, dict(B)]}
    first = stand.last(prompt)
    prompt["messages"][-1]["content"] = "as the server has it"
    assert stand.last(prompt) == first


def test_so_is_one_of_a_single_message() -> None:
    stand = Stand()
    for _ in range(2):
        stand.last({"messages": [dict(A)]})
    assert stand.times == 1
    stand.last({"messages": [dict(B)]})
    assert stand.times == 2


@pytest.mark.parametrize(
    "other",
    [
        {"messages": [A, B, A]},
        {"messages": [A, dict(B), C]},  # as equal as 1 and True are
        {"messages": [A, C]},
        {"messages": [A, B, B, C]},
        {"messages": [A, B, {**C, "name": "x"}]},
        {"messages": [A, B, C], "tools": []},
        {"prompt": "a"},
        {"messages": [C]},
    ],
)
def test_another_prompt_is_rendered(other: dict[str, Any]) -> None:
    stand = Stand()
    stand.last({"messages": [A, B, C]})
    assert stand.last(other) == str(other)
    assert stand.times == 2


def test_a_text_does_not_hold_for_long() -> None:
    stand = Stand()
    for stand.now in (0.0, 0.5, 1.5, 2.0):
        stand.last({"messages": [A, B]})
    assert stand.times == 2


def test_what_the_template_refuses_is_not_remembered() -> None:
    def refuse(_: dict[str, Any]) -> str:
        raise ValueError("no")

    last = RenderCache(refuse)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            last({"messages": [A, B]})
