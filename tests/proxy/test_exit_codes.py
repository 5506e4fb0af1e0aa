"""Exit codes are an interface: their numbers stay, and the documentation lists them all."""

from __future__ import annotations

import re
from pathlib import Path

from proxy.exit_codes import ExitCode

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def test_numbers() -> None:
    assert {code.name: int(code) for code in ExitCode} == {
        "OK": 0,
        "INTERNAL": 1,
        "CONFIGURATION": 2,
        "PORT_IN_USE": 3,
        "STATE_LOCKED": 4,
        "INSTALLATION": 5,
        "UNFIT": 6,
        "INTERRUPTED": 130,
    }


def test_the_documented_table_is_this_one() -> None:
    rows = re.findall(r"^\| (\d+) \| (.*) \|$", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(str(code.value), code.meaning) for code in ExitCode]
