"""Exact prompt tokens for the gateway: client of the tokenizer worker, which it starts, watches and replaces.

Requests are pipelined by id to one worker, which answers in order. A worker that dies is replaced and what
was pending is asked once more; one that answers nothing for `stall_s` is killed, and only the request it sat
on is refused.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from proxy.errors import InvalidRequest, Unavailable
from proxy.prompt.conversation_delta import PROMPTS, Sender
from proxy.prompt.worker_process import TokenizerRefused, Worker, WorkerDied, WorkerStalled
from proxy.request.completion import ChatPrompt, Prompt, TextPrompt

log = logging.getLogger("mlxguard.tokens")

_COMMAND = (sys.executable, "-P", "-m", "proxy.worker.main")  # -P: the current folder shadows nothing
_STARTS = 3


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What the model's files say. `vocab_size`: logits per token. `context_length`: in tokens.

    `incremental`: a prompt's count costs what is new in it; else every prompt is encoded in full.
    `image_obstacle`: why prompts cannot have images; None: they can.
    """

    vocab_size: int
    context_length: int | None
    has_chat_template: bool
    has_tool_calling: bool
    has_thinking: bool
    incremental: bool = False
    image_obstacle: str | None = "this model takes no images"


class TokenizerUnavailable(Exception):
    """The tokenizer of this model cannot be loaded; the text says why, for the log and the operator."""


class TokenCounter:
    """Counts prompts. One per gateway."""

    def __init__(
        self,
        *,
        stall_s: float = 60.0,
        load_s: float = 300.0,
        most_pending: int = 256,
        most_pixels: int = 0,
    ) -> None:
        """`stall_s`: longest silence of a worker with work. `load_s`: the same while it loads.

        `most_pixels`: of all images of one prompt.
        """
        self.info: TokenizerInfo | None = None
        self._stall_s, self._load_s, self._most_pending = stall_s, load_s, most_pending
        self._most_pixels = most_pixels
        self._incremental = True
        self._load: dict[str, Any] | None = None
        self._worker: Worker | None = None
        self._sender = Sender()
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
        self._load = {
            "model_path": str(model_path),
            "server_argv": list(server_argv),
            "most_pixels": self._most_pixels,
        }
        await self._living()
        assert self.info is not None
        return self.info

    async def stop(self, grace_s: float = 2.0) -> None:
        """End the worker. What is pending gets Unavailable."""
        self._load = None
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop(grace_s)

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        """Tokens that the child will see: its `usage.prompt_tokens`. May be cancelled.

        Exact, except that a prompt of more than a million characters that is also more than twice `limit`
        tokens gets an estimate (still above `limit`), in a second instead of a minute.

        Raises InvalidRequest if the template or the tokenizer refuses the prompt, Unavailable if there is no
        tokenizer to be had.
        """
        request = {"op": "count", "prompt": prompt.fields(), "limit": limit}
        return int(await self._ask(request, prompt))

    async def count_and_predict(
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool
    ) -> tuple[int, dict[str, Any] | None]:
        """A count, and what the worker's `CachePredictor` says of a prompt of at most `limit` tokens.

        It is followed as `of` from now on. Raises as `count`.
        """
        request = {"op": "count_and_predict", "prompt": prompt.fields(), "limit": limit}
        count, told = await self._ask({**request, "of": of, "batched": batched}, prompt)
        return count, told

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        """Length of the common prefix of two prompts, in tokens. Raises as `count`."""
        request = {"op": "shared", "prompt": prompt.fields(), "other": other.fields()}
        return int(await self._ask(request, prompt))

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        """The text without its middle, and its exact count, which is at most `limit` tokens.

        The first `head` tokens stay, and as many of the last as fit. Raises as `count`.
        """
        request = {"op": "trim", "text": prompt.text, "head": head, "limit": limit}
        text, count = await self._ask(request, prompt)
        return TextPrompt(text), count

    async def ask_predictor(self, do: str, prompt: Prompt | None = None, **fields: Any) -> Any | None:
        """Ask the worker's `CachePredictor`; None if it cannot answer, since nothing depends on it."""
        request = {"op": "predictor", "do": do, "incremental": self._incremental, **fields}
        if prompt is not None:
            request["prompt"] = prompt.fields()
        try:
            return await self._ask_twice(request)
        except (TokenizerRefused, WorkerStalled, WorkerDied, TokenizerUnavailable, Unavailable) as error:
            log.warning("not_foreseen", extra={"what": do, "reason": type(error).__name__})
            return None

    def tell_predictor(self, do: str, **fields: Any) -> None:
        """Tell the worker's `CachePredictor` something, in order with the questions to it."""
        if self._worker is not None and self._worker.alive:
            self._worker.tell({"op": "predictor", "do": do, "incremental": self._incremental, **fields})

    def check(self, ours: int, served: int) -> None:
        """Compare a count of ours with the child's own; where they differ, count in full for good."""
        if ours != served and self._incremental:
            log.error("count_drift", extra={"counted": ours, "served": served})
            self.count_in_full()

    def count_in_full(self) -> None:
        """From now on encode every prompt as a whole."""
        self._incremental = False

    async def _ask(self, request: dict[str, Any], prompt: Prompt) -> Any:
        try:
            return await self._ask_twice({**request, "incremental": self._incremental})
        except TokenizerRefused as refusal:
            raise translated(refusal, prompt) from refusal
        except WorkerStalled:
            raise Unavailable("tokenizer_stalled") from None
        except (WorkerDied, TokenizerUnavailable) as error:
            raise Unavailable("tokenizer_unavailable") from error

    async def _ask_twice(self, request: dict[str, Any]) -> Any:
        worker = await self._living()
        if len(worker) >= self._most_pending:
            raise Unavailable("tokenizer_busy")
        try:
            return await worker.ask(self._packed(request))
        except WorkerDied:
            worker = await self._living()
            return await worker.ask(self._packed(request))

    def _packed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request as it goes to the worker, at once: without the messages that the worker has."""
        if not request["incremental"]:
            return request
        prompts = {name: self._sender.packed(request[name]) for name in PROMPTS if name in request}
        return request | prompts

    async def _living(self) -> Worker:
        """The worker, started again if it has died. Raises TokenizerUnavailable or WorkerDied."""
        async with self._starting:
            if self._worker is None or not self._worker.alive:
                await self._replace()
            assert self._worker is not None
            return self._worker

    async def _replace(self) -> None:
        if self._worker is not None:
            await self._worker.stop(0)
        async for attempt in AsyncRetrying(
            retry=retry_if_exception_type(WorkerDied),
            stop=stop_after_attempt(_STARTS),
            wait=wait_random_exponential(multiplier=0.1, max=2.0),
            reraise=True,
        ):
            with attempt:
                self._worker, self._sender = await self._started(self._load), Sender()

    async def _started(self, load: dict[str, Any] | None) -> Worker:
        if load is None:
            raise TokenizerUnavailable("the tokenizer was not started")
        worker = await Worker.spawn(_COMMAND, self._load_s)
        try:
            self.info = await self._loaded(worker, load)
        except BaseException:
            await worker.stop(0)
            log.warning("tokenizer_start_failed", extra={"pid": worker.pid, "stderr": worker.said})
            raise
        worker.stall_s = self._stall_s
        log.info(
            "tokenizer_ready",
            extra={
                "pid": worker.pid,
                "vocab_size": self.info.vocab_size,
                "incremental": self.info.incremental,
            },
        )
        return worker

    async def _loaded(self, worker: Worker, load: dict[str, Any]) -> TokenizerInfo:
        try:
            info = TokenizerInfo(**await worker.ask(load))
        except TokenizerRefused as refusal:
            raise TokenizerUnavailable(f"{refusal.kind}: {refusal}") from refusal
        except WorkerStalled:
            raise TokenizerUnavailable(f"not loaded within {self._load_s:g} s") from None
        if load is not self._load:
            raise TokenizerUnavailable("stopped while it was loaded")
        return info


#: Agents match on digits of statuses in error texts; a template author's text may have any.
_DIGITS = re.compile(r"\d+")


_LONGEST_REASON = 200


def translated(refusal: TokenizerRefused, prompt: Prompt) -> Exception:
    """The error to answer with. Only a template's own words pass: other exceptions may quote the prompt."""
    if refusal.kind == "MemoryError":
        return Unavailable("tokenizer_memory")
    reason = "The model's tokenizer does not accept it."
    if refusal.kind == "BadImage":
        reason = str(refusal)
    elif refusal.kind == "TemplateError":
        reason = "The model's chat template says: " + _DIGITS.sub("N", str(refusal))[:_LONGEST_REASON]
    elif isinstance(prompt, ChatPrompt):
        reason = "The model's chat template does not accept this conversation."
    return InvalidRequest(reason, param="messages" if isinstance(prompt, ChatPrompt) else "prompt")
