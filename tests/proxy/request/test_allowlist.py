from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.request.allowlist import RESERVED_ARGUMENTS, USUAL_ARGUMENTS, Allowlist, template_arguments

OPEN = Allowlist(
    adapters=frozenset({"/adapters/sql"}),
    draft_models=frozenset({"small"}),
    role_mapping=True,
    arguments=template_arguments(("persona", "reasoning_effort=low|high", "depth=1|2|true")),
    model="/models/m",
)


def test_nothing_beyond_the_usual_is_allowed_by_default() -> None:
    closed = Allowlist()
    assert set(closed.arguments) == set(USUAL_ARGUMENTS)
    for name, ask in (
        ("adapters", closed.variant),
        ("draft_model", closed.variant),
        ("role_mapping", closed.roles),
        ("chat_template_kwargs", closed.template_kwargs),
    ):
        with pytest.raises(InvalidRequest) as refusal:
            ask({name: {"user": "x"} if name.endswith(("mapping", "kwargs")) else "x"})
        assert refusal.value.param == name


def test_what_is_listed_is_passed_on() -> None:
    assert OPEN.variant({}) == {}
    assert OPEN.variant({"draft_model": "small"}) == {"draft_model": "small"}
    assert OPEN.variant({"adapters": "/adapters/sql"}) == {"model": "/models/m", "adapters": "/adapters/sql"}
    assert OPEN.roles({"role_mapping": {"user": "U: ", "stop": None}}) == {"user": "U: "}
    for empty in ({}, {"role_mapping": None}, {"role_mapping": {}}, {"role_mapping": {"user": None}}):
        assert OPEN.roles(empty) is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"adapters": "/adapters/sql/"}, "adapters"),
        ({"adapters": "/adapters/../adapters/sql"}, "adapters"),
        ({"adapters": 5}, "adapters"),
        ({"adapters": "x" * 5000}, "adapters"),
        ({"draft_model": "Small"}, "draft_model"),
        ({"draft_model": ["small"]}, "draft_model"),
    ],
)
def test_only_what_is_listed_to_the_letter(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        OPEN.variant(fields)
    assert refusal.value.param == param
    assert "sql" not in refusal.value.message


@pytest.mark.parametrize(
    ("mapping", "param"),
    [
        (5, "role_mapping"),
        ("USER: ", "role_mapping"),
        ({"robot": "R: "}, "role_mapping"),
        ({"user": 5}, "role_mapping.user"),
        ({"user": "x" * 2000}, "role_mapping.user"),
    ],
)
def test_odd_role_mappings(mapping: Any, param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        OPEN.roles({"role_mapping": mapping})
    assert refusal.value.param == param


@pytest.mark.parametrize(
    ("kwargs", "kept"),
    [
        ({"enable_thinking": False, "thinking": None}, {"enable_thinking": False}),
        ({"persona": "pirate"}, {"persona": "pirate"}),
        ({"reasoning_effort": "high"}, {"reasoning_effort": "high"}),
        ({"depth": 2}, {"depth": 2}),
        ({"depth": True}, {"depth": True}),
    ],
)
def test_template_arguments(kwargs: dict[str, Any], kept: dict[str, Any]) -> None:
    assert OPEN.template_kwargs({"chat_template_kwargs": kwargs}) == kept


@pytest.mark.parametrize(
    ("kwargs", "param"),
    [
        ({"other": 1}, "chat_template_kwargs"),
        ({"reasoning_effort": "extreme"}, "chat_template_kwargs.reasoning_effort"),
        ({"reasoning_effort": True}, "chat_template_kwargs.reasoning_effort"),
        ({"persona": {}}, "chat_template_kwargs.persona"),
        ({"persona": "x" * 300}, "chat_template_kwargs.persona"),
    ],
)
def test_template_arguments_that_are_refused(kwargs: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        OPEN.template_kwargs({"chat_template_kwargs": kwargs})
    assert refusal.value.param == param


def test_what_transformers_takes_itself_is_reserved() -> None:
    import inspect

    from transformers import PreTrainedTokenizerBase

    taken = {
        name
        for name, parameter in inspect.signature(
            PreTrainedTokenizerBase.apply_chat_template
        ).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD
    }
    assert taken <= RESERVED_ARGUMENTS
    assert not RESERVED_ARGUMENTS & set(USUAL_ARGUMENTS)
