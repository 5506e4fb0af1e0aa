"""Clients of the fault campaign: openai-python and raw sockets, streaming and not, and what each one heard.

Whatever they get is sorted into one of `Heard`; nothing raises, since everything counts.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

import openai


class Heard(StrEnum):
    COMPLETE = "complete"
    CUT = "cut"  # content, then the contract's error, then [DONE]
    UNAVAILABLE = "unavailable"  # the contract's 503, in the head or in the stream, before any content
    REFUSED = "refused"  # 400: it is taken for a killer
    BROKEN = "broken"  # what must never be: reset, empty, ended without [DONE], false 200, hang


@dataclass(slots=True)
class Result:
    """One request as its client saw it. Seconds on the monotonic clock."""

    request_id: str
    client: str
    began: float
    ended: float = 0.0
    heard: Heard = Heard.BROKEN
    content: bool = False
    detail: str = ""


@dataclass(slots=True)
class Seen:
    """What a stream has held so far."""

    content: bool = False
    finish: bool = False
    done: bool = False
    error: dict[str, Any] | None = None
    ids: set[str] = field(default_factory=set)

    def event(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = event["error"]
            return
        self.ids.add(event["id"])
        for choice in event["choices"]:
            self.content = self.content or bool(choice["delta"].get("content"))
            self.finish = self.finish or choice["finish_reason"] is not None

    def verdict(self) -> tuple[Heard, str]:
        if not self.done:
            return Heard.BROKEN, "no [DONE]"
        if len(self.ids) > 1:
            return Heard.BROKEN, "two ids in one answer"
        if self.error is not None:
            if self.finish:
                return Heard.BROKEN, "an error after the end"
            return _by_contract(self.error, content=self.content)
        return (Heard.COMPLETE, "") if self.finish and self.content else (Heard.BROKEN, "a false 200")


def _by_contract(error: object, *, content: bool) -> tuple[Heard, str]:
    match error:
        case {"type": "server_error", "code": "503", "message": str()}:
            return (Heard.CUT if content else Heard.UNAVAILABLE), ""
        case {"type": "invalid_request_error", "code": "quarantined" | "context_length_exceeded" as code}:
            return (Heard.BROKEN if content else Heard.REFUSED), str(code)
        case _:
            return Heard.BROKEN, f"not by the contract: {error}"


Client = Callable[[str, dict[str, Any], Result], Awaitable[tuple[Heard, str]]]


async def ask(client: Client, url: str, body: dict[str, Any], request_id: str, patience_s: float) -> Result:
    """Run one request to its end."""
    result = Result(request_id, client.__name__, time.monotonic())
    try:
        async with asyncio.timeout(patience_s):
            result.heard, result.detail = await client(url, body, result)
    except TimeoutError:
        result.detail = f"no end within {patience_s} s"
    except Exception as error:  # noqa: BLE001 - whatever a client stumbles over is a broken answer
        result.detail = f"{type(error).__name__}: {error}"
    result.ended = time.monotonic()
    return result


# --- openai-python ---


async def openai_streaming(url: str, body: dict[str, Any], result: Result) -> tuple[Heard, str]:
    seen = Seen()
    async with _openai(url, result) as client:
        try:
            stream = await client.chat.completions.create(**body, model="tiny", stream=True)
            async for chunk in stream:
                seen.event(chunk.model_dump())
                result.content = result.content or seen.content
        except openai.APIStatusError as error:
            return _status(error.status_code, error.response.headers, error.response.json())
        except openai.APIError as error:  # what the package makes of an error in the stream
            return _by_contract(_as_object(error), content=seen.content)
    seen.done = True  # the package swallows [DONE], and an end without it is only seen by what is missing
    return seen.verdict()


async def openai_whole(url: str, body: dict[str, Any], result: Result) -> tuple[Heard, str]:
    async with _openai(url, result) as client:
        try:
            answer = await client.chat.completions.create(**body, model="tiny")
        except openai.APIStatusError as error:
            return _status(error.status_code, error.response.headers, error.response.json())
    return _whole(answer.model_dump())


def _openai(url: str, result: Result) -> openai.AsyncOpenAI:
    headers = {"x-request-id": result.request_id}
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0, default_headers=headers)


def _as_object(error: openai.APIError) -> object:
    return {"type": error.type, "code": error.code, "message": error.message}


# --- raw sockets ---


async def raw_streaming(url: str, body: dict[str, Any], result: Result) -> tuple[Heard, str]:
    status, headers, data = await _post(url, {**body, "stream": True}, result)
    if status != 200:
        return _status(status, headers, json.loads(data))
    seen = Seen()
    for line in data.split(b"\n"):
        if line == b"data: [DONE]":
            seen.done = True
        elif line.startswith(b"data: "):
            if seen.done:
                return Heard.BROKEN, "something after [DONE]"
            seen.event(json.loads(line[6:]))
        elif line and not line.startswith(b":"):
            return Heard.BROKEN, f"neither event nor comment: {line[:60]!r}"
    result.content = seen.content
    return seen.verdict()


async def raw_whole(url: str, body: dict[str, Any], result: Result) -> tuple[Heard, str]:
    status, headers, data = await _post(url, body, result)
    if status != 200:
        return _status(status, headers, json.loads(data))
    return _whole(json.loads(data))


async def _post(url: str, body: dict[str, Any], result: Result) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body; raises what a socket raises, also where a chunked body ends early."""
    parts, content = urlsplit(url), json.dumps(body).encode()
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: {parts.netloc}\r\nConnection: close\r\n"
        f"x-request-id: {result.request_id}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\n\r\n"
    )
    try:
        writer.write(head.encode() + content)
        await writer.drain()
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        chunked = headers.get("transfer-encoding") == "chunked"
        data = await (_chunks(reader) if chunked else reader.readexactly(int(headers["content-length"])))
    finally:
        writer.close()
    return int(lines[0].split()[1]), headers, data


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    data = b""
    while size := int(await reader.readuntil(b"\r\n"), 16):
        data += (await reader.readexactly(size + 2))[:-2]
    return data


# --- both ---


def _whole(answer: dict[str, Any]) -> tuple[Heard, str]:
    choice = answer["choices"][0]
    complete = choice["finish_reason"] in ("length", "stop") and choice["message"]["content"]
    return (Heard.COMPLETE, "") if complete else (Heard.BROKEN, "a false 200")


def _status(status: int, headers: Any, document: dict[str, Any]) -> tuple[Heard, str]:
    heard, detail = _by_contract(document.get("error"), content=False)
    if heard is Heard.UNAVAILABLE and (status != 503 or not 10 <= int(headers["retry-after"]) <= 30):
        return Heard.BROKEN, f"{status} without a proper Retry-After"
    if heard is Heard.REFUSED and (status != 400 or headers.get("x-should-retry") != "false"):
        return Heard.BROKEN, f"{status} that does not say whether to retry"
    return heard, detail


CLIENTS: tuple[Client, ...] = (openai_streaming, openai_whole, raw_streaming, raw_whole)
