"""Exact prompt tokens for the gateway: the client of the tokenizer worker, which it starts and replaces.

Requests are pipelined by id to one worker, which answers in order. A worker that dies is replaced, and
pending requests are sent once more. A worker that gives no answer for `stall_s` is killed, and only the
request that it was working on is refused.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sys
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson
from tenacity import AsyncRetrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from proxy.errors import CountingStalled, InvalidRequest, Unavailable
from proxy.prompt.conversation_delta import PROMPTS, Sender
from proxy.prompt.turns import ASKER, CountingTurns, Turn
from proxy.prompt.worker_process import TokenizerRefused, Worker, WorkerDied, WorkerStalled
from proxy.request.completion import ChatPrompt, Prompt, TextPrompt
from proxy.request.fields import mask_statuses
from proxy.request.template_traits import TemplateTraits, known, warnings

log = logging.getLogger("mlxguard.tokens")

_COMMAND = (sys.executable, "-P", "-m", "proxy.worker.main")  # -P: do not import from the current folder
#: Prompts that stalled a worker are remembered, up to this number; they are refused at once until the
#: tokenizer is loaded anew.
_MOST_STALLED = 64
#: A request is asked again this many times after the worker that had it has died or was stopped.
_ASKED_AGAIN = 2
#: Attempts at starting a worker that dies before it has loaded the tokenizer.
_STARTS = 3
#: What jinja2 raises about the template itself. Its text names attributes and filters, never the prompt.
_TEMPLATE_FAULTS = frozenset(
    {
        "UndefinedError",
        "SecurityError",
        "TemplateSyntaxError",
        "TemplateAssertionError",
        "FilterArgumentError",
    }
)
#: Longest text of a template that is passed on, in characters.
_LONGEST_REASON = 200


@dataclass(frozen=True, slots=True)
class TokenizerInfo:
    """What the model's files say.

    Attributes:
        vocab_size: logits per token.
        context_length: in tokens; None if unknown.
        incremental: counting costs only what is new in a prompt; else every prompt is encoded in full.
        image_obstacle: why prompts cannot have images; None if they can.
        template: what the chat template takes.
    """

    vocab_size: int
    context_length: int | None
    has_chat_template: bool
    has_tool_calling: bool
    has_thinking: bool
    incremental: bool = False
    image_obstacle: str | None = "this model takes no images"
    template: TemplateTraits = field(default_factory=TemplateTraits)

    @property
    def warnings(self) -> list[str]:
        """What an operator should know of the model's chat template, in sentences."""
        if not self.has_chat_template:
            return ["The model has no chat template: conversations are sent as plain text."]
        return warnings(self.template, parses_calls=self.has_tool_calling)


class TokenizerUnavailable(Exception):
    """The tokenizer of this model cannot be loaded; the text says why, for the operator."""


class TokenCounter:
    """Counts the tokens of prompts. One per gateway."""

    def __init__(
        self,
        *,
        stall_s: float = 60.0,
        load_s: float = 300.0,
        most_pending: int = 256,
        most_pixels: int = 0,
    ) -> None:
        """Nothing is started yet.

        Args:
            stall_s: longest time without an answer while requests are pending, in seconds.
            load_s: longest time for loading the tokenizer, in seconds.
            most_pending: requests in flight; another one gets Unavailable.
            most_pixels: most pixels of all images in one prompt.
        """
        self.info: TokenizerInfo | None = None
        self._stall_s, self._load_s = stall_s, load_s
        self._turns = CountingTurns(most_pending)
        self._stalled: deque[bytes] = deque(maxlen=_MOST_STALLED)  # digests of prompts that stalled a worker
        self._most_pixels = most_pixels
        self._incremental = True
        self.differences = 0  # answers whose usage differed from our count, since the tokenizer was loaded
        self._load: dict[str, Any] | None = None
        self._worker: Worker | None = None
        self._sender = Sender()
        self._starting = asyncio.Lock()

    @property
    def pid(self) -> int | None:
        """Process id of the worker, or None if there is none."""
        return self._worker.pid if self._worker is not None and self._worker.alive else None

    async def start(self, model_path: Path, server_argv: Sequence[str]) -> TokenizerInfo:
        """Load the tokenizer of the model in `model_path` as a server with these flags does.

        Raises TokenizerUnavailable.
        """
        await self.stop()
        self._incremental, self.differences = True, 0
        self._stalled.clear()
        self._load = {
            "model_path": str(model_path),
            "server_argv": list(server_argv),
            "most_pixels": self._most_pixels,
        }
        await self._live_worker()
        assert self.info is not None
        return self.info

    async def stop(self, grace_s: float = 2.0) -> None:
        """End the worker. Pending requests get Unavailable."""
        self._load = None
        worker, self._worker = self._worker, None
        if worker is not None:
            await worker.stop(grace_s)

    async def count(self, prompt: Prompt, limit: int | None = None) -> int:
        """Tokens that the child will see, equal to its `usage.prompt_tokens`. May be cancelled.

        Exact, except that a prompt of more than a million characters and more than twice `limit` tokens gets
        an estimate (still above `limit`), which takes a second instead of a minute.

        Raises:
            InvalidRequest: the template or the tokenizer refuses the prompt.
            Unavailable: there is no tokenizer at present.
        """
        request = {"op": "count", "prompt": prompt.fields(), "limit": limit}
        return int(await self._ask(request, prompt))

    async def count_and_predict(
        self, prompt: Prompt, limit: int | None, *, of: str, batched: bool, session: str = ""
    ) -> tuple[int, dict[str, Any] | None]:
        """Count a prompt and, if it has at most `limit` tokens, predict its prompt cache search.

        The worker's `CachePredictor` follows the request, one of `session`, under the id `of` from now on.
        Raises as `count`.
        """
        request: dict[str, Any] = {"op": "count_and_predict", "prompt": prompt.fields(), "limit": limit}
        request |= {"of": of, "batched": batched, "session": session}
        count, prediction = await self._ask(request, prompt)
        return count, prediction

    async def shared(self, prompt: Prompt, other: Prompt) -> int:
        """Length of the common prefix of two prompts, in tokens. Raises as `count`."""
        request = {"op": "shared", "prompt": prompt.fields(), "other": other.fields()}
        return int(await self._ask(request, prompt))

    async def trim(self, prompt: TextPrompt, head: int, limit: int) -> tuple[TextPrompt, int]:
        """The text without its middle, and its exact count, which is at most `limit` tokens.

        Keeps the first `head` tokens, and as many of the last as fit. Raises as `count`.
        """
        request = {"op": "trim", "text": prompt.text, "head": head, "limit": limit}
        text, count = await self._ask(request, prompt)
        return TextPrompt(text), count

    async def json_problem(self, schema: dict[str, Any], value: Any) -> str | None:
        """What of a JSON value is not valid by a JSON Schema; None if all is.

        Raises:
            InvalidRequest: the schema is none.
            Unavailable: there is no worker at present.
        """
        try:
            problem: str | None = await self._ask_worker(
                {"op": "json_problem", "schema": schema, "value": value, "incremental": self._incremental}
            )
        except (TokenizerRefused, WorkerStalled) as refusal:
            reason = mask_statuses(str(refusal))[:_LONGEST_REASON]
            message = f"The JSON Schema cannot be applied: {reason}"
            raise InvalidRequest(message, param="response_format") from refusal
        except (WorkerDied, TokenizerUnavailable) as error:
            raise Unavailable("tokenizer_unavailable") from error
        return problem

    async def ask_predictor(self, do: str, prompt: Prompt | None = None, **fields: Any) -> Any | None:
        """Call a method of the worker's `CachePredictor`; None if it fails, since nothing depends on it."""
        request = {"op": "predictor", "do": do, "incremental": self._incremental, **fields}
        if prompt is not None:
            request["prompt"] = prompt.fields()
        try:
            return await self._ask_worker(request)
        except (
            TokenizerRefused,
            WorkerStalled,
            WorkerDied,
            TokenizerUnavailable,
            Unavailable,
            OSError,
        ) as error:
            log.warning("not_predicted", extra={"operation": do, "reason": type(error).__name__})
            return None

    def tell_predictor(self, do: str, **fields: Any) -> None:
        """Call a method of the `CachePredictor` without an answer, in order with the other calls."""
        if self._worker is not None and self._worker.alive:
            self._worker.notify({"op": "predictor", "do": do, "incremental": self._incremental, **fields})

    def check(self, ours: int, served: int) -> None:
        """Compare our count with the child's; after the first difference, encode every prompt in full."""
        self.differences += ours != served
        if ours != served and self._incremental:
            log.error("count_drift", extra={"counted": ours, "served": served})
            self.count_in_full()

    def count_in_full(self) -> None:
        """Encode every prompt in full from now on."""
        self._incremental = False

    async def _ask(self, request: dict[str, Any], prompt: Prompt) -> Any:
        if self._stalled and _digest(prompt) in self._stalled:
            raise _stalled(prompt)
        turn = await self._turns.take(ASKER.get())
        try:
            return await self._ask_worker({**request, "incremental": self._incremental}, turn)
        except TokenizerRefused as refusal:
            error = client_error(refusal, prompt)
            log.warning("prompt_refused", extra={"kind": refusal.kind, "reason": str(error)})
            if isinstance(error, InvalidRequest) and await self._renders_without_tools(prompt):
                raise InvalidRequest(error.message, param="tools") from refusal
            raise error from refusal
        except WorkerStalled:
            self._stalled.append(_digest(prompt))
            raise _stalled(prompt) from None
        except (WorkerDied, TokenizerUnavailable, OSError) as error:  # OSError: no process could be started
            raise Unavailable("tokenizer_unavailable") from error
        finally:
            turn.left()

    async def _renders_without_tools(self, prompt: Prompt) -> bool:
        """Whether the tools are what the template fails on."""
        if not isinstance(prompt, ChatPrompt) or not prompt.tools:
            return False
        request = {"op": "count", "prompt": replace(prompt, tools=None).fields(), "limit": None}
        try:
            await self._ask_worker({**request, "incremental": self._incremental})
        except (TokenizerRefused, WorkerStalled, WorkerDied, TokenizerUnavailable, Unavailable):
            return False
        return True

    async def _ask_worker(self, request: dict[str, Any], turn: Turn | None = None) -> Any:
        """The worker's result; asks new workers a few times if this one dies, as others may be the cause."""
        for _ in range(_ASKED_AGAIN):
            worker = await self._live_worker()
            with suppress(WorkerDied):
                return await worker.ask(self._packed(request), turn)
        worker = await self._live_worker()
        return await worker.ask(self._packed(request), turn)

    def _packed(self, request: dict[str, Any]) -> dict[str, Any]:
        """The request without the messages that the worker already has. Must be sent at once."""
        if not request["incremental"]:
            return request
        prompts = {name: self._sender.packed(request[name]) for name in PROMPTS if name in request}
        return request | prompts

    async def _live_worker(self) -> Worker:
        """The worker, restarted if it has died. Raises TokenizerUnavailable or WorkerDied."""
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
            log.warning("tokenizer_start_failed", extra={"pid": worker.pid, "stderr": worker.stderr_lines})
            raise
        worker.stall_s = self._stall_s
        extra = {"pid": worker.pid, "vocab_size": self.info.vocab_size, "incremental": self.info.incremental}
        log.info("tokenizer_ready", extra=extra)
        return worker

    async def _loaded(self, worker: Worker, load: dict[str, Any]) -> TokenizerInfo:
        try:
            found = await worker.ask(load)
            info = TokenizerInfo(**{**found, "template": known(found["template"])})
        except TokenizerRefused as refusal:
            raise TokenizerUnavailable(f"{refusal.kind}: {refusal}") from refusal
        except WorkerStalled:
            raise TokenizerUnavailable(f"not loaded within {self._load_s:g} s") from None
        if load is not self._load:
            raise TokenizerUnavailable("stopped while it was loaded")
        return info


def _digest(prompt: Prompt) -> bytes:
    return hashlib.sha256(orjson.dumps(prompt.fields())).digest()


def _stalled(prompt: Prompt) -> CountingStalled:
    return CountingStalled("messages" if isinstance(prompt, ChatPrompt) else "prompt")


def client_error(refusal: TokenizerRefused, prompt: Prompt) -> InvalidRequest | Unavailable:
    """The error for the client. Texts that may quote the prompt are not shown."""
    if refusal.kind == "MemoryError":
        return Unavailable("tokenizer_memory")
    said = mask_statuses(str(refusal))[:_LONGEST_REASON]
    reason = "The model's tokenizer does not accept it."
    if refusal.kind == "BadImage":
        reason = str(refusal)
    elif refusal.kind == "TemplateError":
        reason = f"The model's chat template says: {said}"
    elif refusal.kind in _TEMPLATE_FAULTS:
        reason = f"The model's chat template fails: {refusal.kind}: {said}"
    elif isinstance(prompt, ChatPrompt):
        reason = f"The model's chat template does not accept this conversation ({refusal.kind})."
    return InvalidRequest(reason, param="messages" if isinstance(prompt, ChatPrompt) else "prompt")
