"""Error texts of the child that clients get to see."""

from __future__ import annotations

import json

import pytest

from proxy.stream.child_error import error_text


def reply(text: object) -> bytes:
    return json.dumps({"error": text}).encode()


def test_a_template_error_is_told() -> None:
    text = error_text(reply("Conversation roles must alternate\n user/assistant"))
    assert text.endswith("Conversation roles must alternate user/assistant")


def test_paths_are_not() -> None:
    text = error_text(reply("[Errno 2] No such file: '/Users/jane/models/x/config.json' (~/a/b)"))
    assert "jane" not in text
    assert "config.json" not in text
    assert "<path>" in text


def test_no_number_looks_like_a_status_to_retry() -> None:
    assert "503" not in error_text(reply("line 503: 15030 tokens"))


def test_long_texts_are_cut() -> None:
    assert len(error_text(reply("x" * 5000))) < 400


@pytest.mark.parametrize("body", [b"Not Found", b"", b"[]", reply(""), reply(5), reply({"message": "x"})])
def test_what_says_nothing_gets_a_general_text(body: bytes) -> None:
    assert error_text(body) == "the model server refused this request"
