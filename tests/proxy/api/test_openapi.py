"""The description is compared with the code that it describes."""

from __future__ import annotations

from typing import Any, cast

import orjson
import pytest

from proxy.api import openapi
from proxy.api.admin import AdminActions
from proxy.api.completions import Completions
from proxy.api.pages import Pages
from proxy.api.router import route_table
from proxy.errors import InvalidRequest
from proxy.request import sampling
from proxy.request.allowlist import USUAL_ARGUMENTS
from proxy.request.completion import Bounds
from proxy.request.messages import ROLES
from proxy.request.parse import parse_chat

DOCUMENT = openapi.document("1")
SCHEMAS = DOCUMENT["components"]["schemas"]
SAMPLING = SCHEMAS["Sampling"]["properties"]


class Anything:
    """Stands for handlers that are not called."""

    def __getattr__(self, name: str) -> Any:
        async def handler(_: Any) -> Any: ...

        return handler


def references(node: Any) -> set[str]:
    if isinstance(node, dict):
        found = {node["$ref"]} if "$ref" in node else set()
        return found.union(*map(references, node.values()))
    return set().union(*map(references, node)) if isinstance(node, list) else set()


def test_every_route_is_described_and_nothing_else() -> None:
    handlers = cast("Completions", Anything()), cast("Pages", Anything()), cast("AdminActions", Anything())
    served = {
        (route.method.lower(), route.path.replace("{id:.+}", "{id}")) for route in route_table(*handlers)
    }
    described = {(method, path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert described == served


def test_it_can_be_sent() -> None:
    assert orjson.loads(orjson.dumps(DOCUMENT)) == DOCUMENT


def test_every_reference_leads_to_a_schema_and_every_schema_is_used() -> None:
    assert references(DOCUMENT) == {f"#/components/schemas/{name}" for name in SCHEMAS}


def test_what_the_code_defines_is_filled_in() -> None:
    assert DOCUMENT["info"]["version"] == "1"
    assert set(SCHEMAS["Message"]["properties"]["role"]["enum"]) == set(ROLES)
    arguments = SCHEMAS["ChatRequest"]["properties"]["chat_template_kwargs"]["properties"]
    assert set(arguments) == set(USUAL_ARGUMENTS)


def test_probes_describe_their_own_503() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            own = operation["responses"]["503"]["description"].startswith("Not ready")
            assert own == (path in ("/readyz", "/health"))


def test_every_status_of_the_tree_of_errors_is_described() -> None:
    described = set(DOCUMENT["paths"]["/v1/chat/completions"]["post"]["responses"])
    assert described >= {"200", "400", "401", "403", "404", "405", "408", "413", "415", "431", "500", "503"}


def test_the_sampling_fields_are_those_that_are_read() -> None:
    assert set(SAMPLING) == sampling.NAMES


BOUNDED = {name: schema for name, schema in SAMPLING.items() if "minimum" in schema}


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
    required = SCHEMAS["ChatRequest"]["required"]
    body = {name: [{"role": "user", "content": "hi"}] for name in required}
    assert parse_chat(orjson.dumps(body), Bounds()).is_chat
