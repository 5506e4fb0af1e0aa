"""Lines are readable, parseable, bounded, and cannot be forged."""

from __future__ import annotations

import json
import logging
import re
from contextvars import copy_context

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.log import format
from proxy.log.format import HumanFormatter, JsonFormatter
from tests.support.log_lines import parsed, written

log = logging.getLogger("mlxguard.relay")


def test_a_json_line() -> None:
    line = parsed(
        lambda: log.info("answered", extra={"status": 200, "ms": 1.5, "cut": None, "words": ("a", "b")})
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "level": "info",
        "area": "relay",
        "event": "answered",
        "status": 200,
        "ms": 1.5,
        "cut": None,
        "words": ["a", "b"],
    }


def test_a_human_line() -> None:
    extra = {"status": 200, "why": "two words", "quote": 'a"b', "empty": "", "words": ["a", "b c"]}
    line = written(lambda: log.warning("answered", extra=extra), human=True)
    stamp, rest = line[:23], line[23:]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}", stamp)
    assert rest == (
        ' warning relay       answered status=200 why="two words" quote="a\\"b" empty="" words=[a,"b c"]\n'
    )


def test_lines_of_a_request_carry_its_id() -> None:
    def in_a_request() -> None:
        format.current_request_id.set("req-1")
        log.info("answered")

    assert parsed(lambda: copy_context().run(in_a_request))["request_id"] == "req-1"
    assert "request_id" not in parsed(lambda: log.info("idle"))


def test_a_field_cannot_replace_a_standard_one() -> None:
    line = parsed(lambda: log.info("answered", extra={"event": "other", "level": "x", "time": 1, "area": 2}))
    assert (line["event"], line["event_"], line["level"], line["level_"]) == (
        "answered",
        "other",
        "info",
        "x",
    )


def test_a_traceback_is_one_field_of_one_line() -> None:
    def fail() -> None:
        try:
            raise ValueError("first\nsecond")
        except ValueError:
            log.exception("internal error")

    line = parsed(fail)
    assert line["event"] == "internal error"
    assert line["traceback"].endswith("ValueError: first\nsecond")
    human = written(fail, human=True).splitlines()
    assert len(human) > 3
    assert all(line.startswith("  | ") for line in human[1:])
    assert human[-2:] == ["  | ValueError: first", "  | second"]


@pytest.mark.parametrize("human", [False, True])
def test_values_are_bounded(human: bool) -> None:
    extra = {"text": "x" * 10**6, "list": ["y"] * 10**5}
    assert len(written(lambda: log.info("z" * 10**6, extra=extra), human=human)) < 1_500


HOSTILE = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from('\n\r\t\x00\x1b\x7f\x85\x9b\u2028\u2029\u202e\u2066\ud800="\\ '),
    )
)


@given(event=HOSTILE, value=HOSTILE)
def test_no_line_can_be_forged(event: str, value: str) -> None:
    record = logging.makeLogRecord({"name": "mlxguard.http", "msg": event, "field": value})
    for formatter in (JsonFormatter(str), HumanFormatter(str, colour=False)):
        line = formatter.format(record)
        assert len(line.splitlines()) == 1
        assert not re.search("[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", line)
    assert (
        json.loads(JsonFormatter(str).format(record))["field"] == value[:500] + value[500:]
        or len(value) > 500
    )


@given(value=HOSTILE | st.text('a"\\ =', max_size=6))
def test_a_value_cannot_pass_for_two_fields(value: str) -> None:
    record = logging.makeLogRecord({"name": "mlxguard.http", "msg": "sent", "field": value, "last": 1})
    line = HumanFormatter(str, colour=False).format(record)
    shown = re.fullmatch(r'.* field=([^\s"=]+|"([^"\\]|\\.)*") last=1', line)
    assert shown, line
