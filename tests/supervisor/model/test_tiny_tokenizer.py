"""The embedded model's tokenizer and template: any text survives, and a conversation reads as it should."""

from __future__ import annotations

import json
from typing import Any

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from supervisor.model.tiny_tokenizer import END_OF_TURN, USE_TOOL, USE_TOOL_TEMPLATE, TinyTokenizer, build
from tests.support.scripted import SAY, SAY_WITH_TOOLS, TOOLS

BUILT = build(1024, (SAY, SAY_WITH_TOOLS), 4096)
TOKENIZER = Tokenizer.from_str(BUILT.files["tokenizer.json"])
USER = {"role": "user", "content": "Hi"}


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text).ids, skip_special_tokens=False) == text


@pytest.mark.parametrize("vocab", [300, 1024, 8000])
def test_the_vocabulary_has_the_size_asked_for(vocab: int) -> None:
    built = build(vocab, (), 4096)
    assert sorted(built.ids.values()) == list(range(vocab))
    assert Tokenizer.from_str(built.files["tokenizer.json"]).get_vocab_size() == vocab


def test_markers_are_one_token_each() -> None:
    for marker in (
        "<|im_start|>",
        END_OF_TURN,
        "<think>",
        "</think>",
        "<tool_call>",
        "</tool_call>",
        USE_TOOL,
    ):
        assert TOKENIZER.encode(marker).ids == [BUILT.ids[marker]]


def test_what_is_readable_is_text_by_itself() -> None:
    for index in BUILT.readable:
        text = TOKENIZER.decode([index], skip_special_tokens=False)
        assert text, index
        assert text.encode().decode() == text
        assert "\ufffd" not in text
        assert "\x00" not in text


@pytest.mark.parametrize(
    "texts", [(SAY, SAY_WITH_TOOLS), ("", "a"), ("a" * 500, "a" * 77), ("\n" * 9, "🙂" * 40)]
)
def test_scripts_spell_their_texts_and_repeat_no_token(texts: tuple[str, str]) -> None:
    built = build(1024, texts, 4096)
    tokenizer = Tokenizer.from_str(built.files["tokenizer.json"])
    assert tuple(tokenizer.decode(script, skip_special_tokens=False) for script in built.scripts) == texts
    tokens = [token for script in built.scripts for token in script]
    assert len(set(tokens)) == len(tokens)


def test_no_prompt_is_encoded_with_a_token_of_a_script() -> None:
    said = {token for script in BUILT.scripts for token in script}
    assert not said & set(TOKENIZER.encode(SAY + SAY_WITH_TOOLS).ids)


def render(built: TinyTokenizer, messages: list[dict[str, Any]], **arguments: Any) -> str:
    """As transformers renders a template, by its own account: trimmed blocks, plain JSON, raise_exception."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)

    def raise_exception(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment.globals["raise_exception"] = raise_exception
    template = environment.from_string(built.files["chat_template.jinja"])
    return template.render(messages=messages, add_generation_prompt=True, **arguments)


def test_a_plain_conversation() -> None:
    system = {"role": "system", "content": "Be kind."}
    answer = {"role": "assistant", "content": "Hello."}
    assert render(BUILT, [system, USER, answer, USER]) == (
        "<|im_start|>system\nBe kind.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\nHello.<|im_end|>\n"
        "<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_thinking_can_be_turned_off() -> None:
    assert render(BUILT, [USER], enable_thinking=True).endswith("<|im_start|>assistant\n")
    assert render(BUILT, [USER], enable_thinking=False).endswith(
        "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    )


def test_tools_are_shown_within_the_system_turn() -> None:
    prompt = render(BUILT, [{"role": "system", "content": "Be kind."}, USER], tools=TOOLS)
    assert prompt.count("<|im_start|>system") == 1
    assert "Be kind.\n\n" in prompt
    assert json.dumps(TOOLS[0], ensure_ascii=False) in prompt


def test_a_call_and_its_results() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "look", "arguments": {"at": "ü"}}}
    turns = [
        USER,
        {"role": "assistant", "content": None, "reasoning": "Let me look.", "tool_calls": [call, call]},
        {"role": "tool", "tool_call_id": "1", "content": "one"},
        {"role": "tool", "tool_call_id": "1", "content": "two"},
    ]
    shown = '<tool_call>\n{"name": "look", "arguments": {"at": "ü"}}\n</tool_call>'
    assert render(BUILT, turns, tools=TOOLS).endswith(
        "<|im_start|>user\nHi<|im_end|>\n"
        f"<|im_start|>assistant\n<think>\nLet me look.\n</think>\n\n{shown}\n{shown}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\none\n</tool_response>\n<tool_response>\ntwo\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    "answer", [{"content": "<think>\nhm\n</think>\n\nYes."}, {"content": "Yes.", "reasoning_content": "hm"}]
)
def test_thoughts_of_finished_turns_are_left_out(answer: dict[str, str]) -> None:
    turn = {"role": "assistant", **answer}
    assert "<|im_start|>assistant\nYes.<|im_end|>" in render(BUILT, [USER, turn, USER])
    assert "<|im_start|>assistant\n<think>\nhm\n</think>\n\nYes.<|im_end|>" in render(BUILT, [USER, turn])


def test_an_unknown_role_is_refused() -> None:
    with pytest.raises(jinja2.TemplateError, match="unknown role: critic"):
        render(BUILT, [{"role": "critic", "content": "Boo"}])


def test_a_scripted_prompt_says_whether_a_tool_is_wanted() -> None:
    built = build(1024, (), 4096)
    built.files["chat_template.jinja"] += USE_TOOL_TEMPLATE
    result = {"role": "tool", "content": "sunny"}
    assert render(built, [USER], tools=TOOLS).endswith(f"<|im_start|>assistant\n{USE_TOOL}")
    assert render(built, [USER]).endswith("<|im_start|>assistant\n")
    assert render(built, [USER, result], tools=TOOLS).endswith("<|im_start|>assistant\n")
