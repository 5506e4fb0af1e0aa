"""A conversation is the same prompt in each protocol that can say it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy.dialects.messages.translate import count_request, messages_request
from proxy.dialects.responses.last_tools import LastTools
from proxy.dialects.responses.translate import responses_request
from proxy.request.completion import Bounds, CompletionRequest
from proxy.request.parse import parse_chat
from tests.support.dialect_conversations import told


def prompt_of(request: CompletionRequest) -> dict[str, Any]:
    """The fields that make the prompt, with arguments as the server reads them: as objects."""
    fields: dict[str, Any] = json.loads(json.dumps(request.prompt.fields()))
    for message in fields["messages"]:
        for call in message.get("tool_calls", ()):
            given = call["function"]["arguments"]
            call["function"]["arguments"] = json.loads(given) if type(given) is str else given
    return fields


@pytest.mark.parametrize("seed", range(300))
def test_the_prompt_is_that_of_chat(seed: int) -> None:
    conversation = told(seed)
    chat, messages, responses = (json.dumps(body).encode() for body in conversation.bodies().values())
    expected = prompt_of(parse_chat(chat, Bounds()))
    assert prompt_of(messages_request(messages, Bounds()).request) == expected
    assert prompt_of(count_request(messages, Bounds()).request) == expected
    assert prompt_of(responses_request(responses, Bounds(), LastTools()).request) == expected
