"""Coding agents in long sessions, as a load, and what became of each of their turns.

An agent sends its whole history each turn, answers included. After a failure it waits a moment and sends
the same again; told that its prompt is too long, it compacts: the oldest turns go. It takes anything else
than a complete answer for lost.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import pairwise
from typing import Any

import aiohttp

PAUSE_S = 1.0  # of an agent after a failure

#: Silence of all answers together that counts as no service; a long prefill is silent for less.
GAP_S = 3.0


class End(StrEnum):
    """How one turn ended."""

    COMPLETE = "complete"
    COMPACTED = "compacted"  # told that the prompt is too long, before anything was spent on it
    RESET = "reset"  # refused or closed without an answer
    EMPTY = "empty"  # 200 and nothing in it
    CUT = "cut"  # an answer that stops without its end
    ERROR = "error"  # an error that says so: a status, or in the stream
    SILENT = "silent"  # no end within the agent's time
    UNFINISHED = "unfinished"  # the measurement ended first


#: What reaches an agent as a lie or a broken connection, against errors that are said plainly.
LOST = frozenset({End.RESET, End.EMPTY, End.CUT, End.SILENT})


@dataclass(frozen=True, slots=True)
class Turn:
    """Times in seconds of the monotonic clock; tokens as the server counts them, 0 unless complete."""

    agent: int
    began: float
    ended: float
    end: End
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    detail: str = ""


@dataclass(slots=True)
class Record:
    """What all agents together saw."""

    turns: list[Turn] = field(default_factory=list)
    moments: list[float] = field(default_factory=list)  # when content, or a whole answer, came for anybody

    def count(self, ends: Iterable[End]) -> int:
        wanted = frozenset(ends)
        return sum(turn.end in wanted for turn in self.turns)

    def without_service_s(self, begin: float, end: float) -> float:
        """Seconds of [begin, end] in which nobody got anything: gaps of more than GAP_S."""
        inside = sorted(moment for moment in self.moments if begin < moment < end)
        return sum(gap for a, b in pairwise([begin, *inside, end]) if (gap := b - a) > GAP_S)


@dataclass(frozen=True, slots=True)
class Script:
    """What an agent does. Sizes in tokens of the tiny tokenizer, in which each digit is one.

    `works_s`: seconds from an answer to the next turn, while a tool runs, on average.
    """

    first: int
    grows: int
    answer: int
    timeout_s: float = 120.0
    works_s: float = 0.0


class Agent:
    """One session. Every second agent streams. Reproducible but for the model's answers."""

    def __init__(self, number: int, script: Script, record: Record) -> None:
        self._number = number
        self._script = script
        self._record = record
        self._random = random.Random(number)
        self._history: list[dict[str, str]] = []
        self._stream = number % 2 == 0

    async def work(self, http: aiohttp.ClientSession, url: str) -> None:
        """Turn after turn, until cancelled."""
        self._say(self._script.first)
        while True:
            began = time.monotonic()
            try:
                turn = await self._ask(http, url, began)
            except asyncio.CancelledError:
                self._record.turns.append(self._turn(began, End.UNFINISHED))
                raise
            self._record.turns.append(turn)
            if turn.end is End.COMPLETE:
                self._say(self._script.grows)
                await asyncio.sleep(self._script.works_s * self._random.uniform(0.5, 1.5))
            elif turn.end is End.COMPACTED:
                self._compact()
            else:
                await asyncio.sleep(PAUSE_S)

    def _say(self, tokens: int) -> None:
        digits = "".join(self._random.choices("0123456789", k=tokens))
        self._history.append({"role": "user", "content": digits})

    def _compact(self) -> None:
        """A quarter of the first message and the last one stay, as after a summary."""
        summary = self._history[0]["content"][: self._script.first // 4]
        self._history = [{"role": "user", "content": f"{summary} {self._history[-1]['content']}"}]

    async def _ask(self, http: aiohttp.ClientSession, url: str, began: float) -> Turn:
        body = {
            "messages": self._history,
            "max_tokens": self._script.answer,
            "temperature": 0,
            "stream": self._stream,
            **({"stream_options": {"include_usage": True}} if self._stream else {}),
        }
        heard = Heard()
        try:
            async with (
                asyncio.timeout(self._script.timeout_s),
                http.post(f"{url}/v1/chat/completions", json=body) as answer,
            ):
                if answer.status != 200:
                    return self._turn(began, *refusal(answer.status, await answer.text()))
                await self._hear(answer, heard)
        except TimeoutError:
            return self._turn(began, End.SILENT)
        except (aiohttp.ClientError, OSError) as error:
            return self._turn(began, End.CUT if heard.text else End.RESET, type(error).__name__)
        if heard.end is End.COMPLETE:
            self._record.moments.append(time.monotonic())
            self._history.append({"role": "assistant", "content": heard.text})
        return self._turn(began, heard.end, heard.error, heard.usage)

    async def _hear(self, answer: aiohttp.ClientResponse, heard: Heard) -> None:
        if not self._stream:
            heard.whole(await answer.read())
            return
        async for line in answer.content:
            if heard.line(line):
                self._record.moments.append(time.monotonic())

    def _turn(self, began: float, end: End, detail: str = "", usage: dict[str, Any] | None = None) -> Turn:
        usage = usage or {}
        cached = (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
        counts = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0), cached)
        return Turn(self._number, began, time.monotonic(), end, *counts, detail)


def refusal(status: int, text: str) -> tuple[End, str]:
    """What an answer that is not 200 means to an agent."""
    if status == 400 and "context_length_exceeded" in text:
        return End.COMPACTED, ""
    return End.ERROR, f"{status} {text[:200]}"


@dataclass(slots=True)
class Heard:
    """One answer, as far as it has come."""

    text: str = ""
    error: str = ""
    usage: dict[str, Any] = field(default_factory=dict)
    finished: bool = False
    done: bool = False

    def line(self, line: bytes) -> bool:
        """Take one line of a stream; True if it brought content."""
        if not line.startswith(b"data: "):
            return False
        if line.strip() == b"data: [DONE]":
            self.done = True
            return False
        return self._event(json.loads(line[6:]))

    def _event(self, event: dict[str, Any]) -> bool:
        if "error" in event:
            self.error = str(event["error"])[:200]
            return False
        self.usage = event.get("usage") or self.usage
        content = ""
        for choice in event["choices"]:
            content += choice["delta"].get("content") or choice["delta"].get("reasoning") or ""
            self.finished = self.finished or choice["finish_reason"] is not None
        self.text += content
        return bool(content)

    def whole(self, body: bytes) -> None:
        """Take an answer that is not a stream."""
        if not body:
            return
        document = json.loads(body)
        self.usage, choice = document["usage"], document["choices"][0]
        self.text = choice["message"].get("content") or ""
        self.finished = self.done = choice["finish_reason"] is not None

    @property
    def end(self) -> End:
        if self.error:
            return End.ERROR
        if self.finished and self.done:
            return End.COMPLETE
        return End.CUT if self.text else End.EMPTY
