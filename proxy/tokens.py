"""Exact prompt tokens for the gateway: client of the tokenizer worker, which it starts, watches and replaces.

Requests are pipelined by id to one worker, which answers in order. A worker that dies is replaced and what
was pending is asked once more; one that answers nothing for `stall_s` is killed, and only the request it sat
on is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from proxy import frames
from proxy.core.chat import ChatPrompt, Prompt, TextPrompt
from proxy.errors import InvalidRequest, Unavailable

log = logging.getLogger("mlxguard.tokens")

_COMMAND = (sys.executable, "-P", "-m", "proxy.tokenizer_worker")  # -P: the current folder shadows nothing
_STARTS = 3
_STDERR_LINES = 20
#: Agents match on digits of statuses in error texts; a template author's text may have any.
_DIGITS = re.compile(r"\d+")
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What the model's files say. `vocab_size`: logits per token. `context_length`: in tokens."""

    vocab_size: int
    context_length: int | None
    has_chat_template: bool
    has_tool_calling: bool
    has_thinking: bool


class TokenizerUnavailable(Exception):
    """The tokenizer of this model cannot be loaded; the text says why, for the log and the operator."""


class _WorkerDied(Exception):
    """The worker ended, or was killed, before it answered."""


class _Stalled(Exception):
    """The worker was killed over this request: it gave no answer within the time."""


class _Refused(Exception):
    """The worker answered that the template or the tokenizer raised. `kind`: the exception's class name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Worker:
    """One life of the worker process."""

    def __init__(self, process: asyncio.subprocess.Process, stall_s: float) -> None:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        self._process = process
        self._stdin, self._stdout, self._stderr = process.stdin, process.stdout, process.stderr
        self.stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count()
        self._pending: dict[int, asyncio.Future[Any]] = {}
        self._watchdog: asyncio.TimerHandle | None = None
        self._reader = asyncio.create_task(self._read())
        self._listener = asyncio.create_task(self._listen())
        self.said: deque[str] = deque(maxlen=_STDERR_LINES)
        self.alive = True

    @property
    def pid(self) -> int:
        return self._process.pid

    def __len__(self) -> int:
        """Requests that have no answer yet."""
        return len(self._pending)

    async def ask(self, request: dict[str, Any]) -> Any:
        """The result of one request. Raises _Refused, _Stalled or _WorkerDied."""
        if not self.alive:
            raise _WorkerDied
        request_id = next(self._ids)
        answer = self._pending[request_id] = self._loop.create_future()
        try:
            self._arm()
            self._stdin.write(frames.encode({"id": request_id, **request}))
            with contextlib.suppress(ConnectionError):  # the reader sees the death and fails the answer
                await self._stdin.drain()
            return await answer
        finally:
            if not answer.cancel() and not answer.cancelled():
                answer.exception()  # marks it as seen where the caller went away while it came

    async def stop(self, grace_s: float) -> None:
        """End the process: its input closes, and after `grace_s` it is killed."""
        self._stdin.close()
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            self.kill()
        await asyncio.gather(self._reader, self._listener)
        await self._process.wait()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def _read(self) -> None:
        while (answer := await frames.read_async(self._stdout)) is not None:
            self._settle(self._pending.pop(answer["id"]), answer)
            self._arm()
        self.alive = False
        self._disarm()
        for waiting in self._pending.values():
            if not waiting.done():
                waiting.set_exception(_WorkerDied())
        self._pending.clear()

    @staticmethod
    def _settle(waiting: asyncio.Future[Any], answer: dict[str, Any]) -> None:
        if waiting.done():
            return
        error = answer.get("error")
        if error is None:
            waiting.set_result(answer["result"])
        else:
            waiting.set_exception(_Refused(error["kind"], error["message"]))

    async def _listen(self) -> None:
        async for line in self._stderr:
            self.said.append(line.decode(errors="replace").rstrip())

    def _arm(self) -> None:
        """The time runs for the oldest request, from when the one before it was answered."""
        self._disarm()
        if self._pending:
            self._watchdog = self._loop.call_later(self.stall_s, self._give_up)

    def _disarm(self) -> None:
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None

    def _give_up(self) -> None:
        oldest = next(iter(self._pending.values()))
        if not oldest.done():
            oldest.set_exception(_Stalled())
        log.error("tokenizer_stalled", extra={"pid": self.pid, "stall_s": self.stall_s})
        self.kill()


class Tokens:
    """Counts prompts. One per gateway."""

    def __init__(self, *, stall_s: float = 60.0, load_s: float = 300.0, most_pending: int = 256) -> None:
        """`stall_s`: longest silence of a worker with work. `load_s`: the same while it loads."""
        self.info: TokenizerInfo | None = None
        self._stall_s, self._load_s, self._most_pending = stall_s, load_s, most_pending
        self._load: dict[str, Any] | None = None
        self._worker: _Worker | None = None
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, while there is one."""
        return self._worker.pid if self._worker is not None and self._worker.alive else None

    async def start(self, model_path: Path, server_argv: Sequence[str]) -> TokenizerInfo:
        """Load the tokenizer of the model in the folder `model_path`, as a server with these flags would.

        Raises TokenizerUnavailable.
        """
        await self.stop()
        self._load = {"model_path": str(model_path), "server_argv": list(server_argv)}
        await self._living()
        assert self.info is not None
        return self.info

    async def stop(self, grace_s: float = 2.0) -> None:
        """End the worker. What is pending gets Unavailable."""
        self._load = None
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop(grace_s)

    async def count(self, prompt: Prompt) -> int:
        """Tokens that the child will see: its `usage.prompt_tokens`.

        Raises InvalidRequest if the template or the tokenizer refuses the prompt, Unavailable if there is no
        tokenizer to be had. May be cancelled.
        """
        return int(await self._ask({"op": "count", "prompt": prompt.fields()}, prompt))

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        """Length of the common prefix of two prompts, in tokens. Raises as `count`."""
        return int(
            await self._ask({"op": "shared", "prompt": prompt.fields(), "other": other.fields()}, prompt)
        )

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        """The text without its middle, and its exact count, which is at most `limit` tokens.

        The first `head` tokens stay, and as many of the last as fit. Raises as `count`.
        """
        request = {"op": "trim", "text": prompt.text, "head": head, "limit": limit}
        text, count = await self._ask(request, prompt)
        return TextPrompt(text), count

    async def _ask(self, request: dict[str, Any], prompt: Prompt) -> Any:
        try:
            return await self._ask_twice(request)
        except _Refused as refusal:
            raise _translated(refusal, prompt) from refusal
        except _Stalled:
            raise Unavailable("tokenizer_stalled") from None
        except (_WorkerDied, TokenizerUnavailable) as error:
            raise Unavailable("tokenizer_unavailable") from error

    async def _ask_twice(self, request: dict[str, Any]) -> Any:
        worker = await self._living()
        if len(worker) >= self._most_pending:
            raise Unavailable("tokenizer_busy")
        try:
            return await worker.ask(request)
        except _WorkerDied:
            return await (await self._living()).ask(request)

    async def _living(self) -> _Worker:
        """The worker, started again if it has died. Raises TokenizerUnavailable or _WorkerDied."""
        async with self._starting:
            if self._worker is None or not self._worker.alive:
                async for attempt in AsyncRetrying(
                    retry=retry_if_exception_type(_WorkerDied),
                    stop=stop_after_attempt(_STARTS),
                    wait=wait_random_exponential(multiplier=0.1, max=2.0),
                    reraise=True,
                ):
                    with attempt:
                        self._worker = await self._started()
            assert self._worker is not None
            return self._worker

    async def _started(self) -> _Worker:
        if self._load is None:
            raise TokenizerUnavailable("the tokenizer was not started")
        process = await asyncio.create_subprocess_exec(
            *_COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        worker = _Worker(process, self._load_s)
        try:
            self.info = TokenizerInfo(**await worker.ask(self._load))
        except BaseException as error:
            await worker.stop(0)
            log.warning("tokenizer_start_failed", extra={"pid": worker.pid, "stderr": list(worker.said)})
            if isinstance(error, _Refused):
                raise TokenizerUnavailable(f"{error.kind}: {error}") from error
            if isinstance(error, _Stalled):
                raise TokenizerUnavailable(f"not loaded within {self._load_s:g} s") from error
            raise
        worker.stall_s = self._stall_s
        log.info("tokenizer_ready", extra={"pid": worker.pid, "vocab_size": self.info.vocab_size})
        return worker


def _translated(refusal: _Refused, prompt: Prompt) -> Exception:
    """What the client is told. Only a template's own words pass: other exceptions may quote the prompt."""
    if refusal.kind == "MemoryError":
        return Unavailable("tokenizer_memory")
    reason = "The model's tokenizer does not accept it."
    if refusal.kind == "TemplateError":
        reason = "The model's chat template says: " + _DIGITS.sub("N", str(refusal))[:_LONGEST_REASON]
    elif isinstance(prompt, ChatPrompt):
        reason = "The model's chat template does not accept this conversation."
    return InvalidRequest(reason, param="messages" if isinstance(prompt, ChatPrompt) else "prompt")
