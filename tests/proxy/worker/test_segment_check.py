from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.worker.segment_check import checked_segments, time_limit
from tests.support.tokenizer_zoo import KINDS

ROOT = Path(__file__).parents[3]


def test_the_alarm_ends_what_takes_too_long_and_nothing_after() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(TimeoutError), time_limit(0.01):
        while True:
            pass
    with time_limit(60):
        pass
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


def test_what_is_not_understood_is_counted_in_full(caplog: pytest.LogCaptureFixture) -> None:
    """A tokenizer of a model's own may be anything."""
    assert checked_segments(object(), {}, lambda _: [], lambda _: "") is None
    assert [record.message for record in caplog.records] == ["segment_check_failed"]


def test_counts_are_the_servers_for_every_kind_of_tokenizer_and_template(
    tiny_model: Path, tmp_path: Path
) -> None:
    """The short form of `make bench WHAT=fitting`; the seed is drawn, and shown by a failure."""
    for kind in KINDS:
        kind.make(tiny_model, tmp_path / kind.name)
    seed = random.randrange(10**9)
    command = [
        sys.executable,
        "-m",
        "tests.support.exactness",
        str(tmp_path),
        str(seed),
        str(15 * len(KINDS)),
    ]
    environ = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, check=True)
    outcomes = json.loads(done.stdout)
    assert outcomes.keys() == {kind.name for kind in KINDS}
    for kind in KINDS:
        outcome = outcomes[kind.name]
        assert outcome["different"] == [], (kind.name, seed)
        assert outcome["incremental"] == kind.incremental, kind.name
        assert outcome["agreed"] >= 12 or kind.name == "renderer", (kind.name, seed)
