"""The options of the supervisor are the rules of the state machine, and more."""

from __future__ import annotations

import dataclasses
import signal
from pathlib import Path

from proxy.config.settings import SupervisorSettings
from supervisor.child.options import CannotStart, SupervisorOptions
from supervisor.lifecycle.causes import Cause


def test_the_grace_of_each_signal_is_an_option() -> None:
    options = SupervisorOptions(Path(), sigint_grace_s=8.0, sigterm_grace_s=9.0)
    steps = [(step.signal, step.grace_s) for step in options.stop_sequence]
    assert steps[:2] == [(signal.SIGINT, 8.0), (signal.SIGTERM, 9.0)]
    assert steps[2][0] == signal.SIGKILL


def test_every_setting_is_an_option() -> None:
    names = {field.name for field in dataclasses.fields(SupervisorOptions)}
    assert set(SupervisorSettings.model_fields) | {"proxy_port"} == names


def test_a_start_that_is_impossible_says_why() -> None:
    error = CannotStart(Cause.BAD_MODEL, "There is no model in /x.")
    assert (error.cause, error.explanation, str(error)) == (
        Cause.BAD_MODEL,
        *["There is no model in /x."] * 2,
    )
