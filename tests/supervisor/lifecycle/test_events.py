"""Events and effects are plain values, and the table and the supervisor handle all of them."""

from __future__ import annotations

import ast
import dataclasses
import inspect
from typing import get_args

import pytest

from supervisor import supervisor
from supervisor.lifecycle import events, state_machine
from supervisor.lifecycle.restart_policy import Retry


@pytest.mark.parametrize("event", get_args(events.Event))
def test_every_event_is_known_in_some_state(event: type[events.Event]) -> None:
    assert any(known is event for _, known in state_machine._TABLE)


def test_every_effect_is_carried_out() -> None:
    tree = ast.parse(inspect.getsource(supervisor))
    cases = {ast.unparse(node.cls) for node in ast.walk(tree) if isinstance(node, ast.MatchClass)}
    assert cases == {f"events.{effect.__name__}" for effect in get_args(events.Effect)}


@pytest.mark.parametrize("kind", (*get_args(events.Event), *get_args(events.Effect)))
def test_they_are_frozen_and_slotted(kind: type[object]) -> None:
    assert dataclasses.is_dataclass(kind)
    assert "__slots__" in vars(kind)
    assert vars(kind)["__dataclass_params__"].frozen


def test_equal_events_are_equal() -> None:
    assert events.Broken(Retry.COUNTED, 0.5) == events.Broken(Retry.COUNTED, 0.5, ignores_sigint=False)
