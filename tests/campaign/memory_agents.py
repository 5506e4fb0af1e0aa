"""The agents of the memory campaign: growing sessions, titles beside them, clients that leave."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import aiohttp

from tests.bench.turns import End, Heard, refusal
from tests.campaign.memory_world import World

SESSIONS = 3
#: Tokens; each digit is one. A session is compacted when it would be longer than the most.
FIRST, GROWS, MOST, TITLE = 200, (40, 160), 1400, 60
MAX_TOKENS = (512, 8192, 65_536)
LEAVES, ASKS_TITLE = 0.15, 0.5
PAUSE_S = 0.5
TIMEOUT_S = 180.0


async def work(url: str, world: World) -> None:
    """All sessions, until it is over; who is at work then is left alone."""
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True)) as http:
        sessions = [
            asyncio.create_task(_Session(number, world, http, url).work()) for number in range(SESSIONS)
        ]
        while not world.over and any(not session.done() for session in sessions):
            await asyncio.sleep(0.05)
        world.stop()
        for session in sessions:
            session.cancel()
        for ended in await asyncio.gather(*sessions, return_exceptions=True):
            if isinstance(ended, Exception):
                raise ended


class _Session:
    def __init__(self, number: int, world: World, http: aiohttp.ClientSession, url: str) -> None:
        self._world = world
        self._http = http
        self._url = f"{url}/v1/chat/completions"
        self._chance = random.Random(1000 * world.seed + number)
        self._history: list[dict[str, str]] = []
        self._size = 0
        self._titles: set[asyncio.Task[None]] = set()

    async def work(self) -> None:
        try:
            self._say(FIRST)
            while not self._world.over:
                await self._turn()
        finally:
            for title in self._titles:
                title.cancel()
            await asyncio.gather(*self._titles, return_exceptions=True)

    async def _turn(self) -> None:
        if self._chance.random() < LEAVES:
            await self._ask("left", self._history, leave_after=self._chance.randrange(1, 12))
        end, text = await self._ask("turns", self._history)
        if end is End.COMPLETE:
            self._history.append({"role": "assistant", "content": text})
            self._size += 30
            if self._chance.random() < ASKS_TITLE:
                self._beside()
            self._say(self._chance.randint(*GROWS))
        elif end is not End.COMPACTED:
            await asyncio.sleep(PAUSE_S)
        if end is End.COMPACTED or self._size > MOST:
            self._compact()

    def _beside(self) -> None:
        """A title, as agents ask for while they work."""
        prompt = [{"role": "user", "content": self._digits(TITLE)}]
        title = asyncio.create_task(self._title(prompt))
        self._titles.add(title)
        title.add_done_callback(self._titles.discard)

    async def _title(self, prompt: list[dict[str, str]]) -> None:
        await self._ask("titles", prompt)

    def _say(self, tokens: int) -> None:
        """The task, or what a tool gave back."""
        self._history.append({"role": "user", "content": self._digits(tokens)})
        self._size += tokens

    def _digits(self, tokens: int) -> str:
        return "".join(self._chance.choices("0123456789", k=tokens))

    def _compact(self) -> None:
        self._history, self._size = [], 0
        self._say(FIRST)

    async def _ask(
        self, kind: str, messages: list[dict[str, str]], leave_after: int | None = None
    ) -> tuple[End, str]:
        body = {
            "messages": messages,
            "max_tokens": self._chance.choice(MAX_TOKENS),
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        heard = Heard()
        async with self._world.asking():
            end = await self._hear(body, heard, leave_after)
        if leave_after is None:
            self._world.saw(kind, heard, end)
        else:
            self._world.done["left"] += 1
        return end, heard.text

    async def _hear(self, body: dict[str, Any], heard: Heard, leave_after: int | None) -> End:
        try:
            async with asyncio.timeout(TIMEOUT_S), self._http.post(self._url, json=body) as answer:
                if answer.status != 200:
                    return refusal(answer.status, await answer.text())[0]
                events = 0
                async for line in answer.content:
                    events += heard.line(line)
                    if leave_after is not None and events >= leave_after:
                        break
        except TimeoutError:
            return End.SILENT
        except (aiohttp.ClientError, OSError):
            return End.CUT if heard.text else End.RESET
        return heard.end
