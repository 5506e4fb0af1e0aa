from __future__ import annotations

import pytest

from proxy.errors import InvalidRequest, Unavailable
from proxy.prompt.counter import translated
from proxy.prompt.worker_process import TokenizerRefused
from proxy.request.completion import ChatPrompt, Prompt, TextPrompt

CHAT = ChatPrompt(({"role": "user", "content": "secret"},))
TEXT = TextPrompt("secret")


@pytest.mark.parametrize(
    ("prompt", "kind", "said", "told"),
    [
        (CHAT, "TemplateError", "no roles after 503", "The model's chat template says: no roles after N"),
        (CHAT, "TemplateError", "x" * 999, "The model's chat template says: " + "x" * 200),
        (CHAT, "KeyError", "secret", "The model's chat template does not accept this conversation."),
        (CHAT, "BadImage", "an image of no pixels", "an image of no pixels"),
        (TEXT, "OverflowError", "secret", "The model's tokenizer does not accept it."),
    ],
)
def test_only_a_templates_own_words_are_told(prompt: Prompt, kind: str, said: str, told: str) -> None:
    error = translated(TokenizerRefused(kind, said), prompt)
    assert isinstance(error, InvalidRequest)
    assert str(error) == told
    assert error.param == ("messages" if prompt is CHAT else "prompt")


def test_want_of_memory_is_not_the_clients_fault() -> None:
    error = translated(TokenizerRefused("MemoryError", "secret"), CHAT)
    assert isinstance(error, Unavailable)
    assert error.reason == "tokenizer_memory"
