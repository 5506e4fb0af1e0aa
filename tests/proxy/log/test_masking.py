"""Keys do not reach the log, wherever they stand."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from proxy.log import masking
from tests.support.log_lines import parsed, written

log = logging.getLogger("mlxguard.relay")

KEY = "sk-canary-4711"


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


def test_a_key_that_is_added_later_is_masked_too() -> None:
    def emit() -> None:
        masking.MASK.add(("sk-added-later",))
        log.info("sent", extra={"header": f"sk-added-later {KEY}"})

    assert parsed(emit, keys=(KEY,))["header"] == "[key] [key]"


def test_unknown_bearer_tokens_are_masked_too() -> None:
    line = parsed(lambda: log.info("sent", extra={"header": "authorization: bearer abc.DEF-1/2+3=="}))
    assert line["header"] == "authorization: bearer [key]"


def test_a_short_key_is_masked_where_it_stands_alone() -> None:
    line = parsed(lambda: log.info("local localhost local-1 local."), keys=("local",))
    assert line["event"] == "[key] localhost local-1 [key]."
