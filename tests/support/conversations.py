"""Random conversations with awkward content: Unicode, empty texts, literal markers, tools, reasoning."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

SNIPPETS = (
    "", " ", "\n\n", "hello world", "def f(x):\n\treturn x * 2\n", "größe naïve café", "漢字かな交じり文",
    "\U0001f469\u200d\U0001f469\u200d\U0001f467\U0001f1e6", "<|im_start|>", "<|im_end|>\n", "<think>",
    "</think>", "<tool_call>", "</tool_call>", "<|endoftext|>", "<|im_", '{"a": [1, 2.50, null]}',
    "\u200b\ufeff\u00a0", "e\u0301\u0301", "\\u0000 \\n", "a" * 300, "  trailing  ", "\r\n\t\x7f\x1b[0m",
    "<s>", "</s>[INST] ", "[/INST]", "<start_of_turn>user\n", "<end_of_turn>", "<|eot_id|>",
    "｜User｜>", "<｜User｜>",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Style:
    """What a template accepts in addition to alternating users and assistants."""

    system: bool = True
    tools: bool = True


ANYTHING = Style()


def words(random: random.Random) -> str:
    drawn = random.choices(SNIPPETS, k=random.randint(0, 6))
    return random.choice(("", " ")).join(
        [*drawn, "".join(random.choices(string.printable, k=random.randint(0, 30)))]
    )


def content(random: random.Random) -> Any:
    return random.choice(
        (
            words(random),
            words(random),
            [{"type": "text", "text": words(random)} for _ in range(random.randint(0, 3))],
            None,
        )
    )


def value(random: random.Random, depth: int = 2) -> Any:
    if depth and random.random() < 0.5:
        inner = [value(random, depth - 1) for _ in range(random.randint(0, 3))]
        return inner if random.random() < 0.5 else {words(random)[:9]: item for item in inner}
    return random.choice((None, True, 7, -2.5, 1e30, 1.10, words(random)))


def call(random: random.Random, index: int) -> dict[str, Any]:
    arguments = {f"k{i}": value(random) for i in range(random.randint(0, 3))}
    written = random.choice((arguments, json.dumps(arguments), json.dumps(arguments, ensure_ascii=False), ""))
    return {"id": f"call_{index}", "type": "function", "function": {"name": "f", "arguments": written}}


def turn(random: random.Random, style: Style = ANYTHING) -> Iterator[dict[str, Any]]:
    yield {"role": "user", "content": content(random)}
    for _ in range(random.randint(0, 2) if style.tools else 0):
        calls = [call(random, index) for index in range(random.randint(1, 3))]
        yield {"role": "assistant", "content": content(random), "tool_calls": calls}
        yield from ({"role": "tool", "tool_call_id": c["id"], "content": content(random)} for c in calls)
    reasoning = random.choice(({}, {"reasoning": words(random)}, {"reasoning_content": words(random)}))
    yield {"role": "assistant", "content": content(random), **reasoning}


def conversation(seed: int, style: Style = ANYTHING) -> dict[str, Any]:
    """A random chat request body, without a model name."""
    draw = random.Random(seed)
    messages: list[dict[str, Any]] = []
    if style.system and draw.random() < 0.7:
        messages.append({"role": draw.choice(("system", "developer")), "content": content(draw)})
    for _ in range(draw.randint(0, 3)):
        messages.extend(turn(draw, style))
    messages.extend(list(turn(draw, style))[: draw.choice((1, 1, 2, 4))])
    body: dict[str, Any] = {"messages": messages}
    if style.tools and draw.random() < 0.5:
        body["tools"] = _tools(draw)
    if draw.random() < 0.6:
        body["chat_template_kwargs"] = {"enable_thinking": draw.random() < 0.5}
    return body


def _tools(draw: random.Random) -> list[dict[str, Any]]:
    properties = {f"p{i}": {"type": "string"} for i in range(3)}
    schema = {"type": "object", "properties": properties, "x": value(draw)}
    names = ("f", "größe", "f_2")[: draw.randint(1, 3)]
    return [
        {"type": "function", "function": {"name": name, "description": words(draw), "parameters": schema}}
        for name in names
    ]
