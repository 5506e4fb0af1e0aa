"""The command that explains crashes, over a report as the supervisor writes it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from proxy.cli import main
from proxy.commands.crashes import choose, explanation, listing
from supervisor.state.folder import StateFolder
from tests.supervisor.test_crash_reports import WORK


def a_report(name: str = "20260105T101112-77-0001", **fields: Any) -> dict[str, Any]:
    return {
        "id": name,
        "time": 1767607872.0,
        "generation": 1,
        "cause": "metal_oom",
        "symptom": "exit",
        "explanation": "The GPU ran out of memory (Metal).",
        "advice": "Less.",
        "exit_code": None,
        "signal": 6,
        "state": "ready",
        "outside": False,
        "in_flight": [{**dataclasses.asdict(WORK), "refused_s": 600.0}],
        "child": {
            "flags": ["--model", "/m"],
            "ran_s": 12.5,
            "memory": {
                "columns": ["age_s", "free", "footprint", "active", "peak", "cache"],
                "rows": [[60 - n / 2, 10**9, None, 2 * 10**9, 3 * 10**9, 0] for n in range(120)],
            },
        },
        "last_lines": ["[METAL] Insufficient Memory"],
        "done": [{"after_s": 0.1, "what": "memory", "waited_s": 0.0, "missing_bytes": 0}],
        **fields,
    }


def test_a_crash_is_explained() -> None:
    text = explanation(a_report())
    for part in (
        "cause    metal_oom: The GPU ran out of memory (Metal).",
        "advice   Less.",
        "noticed  exit by signal 6, after 12.5 s",
        "flags    --model /m",
        "chatcmpl-1  abc  prefill 64/1000 of 1000 tokens, 0 generated, attempt 1, 2.5 s, suspect",
        "1.000         -     2.000",
        "   0.100 s  memory    waited_s 0.0, missing_bytes 0",
        "  [METAL] Insufficient Memory",
    ):
        assert part in text
    assert len(text.splitlines()) < 35


def test_the_plan_and_the_prediction_are_shown_with_what_was_observed() -> None:
    report = a_report()
    report["in_flight"][0] |= {"predicted_bytes": 2 * 10**9, "seen_bytes": 3 * 10**9}
    report["child"]["plan"] = {
        "weights": 16 * 10**9,
        "ceiling": 24 * 10**9,
        "ceiling_from": "learned",
        "kv_per_token": 98304,
        "max_prompt": 31744,
        "running": 2,
    }
    text = explanation(report)
    assert "2.5 s, 2.000 GB predicted, memory rose by 3.000 GB, suspect" in text
    assert "plan     24.000 GB allowed: learned" in text
    assert "weights 16.000 GB, 98304 bytes per token of KV, 2 together, longest prompt 31744 tokens" in text


def test_a_crash_of_which_little_is_known_is_explained_too() -> None:
    child = {"flags": [], "ran_s": None, "memory": {"columns": [], "rows": []}}
    text = explanation(a_report(child=child, in_flight=[], done=[], signal=None, exit_code=3))
    assert "exit with code 3" in text
    assert "in flight: 0" in text


def test_the_list_has_a_line_for_each() -> None:
    first, second = listing([a_report(), a_report("b", done=[])]).splitlines()[1:]
    assert first.split()[0] == "20260105T101112-77-0001"
    assert first.split()[-1] == "memory"
    assert second.split()[-1] == "-"
    assert listing([]) == "no crash has been recorded"


@pytest.mark.parametrize(
    ("wanted", "found"), [("last", "b-2"), ("a-1", "a-1"), ("2", "b-2"), ("-", None), ("nothing", None)]
)
def test_one_is_chosen_by_any_part_of_its_id_that_only_it_has(wanted: str, found: str | None) -> None:
    chosen = choose([a_report("a-1"), a_report("a-11"), a_report("b-2")], wanted)
    assert (chosen["id"] if chosen else None) == found
    assert choose([], wanted) is None


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    setting = ["--set", f"supervisor.state_dir={tmp_path}"]
    assert main(["crashes", *setting]) == 0
    assert capsys.readouterr().out == "no crash has been recorded\n"
    StateFolder(tmp_path).write_crash(a_report())
    assert main(["crashes", *setting]) == 0
    assert "metal_oom" in capsys.readouterr().out
    assert main(["crashes", "last", *setting]) == 0
    assert "advice   Less." in capsys.readouterr().out
    assert main(["crashes", "last", "--json", *setting]) == 0
    assert json.loads(capsys.readouterr().out)["cause"] == "metal_oom"
    assert main(["crashes", "--json", *setting]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1
    assert main(["crashes", "none", *setting]) == 2
    assert "none" in capsys.readouterr().err


@pytest.mark.parametrize(
    "damage",
    [
        {"in_flight": 7},
        {"in_flight": [{}]},
        {"time": 1e300},
        {"time": "yesterday"},
        {"done": {}},
        {"done": [[]]},
        {"cause": None},
        {"child": None},
    ],
)
def test_a_damaged_report_hides_no_other(damage: dict[str, Any]) -> None:
    whole, damaged = a_report("whole"), a_report("damaged", **damage)
    assert len(listing([damaged, whole]).splitlines()) == 3
    assert "metal_oom" in listing([damaged, whole])
    assert explanation(damaged)
