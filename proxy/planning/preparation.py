"""Prepares what must be known before the first prompt can be counted: model, plan, tokenizer, limits.

The supervisor calls `prepare()` before each start of the child; the tokenizer loads while the child starts,
and requests that arrive meanwhile wait in `ready()`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from tenacity import AsyncRetrying, retry_if_exception_type, wait_random_exponential

from proxy.config.settings import RequestSettings, Settings
from proxy.errors import RestartFailed, Unavailable
from proxy.gate.costs import longest_alone
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.model_defaults import sampling_defaults
from proxy.planning.planner import Planner
from proxy.planning.server_flags import server_flags
from proxy.prompt.counter import TokenCounter, TokenizerInfo, TokenizerUnavailable
from proxy.prompt.fit import Limits
from proxy.prompt.worker_process import WorkerDied
from proxy.request.allowlist import Allowlist, template_arguments
from proxy.request.completion import Bounds
from proxy.request.images import ImagePolicy
from supervisor.aio import Tasks
from supervisor.child.options import CannotStart, LaunchSpec
from supervisor.lifecycle.causes import Cause
from supervisor.memory_model.plan import Plan
from supervisor.model.resolve import ModelUnavailable, resolve

log = logging.getLogger("mlxguard.preparation")

#: The message for clients; the log and /readyz also have the reason, with paths.
_NOT_LOADED = "The model or its tokenizer cannot be loaded."

#: Suffixes of weights, which are no part of the tokenizer.
_WEIGHTS = frozenset({".safetensors", ".bin", ".gguf", ".npz", ".pth"})

#: Longest pause in seconds before the tokenizer's process is tried again, when the system has no file
#: descriptor or memory for it.
_LONGEST_PAUSE_S = 10.0


@dataclass(frozen=True, slots=True)
class Prepared:
    """The model as requests are measured against it."""

    folder: Path
    tokenizer: TokenizerInfo
    limits: Limits
    bounds: Bounds


class Preparation:
    """Resolves the model, and starts the tokenizer worker: once, and again if the model's files have changed.

    Args:
        on_plan: called with each plan, before each start of the child.
        limits: what deaths have taught about memory.

    `plan`: of the child's last start; None without one.
    """

    def __init__(
        self,
        settings: Settings,
        counter: TokenCounter,
        cache_dir: Path,
        *,
        on_plan: Callable[[Plan], None] = lambda _: None,
        limits: LearnedLimits | None = None,
    ) -> None:
        self._settings = settings
        self._counter = counter
        self._cache_dir = cache_dir
        self._on_plan = on_plan
        self._planner = Planner(settings, cache_dir, limits)
        self.plan: Plan | None = None
        self._outcome: asyncio.Future[Prepared] = asyncio.get_running_loop().create_future()
        self._tasks = Tasks()
        self._loading: asyncio.Task[None] | None = None
        self._loaded_files: object = None  # those that the tokenizer worker has, or is about to have

    @property
    def prepared(self) -> Prepared | None:
        """The prepared model, or None while it is not ready."""
        return self._outcome.result() if self._outcome.done() and not self._outcome.exception() else None

    @property
    def failure(self) -> str | None:
        """Why nothing can be prepared, or None while it may still be."""
        error = self._outcome.exception() if self._outcome.done() else None
        return error.reason if isinstance(error, RestartFailed) else None

    @property
    def count_differences(self) -> int:
        """Answers whose usage differed from our count, since the tokenizer was loaded; 0 is right."""
        return self._counter.differences

    async def prepare(self) -> LaunchSpec:
        """Plan how to start the child, and begin to load the tokenizer.

        Raises CannotStart if the model is not available; `explanation` says why.
        """
        if self._outcome.done() and self.prepared is None:
            self._outcome = asyncio.get_running_loop().create_future()
        model = self._settings.model
        try:
            folder = await resolve(model.path, model.revision, self._cache_dir)
        except ModelUnavailable as failure:
            self._fail(str(failure))
            raise CannotStart(Cause.BAD_MODEL, str(failure)) from failure
        self.plan = await self._planned(folder)
        await self._compare(await asyncio.to_thread(tokenizer_files, folder))
        if (prepared := self.prepared) is not None:  # limits that clients are told change at a restart only
            self._outcome = asyncio.get_running_loop().create_future()
            self._outcome.set_result(replace(prepared, limits=self._limits(prepared.tokenizer)))
        launch = self._launch(folder)
        if not self._outcome.done() and (self._loading is None or self._loading.done()):
            self._loading = self._tasks.start(self._load(folder, launch.argv), "tokenizer", self._not_loaded)
        return launch

    async def _compare(self, files: object) -> None:
        """Begin anew if the child is about to read other files than the tokenizer worker has read."""
        before, self._loaded_files = self._loaded_files, files
        if before is None or before == files:
            return
        log.warning("model_files_changed")
        if self._loading is not None and not self._loading.done():
            self._loading.cancel()
            await asyncio.wait((self._loading,))
        if self._outcome.done():
            self._outcome = asyncio.get_running_loop().create_future()

    async def replan(self, child: int) -> tuple[Plan, Plan] | None:
        """Plan for the machine as it is now, with the child's bytes; see `Planner.replan`."""
        return None if self.plan is None else await self._planner.replan(self.plan, child)

    async def ready(self, timeout_s: float) -> Prepared:
        """Wait at most `timeout_s` for the prepared model.

        Raises:
            Unavailable: it takes longer.
            RestartFailed: it failed.
        """
        if self._outcome.done():
            return self._outcome.result()
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.shield(self._outcome)
        except TimeoutError:
            raise Unavailable("preparing") from None

    async def stop(self) -> None:
        """Cancel the loading, and stop the worker."""
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.wait((self._loading,))
        await self._counter.stop()

    async def _load(self, folder: Path, server_argv: Sequence[str]) -> None:
        waiting = AsyncRetrying(
            retry=retry_if_exception_type(OSError), wait=wait_random_exponential(max=_LONGEST_PAUSE_S)
        )
        try:
            tokenizer: TokenizerInfo = await waiting(self._counter.start, folder, server_argv)
        except TokenizerUnavailable as failure:
            self._fail(str(failure))
            return
        except WorkerDied:
            self._fail("the tokenizer's process died while it loaded, each time that it was tried")
            return
        log.info("model_prepared", extra={"vocab": tokenizer.vocab_size, "context": tokenizer.context_length})
        for warning in tokenizer.warnings:
            log.warning("template_warning", extra={"warning": warning})
        args = self._settings.upstream.args
        checked_by = request_bounds(self._settings.request, tokenizer, folder, args)
        if checked_by.sampling:
            log.info("model_sampling_defaults", extra={"fields": dict(checked_by.sampling)})
        self._outcome.set_result(Prepared(folder, tokenizer, self._limits(tokenizer), checked_by))

    def _not_loaded(self, error: BaseException) -> None:
        """A bug while loading: say so to the requests that wait, rather than let them wait in vain."""
        self._fail(f"loading the tokenizer failed: {type(error).__name__}")

    async def _planned(self, folder: Path) -> Plan | None:
        """Plan for the machine as it is now; if that fails, the child runs with the server's defaults."""
        try:
            plan = await self._planner.plan(folder)
        except (ModelUnavailable, OSError, ValueError) as failure:
            log.warning("not_planned", extra={"reason": str(failure)})
            return None
        except Exception:  # a bug here must not prevent the child from starting
            log.exception("not_planned")
            return None
        log.info("planned", extra=plan.summary())
        for warning in plan.warnings:
            log.warning("plan_warning", extra={"warning": warning})
        self._on_plan(plan)
        return plan

    def _fail(self, explanation: str) -> None:
        log.error("model_not_prepared", extra={"reason": explanation})
        if not self._outcome.done():
            self._outcome.set_exception(RestartFailed(explanation, _NOT_LOADED))
            self._outcome.exception()  # retrieved here: it is not an error if no request waits for it

    def _limits(self, tokenizer: TokenizerInfo) -> Limits:
        prompt = self._settings.prompt
        fixed = prompt.max_prompt_tokens
        known = [tokenizer.context_length, self.plan.max_prompt if self.plan else None]
        fitting = min((length for length in known if length is not None), default=None)
        return Limits(
            max_prompt_tokens=fitting if fixed == "auto" else fixed,
            policy=prompt.prompt_overflow_policy,
            keep_tokens=prompt.prompt_keep_tokens,
            default_max_tokens=prompt.default_max_tokens,
            max_kv_size=prompt.max_kv_size,
            context_length=tokenizer.context_length,
            compaction_headroom=prompt.compaction_headroom_tokens,
            fits_alone=longest_alone(self.plan) if self.plan else None,
            trim_tool_output=prompt.trim_tool_output,
        )

    def _launch(self, folder: Path) -> LaunchSpec:
        upstream = self._settings.upstream
        fixed = upstream.mlx_cache_limit
        planned = self.plan.cache_limit if self.plan else None
        return LaunchSpec(
            argv=server_flags(self._settings, folder, self.plan),
            command=upstream.command,
            telemetry=upstream.telemetry == "on",
            env={},
            mlx_cache_limit=fixed if fixed != "auto" else planned.value if planned else None,
            plan=self.plan,
        )


def tokenizer_files(folder: Path) -> object:
    """A value that changes with the files of a model that counting depends on: all but the weights."""
    found = []
    with suppress(OSError):
        for file in sorted(folder.rglob("*")):
            if file.suffix not in _WEIGHTS and file.is_file():
                stat = file.stat()
                name = file.relative_to(folder).as_posix()
                found.append((name, stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return folder, tuple(found)


def request_bounds(
    settings: RequestSettings, tokenizer: TokenizerInfo, folder: Path, server_args: Sequence[str] = ()
) -> Bounds:
    """What requests are checked against; `folder` is the model's, as on the child's command line."""
    allowlist = Allowlist(
        adapters=frozenset(settings.adapters),
        draft_models=frozenset(settings.draft_models),
        role_mapping=settings.role_mapping,
        arguments=template_arguments(settings.template_arguments),
        model=str(folder),
    )
    images = image_policy(settings, tokenizer.image_obstacle)
    return Bounds(
        vocab_size=tokenizer.vocab_size,
        allowlist=allowlist,
        images=images,
        template=tokenizer.template,
        structured_output=settings.structured_output,
        sampling=sampling_defaults(folder, server_args) if settings.model_sampling_defaults else {},
    )


def image_policy(settings: RequestSettings, obstacle: str | None = None) -> ImagePolicy:
    """The policy of the settings; `obstacle` says why the model accepts no images, if it does not."""
    return ImagePolicy(
        most=settings.max_images,
        most_bytes=settings.max_image_bytes,
        hosts=frozenset(settings.image_hosts),
        obstacle=obstacle if settings.max_images else "this server is set to take no images",
    )
