"""The list of models in the shape of both protocols at once."""

from __future__ import annotations

from proxy.dialects.models import model_list, with_anthropic_fields

MODEL = {"id": "m", "object": "model", "created": 1_700_000_000, "owned_by": "us"}


def test_an_entry_keeps_its_fields_and_has_those_of_the_other_list() -> None:
    assert with_anthropic_fields({**MODEL, "context_window": 9}) == {
        **MODEL,
        "context_window": 9,
        "type": "model",
        "display_name": "m",
        "created_at": "2023-11-14T22:13:20Z",
        "max_input_tokens": 9,
    }


def test_an_entry_before_its_limits_are_known() -> None:
    assert "max_input_tokens" not in with_anthropic_fields(MODEL)


def test_a_list_is_one_page() -> None:
    assert model_list([MODEL]) == {
        "object": "list",
        "data": [MODEL],
        "has_more": False,
        "first_id": "m",
        "last_id": "m",
    }
