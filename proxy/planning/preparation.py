"""What must be known before the first prompt can be counted: model, plan, tokenizer, limits.

The supervisor calls `prepare()` before it starts the child; the tokenizer loads beside the child, and
requests that arrive meanwhile wait in `ready()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from proxy.config.settings import Settings
from proxy.errors import RestartingFailed, Unavailable
from proxy.gate.costs import longest_alone
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.planner import Planner
from proxy.planning.request_bounds import bounds
from proxy.planning.server_flags import server_flags
from proxy.prompt.counter import TokenCounter, TokenizerInfo, TokenizerUnavailable
from proxy.prompt.fit import Limits
from proxy.request.completion import Bounds
from supervisor.lifecycle.causes import Cause
from supervisor.memory_model.plan import Plan
from supervisor.model.resolve import ModelUnavailable, resolve
from supervisor.supervisor import CannotStart, LaunchSpec

log = logging.getLogger("mlxguard.preparation")

#: What clients are told; the log and /readyz have the rest, paths too.
_NOT_LOADED = "The model or its tokenizer cannot be loaded."


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model as requests are measured against it."""

    folder: Path
    tokenizer: TokenizerInfo
    limits: Limits
    bounds: Bounds


class Preparation:
    """Resolves the model and starts the tokenizer worker, once; tried again only after a failure.

    Args:
        on_plan: told of each plan, before each start of the child.
        limits: what deaths have taught.
    """

    def __init__(
        self,
        settings: Settings,
        tokens: TokenCounter,
        cache_dir: Path,
        *,
        on_plan: Callable[[Plan], None] = lambda _: None,
        limits: LearnedLimits | None = None,
    ) -> None:
        self._settings = settings
        self._tokens = tokens
        self._cache_dir = cache_dir
        self._on_plan = on_plan
        self._planner = Planner(settings, cache_dir, limits)
        self._plan: Plan | None = None
        self._outcome: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        self._loading: asyncio.Task[None] | None = None

    @property
    def prepared(self) -> Prepared | None:
        """What is known, or None while it is not."""
        return self._outcome.result() if self._outcome.done() and not self._outcome.exception() else None

    @property
    def failure(self) -> str | None:
        """Why nothing can be prepared, or None while it may still be."""
        error = self._outcome.exception() if self._outcome.done() else None
        return error.reason if isinstance(error, RestartingFailed) else None

    @property
    def plan(self) -> Plan | None:
        """What the child was started by last; None without one."""
        return self._plan

    async def prepare(self) -> LaunchSpec:
        """Say how to start the child, and see to it that prompts can be counted soon.

        Raises:
            CannotStart: the model cannot be had; `explanation` says why.
        """
        if self._outcome.done() and self.prepared is None:
            self._outcome = asyncio.get_running_loop().create_future()
        model = self._settings.model
        try:
            folder = await resolve(model.path, model.revision, self._cache_dir)
        except ModelUnavailable as failure:
            self._fail(str(failure))
            raise CannotStart(Cause.BAD_MODEL, str(failure)) from failure
        self._plan = await self._planned(folder)
        self._renew()
        launch = self._launch(folder)
        if not self._outcome.done() and (self._loading is None or self._loading.done()):
            self._loading = asyncio.create_task(self._load(folder, launch.argv), name="tokenizer")
        return launch

    async def plan_again(self, child: int) -> tuple[Plan, Plan] | None:
        """Plans as the machine is now, `child` being the bytes that the child has; see `Planner.again`."""
        return None if self._plan is None else await self._planner.again(self._plan, child)

    async def ready(self, timeout_s: float) -> Prepared:
        """What is known, waited for at most `timeout_s`.

        Raises:
            Unavailable: it takes longer.
            RestartingFailed: it failed.
        """
        if self._outcome.done():
            return self._outcome.result()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._outcome)
        except TimeoutError:
            raise Unavailable("preparing") from None

    async def stop(self) -> None:
        """Give up what is still loading, and stop the worker."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait((self._loading,))
        await self._tokens.stop()

    async def _load(self, folder: Path, server_argv: Sequence[str]) -> None:
        try:
            tokenizer = await self._tokens.start(folder, server_argv)
        except TokenizerUnavailable as failure:
            self._fail(str(failure))
            return
        log.info("model_prepared", extra={"vocab": tokenizer.vocab_size, "context": tokenizer.context_length})
        checked_by = bounds(self._settings.request, tokenizer, folder)
        self._outcome.set_result(Prepared(folder, tokenizer, self._limits(tokenizer), checked_by))

    async def _planned(self, folder: Path) -> Plan | None:
        """The plan as the machine is now. It is no condition for serving: without one, defaults hold."""
        try:
            plan = await self._planner.plan(folder)
        except (ModelUnavailable, OSError, ValueError) as failure:
            log.warning("not_planned", extra={"reason": str(failure)})
            return None
        except Exception:  # a bug here must not keep the child from starting
            log.exception("not_planned")
            return None
        log.info("planned", extra=plan.summary())
        for warning in plan.warnings:
            log.warning("plan_warning", extra={"warning": warning})
        self._on_plan(plan)
        return plan

    def _renew(self) -> None:
        """What clients are told of limits changes with the child's restart, and at no other time."""
        if (prepared := self.prepared) is not None:
            self._outcome = asyncio.get_running_loop().create_future()
            self._outcome.set_result(replace(prepared, limits=self._limits(prepared.tokenizer)))

    def _fail(self, explanation: str) -> None:
        log.error("model_not_prepared", extra={"reason": explanation})
        if not self._outcome.done():
            self._outcome.set_exception(RestartingFailed(explanation, _NOT_LOADED))
            self._outcome.exception()  # retrieved here: it is no error if no request waits for it

    def _limits(self, tokenizer: TokenizerInfo) -> Limits:
        prompt = self._settings.prompt
        fixed = prompt.max_prompt_tokens
        known = [tokenizer.context_length, self._plan.max_prompt if self._plan else None]
        fitting = min((length for length in known if length is not None), default=None)
        return Limits(
            max_prompt_tokens=fitting if fixed == "auto" else fixed,
            policy=prompt.prompt_overflow_policy,
            keep_tokens=prompt.prompt_keep_tokens,
            default_max_tokens=prompt.default_max_tokens,
            max_kv_size=prompt.max_kv_size,
            context_length=tokenizer.context_length,
            compaction_headroom=prompt.compaction_headroom_tokens,
            fits_alone=longest_alone(self._plan) if self._plan else None,
            trim_tool_output=prompt.trim_tool_output,
        )

    def _launch(self, folder: Path) -> LaunchSpec:
        upstream = self._settings.upstream
        fixed = upstream.mlx_cache_limit
        planned = self._plan.cache_limit if self._plan else None
        return LaunchSpec(
            argv=server_flags(self._settings, folder, self._plan),
            command=upstream.command,
            telemetry=upstream.telemetry == "on",
            env={},
            mlx_cache_limit=fixed if fixed != "auto" else planned.value if planned else None,
            plan=self._plan,
        )
