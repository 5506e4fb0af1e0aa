"""What the agents of the benchmarks make of an answer."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.bench.turns import End, Heard, Record, refusal


def event(content: str = "", finish: str | None = None, **more: Any) -> bytes:
    choice = {"delta": {"content": content}, "finish_reason": finish}
    return f"data: {json.dumps({'choices': [choice], **more})}\n".encode()


DONE = b"data: [DONE]\n"


@pytest.mark.parametrize(
    ("lines", "end"),
    [
        ([event("a"), event(finish="stop"), DONE], End.COMPLETE),
        ([], End.EMPTY),
        ([b": keepalive 1/2\n"], End.EMPTY),
        ([event("a")], End.CUT),
        ([event("a"), event(finish="stop")], End.CUT),
        ([event("a"), b'data: {"error": {"code": "503"}}\n', DONE], End.ERROR),
    ],
)
def test_only_a_stream_with_its_end_is_complete(lines: list[bytes], end: End) -> None:
    heard = Heard()
    for line in lines:
        heard.line(line)
    assert heard.end is end


def test_an_answer_in_one_piece() -> None:
    heard = Heard()
    heard.whole(b"")
    assert heard.end is End.EMPTY
    choice = {"message": {"content": "hello"}, "finish_reason": "length"}
    heard.whole(json.dumps({"choices": [choice], "usage": {"completion_tokens": 2}}).encode())
    assert (heard.end, heard.text, heard.usage) == (End.COMPLETE, "hello", {"completion_tokens": 2})


def test_an_overflow_makes_agents_compact_and_nothing_else_does() -> None:
    assert refusal(400, '{"error": {"code": "context_length_exceeded"}}') == (End.COMPACTED, "")
    assert refusal(404, "context_length_exceeded")[0] is End.ERROR


def test_no_service_is_the_gaps_in_which_nobody_got_anything() -> None:
    record = Record(moments=[1.0, 2.0, 9.0, 10.0, 50.0])
    assert record.without_service_s(0.0, 20.0) == 7.0 + 10.0
    assert record.without_service_s(0.0, 11.0) == 7.0
