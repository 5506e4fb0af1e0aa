"""Tools of Responses as functions and back: names, kinds, and what models make of a custom tool."""

from __future__ import annotations

import pytest

from proxy.dialects.responses.forms import ToolForm
from proxy.dialects.responses.tools import CallTarget, FunctionTable, custom_input


def test_every_name_that_is_offered_leads_back_to_its_tool() -> None:
    inner = [ToolForm(type="function", name="wait"), ToolForm(type="custom", name="patch")]
    table = FunctionTable.of(
        [
            ToolForm(type="namespace", name="a", tools=inner),
            ToolForm(type="function", name="wait"),
            ToolForm(type="namespace", name="b", tools=inner),
        ]
    )
    targets = {tool["function"]["name"]: table.target(tool["function"]["name"]) for tool in table.offered}
    assert targets == {
        "wait": CallTarget("function", "wait"),
        "a__wait": CallTarget("function", "wait", "a"),
        "patch": CallTarget("custom", "patch", "a"),
        "b__wait": CallTarget("function", "wait", "b"),
        "b__patch": CallTarget("custom", "patch", "b"),
    }
    assert all(table.name(target.name, target.namespace) == name for name, target in targets.items())
    assert table.origins == [
        "tools[1]",
        "tools[0].tools[0]",
        "tools[0].tools[1]",
        "tools[2].tools[0]",
        "tools[2].tools[1]",
    ]


def test_a_name_that_the_model_invents_is_a_functions() -> None:
    assert FunctionTable.of([]).target("nothing") == CallTarget("function", "nothing")


@pytest.mark.parametrize(
    ("arguments", "given"),
    [
        ('{"input": "*** Begin"}', "*** Begin"),
        ('{"patch": "*** Begin"}', "*** Begin"),
        ("*** Begin", "*** Begin"),
        ('{"input": {"a": 1}}', '{"input": {"a": 1}}'),
        ('{"a": "1", "b": "2"}', '{"a": "1", "b": "2"}'),
        ("{}", ""),
        ("", ""),
    ],
)
def test_the_input_of_a_custom_tool_however_the_model_wrote_it(arguments: str, given: str) -> None:
    assert custom_input(arguments) == given
