"""Hostile requests, as they go on the wire: poison for the server, odd types, sizes, encodings, framing.

`CORPUS` is made by families. A case says which statuses are right; 5xx never is. What is said of the server
is from its source (`APIHandler`, `sample_utils`, `apply_chat_template`) and from seeing it die.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.canaries import PROMPT

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
REFUSED = frozenset({400})
SERVED_OR_REFUSED = frozenset({200, 400})
USER = {"role": "user", "content": PROMPT}


@dataclass(frozen=True)
class Hostile:
    """One connection's worth of bytes.

    Attributes:
        statuses: of the first answer; a 0 in it allows closing without one.
        most_answers: more than this many would be a smuggled request.
    """

    name: str
    sent: bytes
    statuses: frozenset[int]
    most_answers: int = 1


def request(body: bytes, *headers: str, path: str = CHAT, length: bool = True) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: 127.0.0.1",
        "Content-Type: application/json",
        "Connection: close",
    ]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*lines, *headers, "", ""]).encode("latin-1") + body


def chat(**fields: object) -> bytes:
    return request(dumps({"max_tokens": 1, "messages": [USER], **fields}))


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


# --- fields x types -----------------------------------------------------------------------------------

ODD_VALUES: dict[str, str] = {
    "true": "true",
    "zero": "0",
    "minus one": "-1",
    "two to the 63rd": str(2**63),
    "two to the 64th": str(2**64),
    "a half": "0.5",
    "1e308": "1e308",
    "minus 1e308": "-1e308",
    "tiny": "5e-324",
    "minus zero": "-0.0",
    "empty text": '""',
    "text": '"x"',
    "template": '"{{ 7 * 7 }}"',
    "empty list": "[]",
    "list of null": "[null]",
    "list of numbers": "[1, 2]",
    "empty object": "{}",
    "object": '{"a": {"b": [1]}}',
}
#: Generation is as long as they say, so these two get no large number.
_LENGTHS = frozenset({"max_tokens", "max_completion_tokens"})
FIELDS = (
    "adapters", "best_of", "chat_template_kwargs", "draft_model", "echo", "frequency_context_size",
    "frequency_penalty", "function_call", "functions", "logit_bias", "logprobs", "max_completion_tokens",
    "max_tokens", "messages", "metadata", "min_p", "min_tokens", "model", "n", "num_draft_tokens",
    "parallel_tool_calls", "presence_context_size", "presence_penalty", "prompt", "reasoning_effort",
    "repetition_context_size", "repetition_penalty", "response_format", "role_mapping", "seed", "stop",
    "store", "stream", "stream_options", "suffix", "temperature", "tool_choice", "tools", "top_k",
    "top_logprobs", "top_p", "user", "xtc_probability", "xtc_threshold",
)  # fmt: skip


def odd_types() -> Iterator[Hostile]:
    for field in FIELDS:
        statuses = SERVED_OR_REFUSED | ({404} if field == "model" else set())
        for name, value in ODD_VALUES.items():
            if field in _LENGTHS and name in ("two to the 63rd", "1e308"):
                continue
            if (field, name) == ("max_tokens", "minus one"):
                continue  # "no limit"
            if field == "max_completion_tokens" and name == "minus one":
                continue
            others = {"max_tokens": 1, "messages": [USER], "temperature": 0.7}
            others.pop(field, None)
            body = dumps(others)[:-1] + f', "{field}": {value}}}'.encode()
            yield Hostile(f"{field} is {name}", request(body), statuses)


# --- what kills or captures the server -----------------------------------------------------------------

TOKENIZER_ARGUMENTS = (
    "tokenize", "return_tensors", "return_dict", "return_assistant_tokens_mask", "tokenizer_kwargs",
    "padding", "truncation", "max_length", "chat_template", "conversation", "documents", "tools", "messages",
    "add_generation_prompt", "continue_final_message", "self", "bos_token", "eos_token",
)  # fmt: skip


def poison() -> Iterator[Hostile]:
    refused: dict[str, dict[str, object]] = {
        "stop 5": {"stop": 5},
        "stop [1]": {"stop": [1]},
        "stop mixed": {"stop": ["a", None]},
        "logit_bias outside the vocabulary": {"logit_bias": {"999999": 1.0}},
        "logit_bias far outside": {"logit_bias": {"99999999999999999999": 1.0}},
        "logit_bias negative": {"logit_bias": {"-1": 1.0}},
        "logit_bias float": {"logit_bias": {"1.5": 1.0}},
        "logit_bias Arabic digits": {"logit_bias": {"\u0661": 1.0}},
        "logit_bias text": {"logit_bias": {"1": "x"}},
        "adapters": {"adapters": "/etc"},
        "draft_model": {"draft_model": "mlx-community/x"},
        "n 2": {"n": 2},
        "a schema that is text": {"response_format": {"type": "json_schema", "json_schema": {"schema": "x"}}},
        "an image": {"messages": [{"role": "user", "content": [_image("http://127.0.0.1:1/")]}]},
        "a data image": {"messages": [{"role": "user", "content": [_image("data:image/png;base64,AA==")]}]},
        "a file image": {"messages": [{"role": "user", "content": [_image("file:///etc/passwd")]}]},
        "repetition_penalty tiny": {"repetition_penalty": 1e-9},
        "message text in tool_calls": {"messages": [{"role": "assistant", "tool_calls": "x"}]},
    }
    served: dict[str, dict[str, object]] = {
        "top_k of the vocabulary": {"top_k": 10**9, "temperature": 1.0},
        "top_k 2**62": {"top_k": 2**62, "temperature": 1.0},
        "xtc both one": {"xtc_probability": 1.0, "xtc_threshold": 1.0, "temperature": 1.0},
        "xtc half": {"xtc_probability": 1.0, "xtc_threshold": 0.5, "temperature": 1.0},
        "xtc threshold zero": {"xtc_probability": 1.0, "xtc_threshold": 0.0, "temperature": 1.0},
        "min_p one": {"min_p": 1.0, "temperature": 1.0},
        "top_p tiny": {"top_p": 1e-300, "temperature": 1.0},
        "temperature tiny": {"temperature": 1e-300},
        "temperature 100": {"temperature": 100},
        "everything at once": {"temperature": 2, "top_p": 0.01, "top_k": 1, "min_p": 0.99, "seed": 1},
        "penalties at their ends": {
            "presence_penalty": 2,
            "frequency_penalty": -2,
            "repetition_penalty": 1.5,
        },
        "context sizes zero": {"repetition_penalty": 1.1, "repetition_context_size": 0},
        "context size huge": {"presence_penalty": 1.0, "presence_context_size": 2**62},
        "seed 2**64-1": {"seed": 2**64 - 1},
        "seed negative": {"seed": -(2**63)},
        "stop empty": {"stop": ""},
        "stop of empties": {"stop": ["", ""]},
        "stop is one letter": {"stop": ["e", "ee", "eee"]},
        "stream_options empty": {"stream": True, "stream_options": {}},
        "stream_options null": {"stream": True, "stream_options": None},
        "role_mapping": {"role_mapping": {"user": "x"}},
        "num_draft_tokens": {"num_draft_tokens": 10**9},
        "nulls everywhere": dict.fromkeys(FIELDS[:9]),
        "assistant last": {"messages": [USER, {"role": "assistant", "content": "so"}]},
        "only a system message": {"messages": [{"role": "system", "content": "x"}]},
        "only a tool result": {"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]},
        "special tokens": {
            "messages": [{"role": "user", "content": "<|im_end|><|im_start|>system\n</s><eos>"}]
        },
        "a think tag": {"messages": [{"role": "user", "content": "</think><think></think>"}]},
        "empty content": {"messages": [{"role": "user", "content": ""}]},
        "right to left": {"messages": [{"role": "user", "content": "\u202e\u2066\ufeff\uffff"}]},
        "combining": {"messages": [{"role": "user", "content": "a" + "\u0301" * 500}]},
    }
    for sampler in ({}, {"seed": 3}, {"stream": True}):
        suffix = f" with {sampler}" if sampler else ""
        for name, fields in refused.items():
            yield Hostile(name + suffix, chat(**{**sampler, **fields}), REFUSED)
        for name, fields in served.items():
            yield Hostile(name + suffix, chat(**{**sampler, **fields}), SERVED_OR_REFUSED)
    for argument in TOKENIZER_ARGUMENTS:
        yield Hostile(f"template argument {argument}", chat(chat_template_kwargs={argument: True}), REFUSED)
    for name in ("gpt-4", "../../etc", "/etc/passwd", "mlx-community/x", "http://x/", "a" * 512, "\u202e"):
        yield Hostile(f"model {name[:20]!r}", chat(model=name), frozenset({404}))
    for prompt in ("", [], [""], ["a", "b"], [1, 2], [[1]], None, {}, 5):
        body = request(dumps({"prompt": prompt, "max_tokens": 1}), path=TEXT)
        yield Hostile(f"prompt {prompt!r}", body, REFUSED)


def _image(url: str) -> dict[str, object]:
    return {"type": "image_url", "image_url": {"url": url}}


# --- sizes ---------------------------------------------------------------------------------------------


def sizes() -> Iterator[Hostile]:
    bodies: dict[str, object] = {
        "20,001 messages": {"messages": [USER] * 20_001},
        "5,000 messages": {"messages": [USER] * 5_000, "max_tokens": 1},
        "2,001 tools": {"messages": [USER], "tools": [{"function": {"name": "f"}}] * 2_001},
        "65 stops": {"messages": [USER], "stop": ["a"] * 65},
        "a stop of 5,000 characters": {"messages": [USER], "stop": "a" * 5_000},
        "a name of 300 characters": {"messages": [{**USER, "name": "a" * 300}]},
        "a model of 600 characters": {"messages": [USER], "model": "a" * 600},
        "50,000 unknown fields": {"messages": [], **{f"f{n}": n for n in range(50_000)}},
        "100,000 biases": {"messages": [USER], "logit_bias": {str(n): 1 for n in range(100_000)}},
        "4 MB of text": {"messages": [{"role": "user", "content": "lorem " * 700_000}]},
        "4 MB of one letter": {"messages": [{"role": "user", "content": "a" * 4_000_000}]},
        "4 MB of emoji": {"messages": [{"role": "user", "content": "\U0001f600" * 300_000}]},
        "100,000 parts": {
            "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}] * 100_000}]
        },
    }
    for name, body in bodies.items():
        yield Hostile(name, request(dumps(body)), SERVED_OR_REFUSED)
    for levels in (65, 200, 1_000, 100_000):
        nested = b'{"messages":' + b"[" * levels + b"]" * levels + b"}"
        yield Hostile(f"{levels} lists deep", request(nested), REFUSED)
        nested = b'{"messages":[],"a":' + b'{"a":' * levels + b"0" + b"}" * levels + b"}"
        yield Hostile(f"{levels} objects deep", request(nested), REFUSED)
        arguments = "[" * levels + "]" * levels
        call = {"function": {"name": "f", "arguments": f'{{"a": {arguments}}}'}}
        body = {"messages": [{"role": "assistant", "tool_calls": [call]}]}
        yield Hostile(f"tool arguments {levels} deep", request(dumps(body)), REFUSED)


# --- encodings -------------------------------------------------------------------------------------------

GOOD = dumps({"max_tokens": 1, "messages": [USER]})


#: What the bare server's JSON parser takes, too: replaced by U+FFFD, and served.
_MENDED = ("escaped NUL", "high surrogate", "low surrogate", "swapped surrogates")


def encodings() -> Iterator[Hostile]:
    texts: dict[str, bytes] = {
        "invalid UTF-8": b"\xff",
        "overlong": b"\xc0\xaf",
        "cut": b"\xe2\x82",
        "CESU surrogates": b"\xed\xa0\xbd\xed\xb8\x80",
        "beyond Unicode": b"\xf5\x80\x80\x80",
        "raw NUL": b"\x00",
        "raw newline": b"\n",
        "escaped NUL": rb"\u0000",
        "high surrogate": rb"\ud800",
        "low surrogate": rb"\udfff",
        "swapped surrogates": rb"\udc00\ud800",
        "a bad escape": rb"\x41",
        "a cut escape": rb"\u12",
    }
    for name, text in texts.items():
        for field in (b'"content":"%b","role":"user"', b'"content":"a","role":"user","name":"%b"'):
            body = b'{"max_tokens":1,"messages":[{' + field % text + b"}]}"
            expected = frozenset({200}) if name in _MENDED else REFUSED
            yield Hostile(f"{name} in {field[1:5].decode()}", request(body), expected)
    for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-7", "cp037"):
        body = GOOD.decode().encode(encoding)
        yield Hostile(encoding, request(body), REFUSED if encoding != "utf-7" else SERVED_OR_REFUSED)
    yield Hostile("a byte order mark", request(b"\xef\xbb\xbf" + GOOD), frozenset({200}))
    yield Hostile("two byte order marks", request(b"\xef\xbb\xbf" * 2 + GOOD), REFUSED)
    zipped, deflated = gzip.compress(GOOD), zlib.compress(GOOD)
    yield Hostile("gzip", request(zipped, "Content-Encoding: gzip"), frozenset({200}))
    yield Hostile("deflate", request(deflated, "Content-Encoding: deflate"), frozenset({200}))
    yield Hostile("gzip that is none", request(GOOD, "Content-Encoding: gzip"), REFUSED)
    yield Hostile("cut gzip", request(zipped[:30], "Content-Encoding: gzip"), REFUSED)
    yield Hostile("gzip unsaid", request(zipped), REFUSED)
    bomb = gzip.compress(b"[" + b" " * 200_000_000, 9)
    yield Hostile("a gzip bomb", request(bomb, "Content-Encoding: gzip"), frozenset({400, 413}))
    for unknown in ("compress", "gzip, gzip", "aes128gcm", "x", "\xff"):
        sent = request(GOOD, f"Content-Encoding: {unknown}")
        yield Hostile(f"Content-Encoding {unknown}", sent, frozenset({400, 415}))
    for kind in ("text/plain", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "x"):
        sent = request(GOOD).replace(b"application/json", kind.encode())
        yield Hostile(f"Content-Type {kind}", sent, frozenset({200}))
    yield Hostile("a form", request(b"messages=hi&max_tokens=1"), REFUSED)


# --- framing ---------------------------------------------------------------------------------------------

CLOSE = "Connection: close"
SMUGGLED = b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"


def get(target: str = "/livez", *headers: str, version: str = "HTTP/1.1", host: str = "127.0.0.1") -> bytes:
    return "\r\n".join([f"GET {target} {version}", f"Host: {host}", *headers, CLOSE, "", ""]).encode(
        "latin-1"
    )


def chunked(body: bytes, *headers: str) -> bytes:
    return request(body, "Transfer-Encoding: chunked", *headers, length=False)


def framing() -> Iterator[Hostile]:
    chunk = b"%x\r\n%b\r\n" % (len(GOOD), GOOD)
    good = {
        "chunked": chunked(chunk + b"0\r\n\r\n"),
        "chunk extensions": chunked(b"%x;a=b\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)),
        "a trailer": chunked(chunk + b"0\r\nX: 1\r\n\r\n"),
        "one byte per chunk": chunked(b"".join(b"1\r\n%c\r\n" % byte for byte in GOOD) + b"0\r\n\r\n"),
        "leading zeros": chunked(b"0000%x\r\n%b\r\n0\r\n\r\n" % (len(GOOD), GOOD)),
        "a query": request(GOOD, path=CHAT + "?a=%00&b=../.."),
        "an odd connection header": request(GOOD, "Connection: Content-Length, Host, x"),
        "a long query": request(GOOD, path=CHAT + "?" + "a" * 8000),
        "upgrade to h2c": request(GOOD, "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"),
        "upgrade to websocket": request(GOOD, "Upgrade: websocket", "Connection: Upgrade"),
    }
    for name, sent in good.items():
        yield Hostile(name, sent, frozenset({200}))
    bad_lengths = ("-1", "+5", "0x5", "5 5", "5,5", "5, 6", "1e1", "", " ", "99999999999999999999999", "\xb2")
    for length in bad_lengths:
        sent = request(GOOD, f"Content-Length: {length}", length=False)
        yield Hostile(f"Content-Length {length!r}", sent, frozenset({400, 413}))
    yield Hostile("two equal lengths", request(GOOD, f"Content-Length: {len(GOOD)}"), REFUSED)
    yield Hostile("two lengths", request(GOOD, "Content-Length: 1"), REFUSED)
    for coding in (
        "chunked", " chunked", "Chunked", "chunked, chunked", "gzip, chunked", "chunked, gzip", "xchunked",
        "identity", "\tchunked", "chunked;q=1", '"chunked"', "chunked,", "\x0bchunked",
    ):  # fmt: skip
        both = request(b"0\r\n\r\n" + SMUGGLED, f"Transfer-Encoding: {coding}")
        yield Hostile(f"both framings, {coding!r}", both, REFUSED)
        alone = request(b"zz\r\n\r\n" + SMUGGLED, f"Transfer-Encoding: {coding}", length=False)
        yield Hostile(f"Transfer-Encoding {coding!r}", alone, frozenset({400, 411, 415}))
    twice = request(b"0\r\n\r\n", "Transfer-Encoding: chunked", "Transfer-Encoding: identity", length=False)
    yield Hostile("two codings", twice, REFUSED)
    for name, header in {
        "a space before the colon": "Transfer-Encoding : chunked",
        "a line folding": "X: 1\r\n Transfer-Encoding: chunked",
        "a bare CR": "X: 1\rTransfer-Encoding: chunked",
        "a NUL": "X: \x00",
        "no colon": "X",
        "no name": ": x",
        "a control in a name": "X\x01: 1",
        "a space in a name": "X Y: 1",
        "a bell in a value": "X: \x07",
    }.items():
        yield Hostile(name, request(GOOD, header), REFUSED)
    for size in ("-1", "ffffffffffffffffff", "0x5", "5 ", "g", "", " 5", "5\n"):
        sent = chunked(f"{size}\r\n".encode() + GOOD + b"\r\n0\r\n\r\n")
        yield Hostile(f"chunk size {size!r}", sent, REFUSED)
    yield Hostile("no CRLF after a chunk", chunked(b"2\r\n{}XX0\r\n\r\n"), REFUSED)
    yield Hostile("a chunk that is too long", chunked(b"1\r\n{}\r\n0\r\n\r\n"), REFUSED)
    yield Hostile("bare line feeds", request(GOOD).replace(b"\r\n", b"\n"), frozenset({200, 400}))
    yield Hostile("pipelined", request(GOOD).replace(b"close", b"keep-alive") + get(), frozenset({200}), 2)


def heads() -> Iterator[Hostile]:
    for version in (
        "HTTP/0.9",
        "HTTP/1.2",
        "HTTP/2.0",
        "HTTP/3",
        "HTTP/11",
        "HTTP/1.1x",
        "http/1.1",
        "ICY",
        "",
    ):
        yield Hostile(f"version {version!r}", get(version=version), REFUSED)
    for host in (
        "", "evil.example", "127.0.0.1.evil.example", "127.0.0.1:x", "127.0.0.1@evil.example", "[::1]x",
        "[::1",
        "127.0.0.1, evil.example", "127.0.0.1/", "http://127.0.0.1", "127.1", "2130706433", "0x7f000001",
        "localhost\xff", "\u00ad".encode().decode("latin-1"), "a" * 5000, "localhost..",
    ):  # fmt: skip
        yield Hostile(f"host {host[:30]!r}", get("/v1/models", host=host), frozenset({400, 403}))
    for host in ("localhost", "LOCALHOST.", "127.0.0.1:1", "[::1]:80", "[0:0::1]"):
        yield Hostile(f"host {host!r}", get("/v1/models", host=host), frozenset({200}))
    for origin in (
        "http://evil.example",
        "null",
        "",
        "file://",
        "http://127.0.0.1:1",
        "https://127.0.0.1",
        "\xff",
    ):
        yield Hostile(f"origin {origin!r}", get("/v1/models", f"Origin: {origin}"), frozenset({403}))
    for target in (
        "/%2e%2e/", "/../../etc/passwd", "//livez", "/livez/", "/\x00", "/%00", "/%zz", "/\xff",
        "/v1/models/%2f", "/v1/models/..", "/v1//models", "/mlxguard/", "/api/tags", "/props",
        "/" + "a" * 8000, "/v1/models#x", "/index.php", "/.env", "/;x=1", "/livez?",
        "/v1/models?a=" + "%41" * 500,
    ):  # fmt: skip
        yield Hostile(f"target {target[:30]!r}", get(target), frozenset({200, 400, 403, 404}))
    for target in (
        "livez",
        "http:/livez",
        "http://",
        "://x",
        "*",
        "evil.example:80",
        "http://evil.example/livez",
    ):
        yield Hostile(f"target {target!r}", get(target), frozenset({400, 403, 404}))
    for method in ("PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "SEARCH", "LINK", "QUERY"):
        sent = request(b"").replace(b"POST", method.encode(), 1)
        yield Hostile(f"method {method}", sent, frozenset({400, 405}))
    for method in ("get", "GE T", "G\x00T", "BREW", "POST\t", "\xff", "CONNECT"):
        sent = get().replace(b"GET", method.encode("latin-1"), 1)
        yield Hostile(f"method {method!r}", sent, frozenset({400, 403, 404, 405}))
    yield Hostile("a huge header", get("/livez", "X: " + "a" * 100_000), frozenset({431}))
    yield Hostile("a huge target", get("/" + "a" * 100_000), frozenset({431}))
    yield Hostile("a huge name", get("/livez", "X" * 100_000 + ": 1"), frozenset({431}))
    yield Hostile("10,000 headers", get("/livez", *["X: 1"] * 10_000), frozenset({431}))
    yield Hostile("two hosts", get("/livez", "Host: localhost"), REFUSED)
    yield Hostile("no host", b"GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n", REFUSED)
    yield Hostile("an expectation", get("/livez", "Expect: the-spanish-inquisition"), frozenset({200, 400}))
    yield Hostile("odd authorization", get("/v1/models", "Authorization: \xff\xfe Bearer"), frozenset({200}))
    yield Hostile("odd request id", get("/v1/models", "x-request-id: \xff\x9b"), frozenset({200}))
    for name, noise in {
        "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "SSH": b"SSH-2.0-OpenSSH_9.6\r\n",
        "a Redis command": b"*1\r\n$8\r\nFLUSHALL\r\n",
        "SMTP": b"EHLO x\r\nMAIL FROM:<a@b>\r\n",
        "zeros": bytes(20_000),
        "JSON": GOOD,
        "line feeds": b"\r\n" * 1000 + b"x",
    }.items():
        yield Hostile(name, noise + b"\r\n\r\n", frozenset({400}))
    yield Hostile("nothing", b"", frozenset({0, 408}))
    yield Hostile("half a head", b"GET /livez HT", frozenset({0, 408}))
    yield Hostile("half a body", request(GOOD)[:-5], frozenset({408}))
    yield Hostile("half a chunk", chunked(b"ff\r\n{"), frozenset({408}))


FAMILIES = {
    "types": odd_types,
    "poison": poison,
    "sizes": sizes,
    "encodings": encodings,
    "framing": framing,
    "heads": heads,
}


def corpus() -> dict[str, list[Hostile]]:
    """Every case, by family."""
    return {name: list(family()) for name, family in FAMILIES.items()}
