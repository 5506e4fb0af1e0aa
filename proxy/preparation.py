"""What must be known before the first prompt can be counted: the model's folder, its tokenizer, the limits.

The supervisor calls `prepare()` before it starts the child; requests that arrive meanwhile wait in `ready()`.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from pathlib import Path

from proxy import errors
from proxy.config import Settings
from proxy.core.chat import Bounds
from proxy.fitting import Limits
from proxy.launch import server_flags
from proxy.tokens import TokenizerInfo, TokenizerUnavailable, Tokens
from supervisor.diagnosis import Cause
from supervisor.model import ModelUnavailable, resolve
from supervisor.runner import CannotStart, Launch

log = logging.getLogger("mlxguard.preparation")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model as requests are measured against it."""

    folder: Path
    tokenizer: TokenizerInfo
    limits: Limits
    bounds: Bounds


class Preparation:
    """Resolves the model and starts the tokenizer worker, once; tried again only after a failure."""

    def __init__(self, settings: Settings, tokens: Tokens, cache_dir: Path) -> None:
        self._settings = settings
        self._tokens = tokens
        self._cache_dir = cache_dir
        self._outcome: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()

    @property
    def prepared(self) -> Prepared | None:
        """What is known, or None while it is not."""
        done = self._outcome.done() and not self._outcome.cancelled() and self._outcome.exception() is None
        return self._outcome.result() if done else None

    async def prepare(self) -> Launch:
        """Make everything ready for the child and say how to start it.

        Raises:
            CannotStart: the model or its tokenizer cannot be had; `explanation` says why.
        """
        if self._outcome.done() and self.prepared is None:
            self._outcome = asyncio.get_running_loop().create_future()
        if self.prepared is None:
            try:
                self._outcome.set_result(await self._prepare())
            except CannotStart as failure:
                self._outcome.set_exception(failure)
                self._outcome.exception()  # retrieved here: it is not an error if no request waits for it
                raise
        assert self.prepared is not None
        return self._launch(self.prepared.folder)

    async def ready(self, timeout_s: float) -> Prepared:
        """What is known, waited for at most `timeout_s`.

        Raises:
            Unavailable: it takes longer.
            RestartingFailed: it failed.
        """
        try:
            return await asyncio.wait_for(asyncio.shield(self._outcome), timeout_s)
        except TimeoutError:
            raise errors.Unavailable("the model is still being prepared") from None
        except CannotStart as failure:
            raise errors.RestartingFailed(failure.explanation) from failure

    async def _prepare(self) -> Prepared:
        model = self._settings.model
        try:
            folder = await resolve(model.path, model.revision, self._cache_dir)
            tokenizer = await self._tokens.start(folder, self._launch(folder).argv)
        except (ModelUnavailable, TokenizerUnavailable) as failure:
            raise CannotStart(Cause.BAD_MODEL, str(failure)) from failure
        log.info("model prepared", extra={"vocab": tokenizer.vocab_size, "context": tokenizer.context_length})
        return Prepared(folder, tokenizer, self._limits(tokenizer), Bounds(vocab_size=tokenizer.vocab_size))

    def _limits(self, tokenizer: TokenizerInfo) -> Limits:
        prompt = self._settings.prompt
        fixed = prompt.max_prompt_tokens
        return Limits(
            max_prompt_tokens=tokenizer.context_length if fixed == "auto" else fixed,
            policy=prompt.prompt_overflow_policy,
            keep_tokens=prompt.prompt_keep_tokens,
            default_max_tokens=prompt.default_max_tokens,
            max_kv_size=prompt.max_kv_size,
            context_length=tokenizer.context_length,
        )

    def _launch(self, folder: Path) -> Launch:
        upstream = self._settings.upstream
        limit = upstream.mlx_cache_limit
        return Launch(
            argv=server_flags(self._settings, folder),
            command=upstream.command,
            telemetry=upstream.telemetry == "on",
            env={},
            mlx_cache_limit=None if limit == "auto" else limit,
        )
