"""Faults of the chat request under the client's own names."""

from __future__ import annotations

from typing import Any

import pytest

from proxy.dialects.translation import ChatBody, numbered
from proxy.errors import InvalidRequest
from proxy.request.completion import Bounds
from proxy.request.mends import Mends

ORIGINS = numbered("messages", ["system", "input[4]"]) | {"stop": "stop_sequences"}
USER = {"role": "user", "content": "a"}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"messages": [USER, {"role": "robot", "content": "a"}]}, "input[4]"),
        ({"messages": [USER], "stop": [7]}, "stop_sequences"),
        ({"messages": [USER], "top_p": 7}, "top_p"),
    ],
)
def test_a_fault_has_the_name_that_its_client_knows(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        ChatBody(fields, ORIGINS).request(Bounds(), Mends())
    assert refusal.value.param == param
    assert refusal.value.message.startswith(f"`{param}` must be ")
    assert refusal.value.message.endswith(".")


def test_a_request_without_fault_is_the_chat_request() -> None:
    assert ChatBody({"messages": [USER], "max_tokens": 7}).request(Bounds(), Mends()).max_tokens == 7
