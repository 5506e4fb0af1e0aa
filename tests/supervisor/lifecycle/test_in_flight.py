"""A crash report contains numbers and names of a request, and none of its text."""

from __future__ import annotations

import dataclasses
import json

from tests.supervisor.test_crash_reports import WORK


def test_a_request_in_flight_is_plain_values_without_text() -> None:
    content = json.loads(json.dumps(dataclasses.asdict(WORK)))
    assert content == {
        "answer_id": "chatcmpl-1",
        "fingerprint": "abc",
        "prompt_tokens": 1000,
        "max_tokens": 10,
        "completion_tokens": 0,
        "phase": "prefill",
        "progress": [64, 1000],
        "attempts": 1,
        "running_s": 2.5,
        "suspect": True,
        "refused_s": None,
        "predicted_bytes": None,
        "seen_bytes": None,
    }
