"""Where lines go, and that losing them never ends the gateway."""

from __future__ import annotations

import io
import json
import logging
import warnings
from pathlib import Path

import pytest

from proxy.config.settings import LogSettings
from proxy.log import setup
from tests.support.log_lines import parsed

log = logging.getLogger("mlxguard.relay")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A stream whose disk is full or whose reader has gone."""

    def write(self, _: str) -> int:
        raise BrokenPipeError


def test_other_libraries_are_logged_from_warning_on() -> None:
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
    assert file.stat().st_mode & 0o777 == 0o600
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
