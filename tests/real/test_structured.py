"""Answers that must have a form, with the real server and the real tokenizer worker."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion

from tests.conftest import MakeTiny
from tests.real.processes import Gateway, guard
from tests.support.scripted import TOOLS

pytestmark = pytest.mark.real

GOOD = '{"city": "Paris"}'


@pytest.fixture(scope="module")
def proxy(make_tiny: MakeTiny, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """Its model answers with fenced JSON, and with text where it is offered tools."""
    model = make_tiny(say=f"```json\n{GOOD}\n```", say_with_tools="It is sunny.")
    with guard(model, tmp_path_factory.mktemp("guard")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def client(proxy: Gateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=proxy.base_url, api_key="x", max_retries=0) as client:
        yield client


def _asked(**fields: Any) -> dict[str, Any]:
    return {"model": "tiny", "messages": [{"role": "user", "content": "Where?"}], **fields}


def _format(**schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "object", **schema}}}


def test_json_reaches_the_client_alone(client: openai.OpenAI) -> None:
    asked = _asked(response_format=_format(properties={"city": {"type": "string"}}, required=["city"]))
    answer: ChatCompletion = client.chat.completions.create(**asked)
    assert answer.choices[0].message.content == GOOD
    with client.chat.completions.create(**asked, stream=True) as stream:
        pieces = [chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices]
    assert "".join(pieces) == GOOD
    whole = client.chat.completions.create(**asked, logprobs=True)
    assert whole.choices[0].message.content == GOOD
    assert client.chat.completions.create(**_asked(response_format={"type": "json_object"}))


@pytest.mark.parametrize("stream", [True, False])
def test_what_never_fits_ends_in_a_clear_error(client: openai.OpenAI, stream: bool) -> None:
    asked = _asked(response_format=_format(required=["country"]), stream=stream)
    with pytest.raises(openai.UnprocessableEntityError, match="'country' is a required property") as failure:
        client.chat.completions.create(**asked)
    assert "asked 3 times" in str(failure.value)
    assert failure.value.code == "structured_output_failed"


def test_a_call_that_is_never_made_ends_in_a_clear_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.UnprocessableEntityError, match="calls no function") as failure:
        client.chat.completions.create(**_asked(tools=TOOLS, tool_choice="required"))
    assert failure.value.param == "tool_choice"
    assert client.chat.completions.create(**_asked(tools=TOOLS)).choices[0].message.content == "It is sunny."


@pytest.mark.parametrize(
    "schema",
    [{"type": "nonsense"}, {"$ref": "https://example.com/x"}, {"properties": {"a": {"pattern": "("}}}],
)
def test_a_schema_that_cannot_be_applied_is_refused(client: openai.OpenAI, schema: dict[str, Any]) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with pytest.raises(openai.BadRequestError, match="JSON Schema"):
        client.chat.completions.create(**_asked(response_format=wanted))


def test_all_of_it_was_counted_exactly(proxy: Gateway) -> None:
    _, metrics = proxy.get("/metrics")
    assert "mlxguard_prompt_count_mismatches_total 0.0" in metrics
    assert "mlxguard_replays_total 0.0" in metrics
    assert "count_drift" not in proxy.text()
    assert proxy.status()["child"]["generation"] == 1
