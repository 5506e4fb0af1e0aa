"""The options of the supervisor, and the part of them that the state machine gets."""

from __future__ import annotations

from pathlib import Path

from supervisor.child.options import CannotStart, SupervisorOptions
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.restart_policy import RestartPolicy


def test_the_rules_of_the_state_machine_are_the_configured_times() -> None:
    options = SupervisorOptions(
        Path(),
        start_timeout_s=1.0,
        max_restarts=2,
        restart_window_s=3.0,
        backoff_base_s=4.0,
        backoff_max_s=5.0,
        cooldown_s=6.0,
        drain_s=7.0,
        sigint_grace_s=8.0,
        sigterm_grace_s=9.0,
    )
    rules = options.rules
    assert rules.policy == RestartPolicy(max_restarts=2, window_s=3.0, base_s=4.0, max_s=5.0)
    assert (rules.start_timeout_s, rules.cooldown_s, rules.drain_s) == (1.0, 6.0, 7.0)
    assert [step.grace_s for step in rules.stop_sequence][:2] == [8.0, 9.0]


def test_a_start_that_is_impossible_says_why() -> None:
    error = CannotStart(Cause.BAD_MODEL, "There is no model in /x.")
    assert (error.cause, error.explanation, str(error)) == (
        Cause.BAD_MODEL,
        *["There is no model in /x."] * 2,
    )
