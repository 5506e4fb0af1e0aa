"""The description is held to what it describes."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest

from proxy.api import openapi
from proxy.api.completions import Completions
from proxy.api.pages import Pages
from proxy.api.router import routes
from proxy.errors import InvalidRequest
from proxy.request import sampling
from proxy.request.completion import Bounds
from proxy.request.parse import parse_chat

DOCUMENT = openapi.document("1")


class Anything:
    """Stands for handlers that are not called."""

    def __getattr__(self, name: str) -> Any:
        async def handler(_: Any) -> Any: ...

        return handler


def test_every_route_is_described_and_nothing_else() -> None:
    known = routes(cast("Completions", Anything()), cast("Pages", Anything()))
    served = {(route.method.lower(), route.path.replace("{id:.+}", "{id}")) for route in known}
    assert set(openapi.OPERATIONS) == served


def test_it_can_be_sent() -> None:
    assert orjson.loads(orjson.dumps(DOCUMENT, option=orjson.OPT_NON_STR_KEYS)) == DOCUMENT


def test_every_status_of_the_tree_of_errors_is_described() -> None:
    described = set(DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"])
    assert described >= {"200", "400", "401", "403", "404", "405", "408", "413", "415", "431", "500", "503"}


def test_the_sampling_fields_are_those_that_are_read() -> None:
    assert set(openapi.SAMPLING) == sampling.NAMES


BOUNDED = {name: schema for name, schema in openapi.SAMPLING.items() if "minimum" in schema}


@pytest.mark.parametrize("name", BOUNDED)
def test_ranges_are_those_that_are_checked(name: str) -> None:
    low, high = BOUNDED[name]["minimum"], BOUNDED[name].get("maximum")
    sampling.parse({name: low})
    with pytest.raises(InvalidRequest):
        sampling.parse({name: low - (1 if abs(low) < 2**53 else 2**12)})
    if high is not None:
        sampling.parse({name: high})
        with pytest.raises(InvalidRequest):
            sampling.parse({name: high + (1 if high < 2**53 else 2**12)})


def test_what_is_required_is_enough() -> None:
    required = openapi.SCHEMAS["ChatRequest"]["required"]
    body = {name: [{"role": "user", "content": "hi"}] for name in required}
    assert parse_chat(orjson.dumps(body), Bounds()).is_chat
