"""Log lines: readable, parseable, impossible to forge, free of keys, and never the end of the proxy."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextvars import copy_context
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.settings import LogSettings
from proxy.log import format, masking, setup
from proxy.log.format import HumanFormatter, JsonFormatter

KEY = "sk-canary-4711"

log = logging.getLogger("mlxguard.relay")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream whose disk is full or whose reader has gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    """setup() changes what belongs to the process; give it back."""
    root, own = logging.getLogger(), logging.getLogger("mlxguard")
    before = root.handlers[:], root.level, own.level, logging.raiseExceptions
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level, own.level, logging.raiseExceptions = before
    logging.captureWarnings(False)


def written(emit: Callable[[], None], *, human: bool = False, keys: tuple[str, ...] = ()) -> str:
    stream = io.StringIO()
    setup.setup(LogSettings(level="debug", format="human" if human else "json"), stream, keys)
    emit()
    return stream.getvalue()


def parsed(emit: Callable[[], None], keys: tuple[str, ...] = ()) -> dict[str, Any]:
    (line,) = written(emit, keys=keys).splitlines()
    found: dict[str, Any] = json.loads(line)
    return found


# --- what a line says


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


def test_a_field_cannot_pass_for_what_every_line_has() -> None:
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


def test_other_libraries_are_heard_from_warning_on() -> None:
    def emit() -> None:
        logging.getLogger("asyncio").info("too much")
        logging.getLogger("asyncio").warning("task was\ndestroyed")

    assert parsed(emit)["area"] == "asyncio"


def test_python_warnings_are_events() -> None:
    def emit() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            logging.captureWarnings(True)
            warnings.warn("old", stacklevel=1)

    assert parsed(emit)["area"] == "py.warnings"


def test_the_level_holds() -> None:
    stream = io.StringIO()
    setup.setup(LogSettings(level="warning", format="json"), stream)
    log.info("no")
    log.warning("yes")
    assert len(stream.getvalue().splitlines()) == 1


# --- where it goes


def test_human_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    terminal, pipe = Terminal(), io.StringIO()
    for stream in (terminal, pipe):
        setup.setup(LogSettings(), stream)
        log.error("broken")
    assert "\x1b[31merror  \x1b[0m relay" in terminal.getvalue()
    assert json.loads(pipe.getvalue())["event"] == "broken"


@pytest.mark.parametrize(("variable", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_no_colour_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    stream = Terminal()
    setup.setup(LogSettings(), stream)
    log.error("broken")
    assert "\x1b" not in stream.getvalue()


def test_the_file_is_json_and_followed_over_a_rotation(tmp_path: Path) -> None:
    file = tmp_path / "proxy.log"
    file.write_text('{"event": "before"}\n')
    setup.setup(LogSettings(format="human", file=file), io.StringIO())
    log.info("one")
    file.rename(tmp_path / "proxy.log.1")
    log.info("two")
    lines = (tmp_path / "proxy.log.1").read_text().splitlines() + file.read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["before", "one", "two"]


def test_a_file_that_cannot_be_opened_is_an_error_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        setup.setup(LogSettings(file=tmp_path / "none" / "log"), io.StringIO())


# --- what must not happen


def test_a_stream_that_fails_costs_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    before = setup.lost_lines()
    setup.setup(LogSettings(format="json"), Broken())
    log.info("one")
    log.info("two")
    assert setup.lost_lines() - before == 2
    assert capsys.readouterr() == ("", "")


def test_a_closed_stream_costs_lines_and_nothing_else() -> None:
    stream = io.StringIO()
    setup.setup(LogSettings(format="json"), stream)
    stream.close()
    before = setup.lost_lines()
    log.info("one")
    assert setup.lost_lines() - before == 1


def test_a_log_folder_that_goes_away_costs_lines_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    stream = io.StringIO()
    setup.setup(LogSettings(file=folder / "log"), stream)
    (folder / "log").unlink()
    folder.rmdir()
    before = setup.lost_lines()
    log.info("one")
    assert setup.lost_lines() - before == 1
    assert "one" in stream.getvalue()


def test_a_field_that_cannot_be_shown_costs_its_line_only() -> None:
    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError

    def emit() -> None:
        log.info("lost", extra={"field": Hostile()})
        log.info("kept")

    assert parsed(emit)["event"] == "kept"


@pytest.mark.parametrize("human", [False, True])
@pytest.mark.parametrize(
    "emit",
    [
        lambda: log.info("key %s", KEY),
        lambda: log.info("sent", extra={"header": f"Authorization: Bearer {KEY}"}),
        lambda: log.info("sent", extra={"keys": [KEY, (KEY,)], "more": {"key": KEY}}),
        lambda: log.info("sent", extra={"long": "x" * 490 + KEY}),
        lambda: log.error("failed", exc_info=ValueError(f"bad key {KEY}")),
    ],
)
def test_configured_keys_are_masked_everywhere(emit: Callable[[], None], human: bool) -> None:
    text = written(emit, human=human, keys=(KEY, "other"))
    assert KEY not in text
    assert "sk-can" not in text
    assert "[key]" in text


def test_a_key_that_is_told_later_is_masked_too() -> None:
    def emit() -> None:
        masking.mask(("sk-told-later",))
        log.info("sent", extra={"header": f"sk-told-later {KEY}"})

    assert parsed(emit, keys=(KEY,))["header"] == "[key] [key]"


def test_bearer_tokens_are_masked_though_nobody_knows_them() -> None:
    line = parsed(lambda: log.info("sent", extra={"header": "authorization: bearer abc.DEF-1/2+3=="}))
    assert line["header"] == "authorization: bearer [key]"


def test_a_short_key_is_masked_where_it_stands_alone() -> None:
    line = parsed(lambda: log.info("local localhost local-1 local."), keys=("local",))
    assert line["event"] == "[key] localhost local-1 [key]."


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
