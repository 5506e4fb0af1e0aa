"""Random input for what reads strangers' bytes and the child's: `make campaign WHAT=fuzz N=1000000 [SEED=]`.

A third of the cases each: request bodies for the parser, streams for the rewriter, streams and whole bodies
for the aggregator. Half of them are well-formed with odd values, half have their bytes changed. Nothing may
be raised but `InvalidRequest` and `Malformed`; a body that is understood must be one that can be sent; and
how a stream is cut into pieces must not matter.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import orjson

from proxy.errors import InvalidRequest
from proxy.request.allowlist import Allowlist, template_arguments
from proxy.request.completion import Bounds
from proxy.request.images import ImagePolicy, image_urls
from proxy.request.parse import parse_chat, parse_text
from proxy.stream.aggregate import Aggregator, WholeBody
from proxy.stream.answer import Answer
from proxy.stream.rewrite import Rewriter
from proxy.stream.sse import Malformed
from tests.figures import bar
from tests.real.hostile_corpus import FIELDS

_PICTURE = "data:image/png;base64,iVBORw0KGgo="
_PLACE = "http://pics.invalid/a"

#: With everything allowed that can be.
BOUNDS = Bounds(
    vocab_size=100,
    allowlist=Allowlist(
        adapters=frozenset({"a"}),
        draft_models=frozenset({"a"}),
        role_mapping=True,
        arguments=template_arguments(("name", "index=0|5|true")),
        model="/m",
    ),
    images=ImagePolicy(most=3, most_bytes=50, hosts=frozenset({"pics.invalid"}), obstacle=None),
)

_ATOMS: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 5, 2**31, 2**63, 2**64, -(2**63), 0.0, 0.5, -0.0, 1.0, 1e300, "", "a",
    "user", "assistant", "tool", "text", "function", "length", "stop", "{}", '{"a": 1}', "\u202e",
    "\U0001f600", "0", "99", "100", "image_url", "data:", _PICTURE, _PLACE,
)  # fmt: skip
_KEYS = (
    *FIELDS, "role", "content", "name", "tool_calls", "function", "arguments", "parameters", "type", "text",
    "id", "description", "include_usage", "delta", "index", "finish_reason", "reasoning", "choices", "usage",
    "object", "created", "prompt_tokens", "completion_tokens", "prompt_tokens_details", "cached_tokens",
    "message", "image_url", "image", "url", "stop", "system", "user", "enable_thinking",
)  # fmt: skip
_NOISE = (
    b"\n\n",
    b"\n",
    b"data: ",
    b": ",
    b"[DONE]",
    b"{",
    b"}",
    b"[",
    b"]",
    b'"',
    b",",
    b"\\u0000",
    b"\xff",
    b"NaN",
)


def value(chance: random.Random, depth: int = 3) -> Any:
    """Anything that JSON can say, with the words of this API in it."""
    kind = chance.random()
    if kind < 0.002:
        return deep(chance.choice((60, 300, 900)))
    if depth == 0 or kind < 0.6:
        return chance.choice(_ATOMS)
    if kind < 0.75:
        return [value(chance, depth - 1) for _ in range(chance.randint(0, 3))]
    return {chance.choice(_KEYS): value(chance, depth - 1) for _ in range(chance.randint(0, 4))}


def deep(levels: int) -> Any:
    nested: Any = 0
    for _ in range(levels):
        nested = [nested]
    return nested


def request(chance: random.Random) -> bytes:
    message = {"role": chance.choice(("user", "system", "assistant")), "content": "hi"}
    body: dict[str, Any] = {"messages": [message], "prompt": "hi"}
    for _ in range(chance.randint(0, 3)):
        body[chance.choice(FIELDS)] = value(chance)
    if chance.random() < 0.5:
        message[chance.choice(_KEYS)] = value(chance)
    if chance.random() < 0.3:
        message["content"] = [part(chance) for _ in range(chance.randint(0, 4))]
    return json.dumps(body).encode()


def part(chance: random.Random) -> Any:
    """A part of a message's content: text, an image in some spelling, or anything."""
    kind, url = (
        chance.choice(("image_url", "image", "input_image", "text")),
        chance.choice((_PICTURE, _PLACE)),
    )
    if chance.random() < 0.2:
        return value(chance)
    return {
        "type": kind,
        "text": "x",
        chance.choice(("image_url", "image")): chance.choice((url, {"url": url})),
    }


def event(chance: random.Random) -> bytes:
    delta = {chance.choice(("content", "reasoning", "tool_calls", "role")): value(chance)}
    choice: dict[str, Any] = {"index": 0, "finish_reason": None, "delta": delta, "text": "x"}
    if chance.random() < 0.3:
        choice[chance.choice(_KEYS)] = value(chance)
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "m", "created": 1}
    whole: dict[str, Any] = {**head, "choices": [choice]}
    if chance.random() < 0.2:
        whole = {**head, "choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": value(chance)}}
    if chance.random() < 0.2:
        whole[chance.choice(_KEYS)] = value(chance)
    return b"data: " + json.dumps(whole).encode() + b"\n\n"


def stream(chance: random.Random) -> bytes:
    pieces = [event(chance) for _ in range(chance.randint(0, 4))]
    pieces.insert(0, chance.choice((b"", b": keepalive 1/2\n\n", b": keepalive x/y\n\n")))
    return b"".join([*pieces, chance.choice((b"data: [DONE]\n\n", b""))])


def spoilt(data: bytes, chance: random.Random) -> bytes:
    """The same with a few of its bytes changed."""
    changed = bytearray(data)
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(changed) + 1)
        end = min(len(changed), at + chance.randint(0, 12))
        changed[at:end] = chance.choice(
            (b"", chance.choice(_NOISE), changed[at:end] * 2, chance.randbytes(2))
        )
    return bytes(changed)


def cut(data: bytes, chance: random.Random) -> list[bytes]:
    """The same in pieces."""
    ends = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randint(0, 4)))
    return [data[start:end] for start, end in zip([0, *ends], [*ends, len(data)], strict=True)]


# --- what is tried ----------------------------------------------------------------------------------------


def try_parser(data: bytes, chance: random.Random) -> None:
    parse = chance.choice((parse_chat, parse_text))
    try:
        understood = parse(data, BOUNDS)
    except InvalidRequest:
        return
    if understood.remote:
        understood = understood.with_images([_PICTURE] * len(understood.remote))
    sent = understood.upstream_body(prompt=understood.prompt, max_tokens=1, stream=understood.stream)
    body = orjson.loads(sent)
    assert body["model"] == ("/m" if "adapters" in body else "default_model")
    assert body.keys() <= {*FIELDS}, body.keys()
    urls = image_urls(body.get("messages", ()))
    assert all(url.startswith("data:image/png;base64,iVBORw0KGg") for url in urls) and len(urls) <= 3, urls


def try_rewriter(data: bytes, chance: random.Random) -> None:
    results = []
    for pieces in ([data], cut(data, chance)):
        rewriter = Rewriter(_answer(), include_usage=True)
        try:
            results.append(b"".join([rewriter.feed(piece) for piece in pieces]))
        except Malformed:
            results.append(None)
    assert results[0] == results[1], results


def try_aggregator(data: bytes, chance: random.Random) -> None:
    for whole in (Aggregator(_answer()), WholeBody(_answer())):
        try:
            for piece in cut(data, chance):
                whole.feed(piece)
            whole.end()
            json.loads(whole.body())  # a lone surrogate of the child's stays an escape
        except Malformed:
            pass


def _answer() -> Answer:
    return Answer.new(unique="u", created=1, model="m", is_chat=True)


TARGETS: dict[str, tuple[Callable[[random.Random], bytes], Callable[[bytes, random.Random], None]]] = {
    "parser": (request, try_parser),
    "rewriter": (stream, try_rewriter),
    "aggregator": (stream, try_aggregator),
}


def run(number: int, seed: int) -> tuple[int, dict[str, str]]:
    """Cases tried, and each kind of failure once, with the input that showed it."""
    chance = random.Random(seed)
    failures: dict[str, str] = {}
    targets = list(TARGETS.items())
    for case in range(number):
        name, (make, attempt) = targets[case % len(targets)]
        data = make(chance)
        data = spoilt(data, chance) if chance.random() < 0.5 else data
        try:
            attempt(data, chance)
        except Exception as error:  # noqa: BLE001 - that there is none is what is measured
            at = traceback.extract_tb(error.__traceback__)[-1]
            failures.setdefault(f"{name}: {type(error).__name__} at {at.name}: {error}"[:200], repr(data))
    return number, failures


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="campaign fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=1_000_000, help="of cases")
    options = parser.parse_args(argv)
    print(f"seed {options.seed}", flush=True)
    started = time.monotonic()
    tried, failures = run(options.number, options.seed)
    for failure, data in failures.items():
        print(f"{failure}\n  {data[:600]}")
    print(f"{tried} cases in {time.monotonic() - started:.0f} s")
    held = [
        bar("fuzz_cases", tried, 1_000_000, at_least=True),
        bar("fuzz_failures", len(failures), 0),
    ]
    return 0 if all(held) else 1


if __name__ == "__main__":
    raise SystemExit(main())
