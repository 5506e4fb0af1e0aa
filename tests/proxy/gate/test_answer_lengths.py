"""Predicted answer lengths follow what a client's answers were, and forget it again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxy.gate.answer_lengths import PRIOR_TOKENS, AnswerLengths


def lengths_after(*tokens: int) -> AnswerLengths:
    lengths = AnswerLengths()
    for each in tokens:
        lengths.learn("c", each)
    return lengths


def test_the_prediction_for_an_unknown_client_is_the_prior() -> None:
    assert AnswerLengths().expected("c") == PRIOR_TOKENS


def test_nine_in_ten_answers_are_no_longer_than_predicted() -> None:
    assert 100 <= lengths_after(*[100] * 95).expected("c") <= 128
    assert lengths_after(*[100] * 50, *[3000] * 20).expected("c") >= 3000
    assert lengths_after(*[100] * 95).expected("another") == PRIOR_TOKENS


def test_what_a_client_did_long_ago_is_forgotten() -> None:
    assert lengths_after(*[20_000] * 50, *[50] * 150).expected("c") < 100


@given(st.integers(0, 10**7), st.integers(0, 200))
def test_one_outlier_answer_changes_nothing(tokens: int, before: int) -> None:
    usual = [PRIOR_TOKENS] * before
    assert lengths_after(*usual, tokens).expected("c") == PRIOR_TOKENS


def test_a_limited_number_of_clients_is_remembered() -> None:
    lengths = lengths_after(*[100] * 95)
    for number in range(300):
        lengths.learn(str(number), 5)
    assert lengths.expected("c") == PRIOR_TOKENS
