from __future__ import annotations

from typing import Any

import pytest

from proxy.errors import InvalidRequest
from proxy.request import sampling

ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({"temperature": None, "stop": None, "seed": None, "logit_bias": None}, {}),
    ({"temperature": 0}, {"temperature": 0.0}),
    ({"temperature": 2}, {"temperature": 2.0}),
    ({"temperature": 1e-300}, {"temperature": 0.0}),
    ({"top_p": 1}, {"top_p": 1.0}),
    ({"top_p": 0}, {"top_p": 0.0}),
    ({"top_p": 1e-300}, {"top_p": 1e-6}),
    ({"top_k": 40}, {"top_k": 40}),
    ({"top_k": 40.0}, {"top_k": 40}),
    ({"top_k": -1}, {}),
    ({"top_k": 0}, {}),
    ({"min_p": 1e-300}, {"min_p": 1e-6}),
    ({"repetition_penalty": 1}, {"repetition_penalty": 1.0}),
    ({"repetition_context_size": 2**40}, {"repetition_context_size": 2**20}),
    ({"presence_penalty": -2}, {"presence_penalty": -2.0}),
    ({"frequency_penalty": 0}, {"frequency_penalty": 0.0}),
    ({"xtc_probability": 1}, {"xtc_probability": 1.0}),
    ({"xtc_probability": 1, "xtc_threshold": 0}, {"xtc_probability": 1.0, "xtc_threshold": 0.0}),
    ({"xtc_probability": 1.0, "xtc_threshold": 1.0}, {}),
    ({"logit_bias": {}}, {}),
    ({"logit_bias": {"0012": 1, "13": -100}}, {"logit_bias": {"12": 1.0, "13": -100.0}}),
    ({"seed": 7}, {"seed": 7}),
    ({"seed": -1}, {}),
    ({"seed": -2}, {"seed": 2**64 - 2}),
    ({"stop": "end"}, {"stop": ["end"]}),
    ({"stop": ["a", "", "b", "a"]}, {"stop": ["a", "b"]}),
    ({"stop": ""}, {}),
    ({"stop": []}, {}),
]

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": -1}, "temperature"),
    ({"temperature": 101}, "temperature"),
    ({"temperature": "hot"}, "temperature"),
    ({"temperature": True}, "temperature"),
    ({"temperature": [1]}, "temperature"),
    ({"top_p": 1.1}, "top_p"),
    ({"top_k": 1.5}, "top_k"),
    ({"top_k": -2}, "top_k"),
    ({"min_p": 2}, "min_p"),
    ({"repetition_penalty": 1e-5}, "repetition_penalty"),
    ({"repetition_context_size": -1}, "repetition_context_size"),
    ({"presence_penalty": 1e9}, "presence_penalty"),
    ({"xtc_probability": 2}, "xtc_probability"),
    ({"xtc_threshold": -1}, "xtc_threshold"),
    ({"logit_bias": [[1, 2]]}, "logit_bias"),
    ({"logit_bias": {"x": 1}}, "logit_bias"),
    ({"logit_bias": {"-1": 1}}, "logit_bias"),
    ({"logit_bias": {" 1": 1}}, "logit_bias"),
    ({"logit_bias": {"\u0661": 1}}, "logit_bias"),
    ({"logit_bias": {"1": "x"}}, "logit_bias.1"),
    ({"logit_bias": {"1": 1e300}}, "logit_bias.1"),
    ({"seed": 2**64}, "seed"),
    ({"seed": "x"}, "seed"),
    ({"stop": 5}, "stop"),
    ({"stop": [1]}, "stop[0]"),
    ({"stop": ["a", None]}, "stop[1]"),
    ({"stop": ["x"] * 65}, "stop"),
    ({"stop": ["x" * 4097]}, "stop[0]"),
    ({"stop": ["x" * 3000, "y" * 3000]}, "stop"),
]


@pytest.mark.parametrize(("body", "expected"), ACCEPTED)
def test_what_is_accepted_and_mended(body: dict[str, Any], expected: dict[str, Any]) -> None:
    parsed = sampling.parse(body)
    assert parsed == expected
    assert {name: type(value) for name, value in parsed.items()} == {
        name: type(value) for name, value in expected.items()
    }


@pytest.mark.parametrize(("body", "param"), REFUSED)
def test_what_is_refused(body: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        sampling.parse(body)
    assert refusal.value.param == param


def test_parsing_what_was_parsed_changes_nothing() -> None:
    for body, expected in ACCEPTED:
        assert sampling.parse(sampling.parse(body)) == expected


@pytest.mark.parametrize(("top_k", "kept"), [(1023, True), (1024, False), (2**62, False)])
def test_a_top_k_of_the_whole_vocabulary_is_no_restriction(top_k: int, kept: bool) -> None:
    assert ("top_k" in sampling.bounded({"top_k": top_k}, 1024)) is kept


def test_a_bias_outside_the_vocabulary_is_refused() -> None:
    fields = {"logit_bias": {"1023": 1.0}}
    assert sampling.bounded(fields, 1024) == fields
    with pytest.raises(InvalidRequest):
        sampling.bounded(fields, 1023)


@pytest.mark.parametrize(
    ("body", "is_chat", "expected"),
    [
        ({}, True, (False, 0)),
        ({"logprobs": True}, True, (True, 0)),
        ({"logprobs": False, "top_logprobs": 0}, True, (False, 0)),
        ({"logprobs": True, "top_logprobs": 11}, True, (True, 11)),
        ({"top_logprobs": 2}, True, (True, 2)),
        ({"top_logprobs": -1}, True, (False, 0)),
        ({"logprobs": 3}, False, (True, 3)),
        ({"logprobs": 0}, False, (True, 0)),
        ({"logprobs": True}, False, (True, 0)),
        ({"logprobs": None, "top_logprobs": None}, False, (False, 0)),
    ],
)
def test_logprobs(body: dict[str, Any], is_chat: bool, expected: tuple[bool, int]) -> None:
    assert sampling.parse_logprobs(body, is_chat=is_chat) == expected


@pytest.mark.parametrize(
    ("body", "is_chat"),
    [
        ({"logprobs": 3}, True),
        ({"logprobs": 12}, False),
        ({"logprobs": "yes"}, True),
        ({"top_logprobs": 12}, True),
        ({"top_logprobs": True}, True),
    ],
)
def test_refused_logprobs(body: dict[str, Any], is_chat: bool) -> None:
    with pytest.raises(InvalidRequest):
        sampling.parse_logprobs(body, is_chat=is_chat)


@pytest.mark.parametrize(
    ("fields", "resampled"),
    [
        ({}, {"temperature": 0.7}),
        ({"temperature": 0.0, "seed": 1, "top_k": 1}, {"temperature": 0.7}),
        ({"temperature": 0.2, "top_k": 20, "top_p": 0.9}, {"temperature": 0.2, "top_k": 20, "top_p": 0.9}),
    ],
)
def test_another_sample_is_neither_seeded_nor_greedy(
    fields: dict[str, Any], resampled: dict[str, Any]
) -> None:
    assert sampling.resampled(fields) == resampled
