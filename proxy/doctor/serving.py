"""The real server with the embedded model, from start to stop, as the gateway runs it: what was seen of that.

Nothing is judged here; doctor_checks.py does. Settings are the defaults, the state folder is one of its own.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.config.settings import Settings
from proxy.doctor.trials import comes
from proxy.errors import GuardError
from proxy.planning.preparation import Preparation
from proxy.prompt.counter import TokenCounter
from proxy.request.completion import ChatPrompt
from proxy.upstream.broken import UpstreamBroken
from proxy.upstream.client import Upstream
from supervisor.child.process import Telemetry, runs
from supervisor.machine import system
from supervisor.model.resolve import EMBEDDED
from supervisor.supervisor import Generation, NotReady, Supervisor, SupervisorOptions

_START_S = 60.0
_TELEMETRY_S = 3.0
_ANSWER_S = 20.0
SIGINT_GRACE_S = 5.0

_QUESTION: dict[str, Any] = {"role": "user", "content": "Does everything work here?"}


@dataclass(frozen=True, slots=True)
class ServedTrial:
    """What was seen. Times in seconds; None where it did not come to it.

    Attributes:
        fault: why it was not served, in a sentence; None when it was.
        last_words: the server's last lines, where there is a fault.
        ready_s: until the canary was answered.
        counted, served: tokens of one chat, by the tokenizer worker and by the server's usage.
        footprint: bytes of the child, seen from outside.
        stop_s: until it had ended; above `SIGINT_GRACE_S`, SIGINT was not enough.
        left: whether its process was there afterwards, or its port was held.
    """

    fault: str | None = None
    last_words: tuple[str, ...] = ()
    ready_s: float | None = None
    telemetry: Telemetry | None = None
    footprint: int | None = None
    counted: int | None = None
    served: int | None = None
    stop_s: float | None = None
    left: bool = False


async def serve_once(cache_dir: Path) -> ServedTrial:
    """Make the embedded model in `cache_dir` if it is not there, serve one chat with it, and stop."""
    with tempfile.TemporaryDirectory(prefix="mlxguard-doctor-") as folder:
        return await _Trial(cache_dir, Path(folder)).run()


class _Trial:
    """One life of one child."""

    def __init__(self, cache_dir: Path, state_dir: Path) -> None:
        self._tokens = TokenCounter()
        settings = Settings.model_validate({"model": {"path": EMBEDDED}})
        self._preparation = Preparation(settings, self._tokens, cache_dir)
        options = SupervisorOptions(
            state_dir, start_timeout_s=_START_S, max_restarts=0, sigint_grace_s=SIGINT_GRACE_S
        )
        self._supervisor = Supervisor(self._preparation.prepare, options)
        self._upstream = Upstream()

    async def run(self) -> ServedTrial:
        """Never raises for what the child does."""
        seen: dict[str, Any] = {}
        await self._supervisor.start()
        try:
            await self._work(seen)
        except NotReady as failure:
            seen |= {"fault": str(failure), "last_words": failure.snapshot.log_tail}
        except (GuardError, UpstreamBroken, TimeoutError, ValueError, LookupError) as failure:
            words = self._supervisor.snapshot().log_tail
            seen |= {"fault": f"{type(failure).__name__}: {failure}", "last_words": words}
        finally:
            await self._stop(seen)
        return ServedTrial(**seen)

    async def _work(self, seen: dict[str, Any]) -> None:
        began = time.monotonic()
        generation = await self._supervisor.ready(_START_S)
        seen["ready_s"] = time.monotonic() - began
        await self._preparation.ready(_START_S)
        async with asyncio.timeout(_ANSWER_S):
            seen["counted"] = await self._tokens.count(ChatPrompt((_QUESTION,)))
            seen["served"] = await self._ask(generation)
        seen["telemetry"] = await self._sample(generation)
        seen["footprint"] = self._supervisor.snapshot().memory_bytes

    async def _ask(self, generation: Generation) -> int:
        """Tokens of the prompt, as the server says."""
        body = {"model": "default_model", "messages": [_QUESTION], "max_tokens": 4, "stream": False}
        answer = bytearray()
        with generation.busy():
            async with self._upstream.post(
                generation, "/v1/chat/completions", orjson.dumps(body)
            ) as exchange:
                while data := await exchange.read():
                    answer += data
        return int(orjson.loads(answer)["usage"]["prompt_tokens"])

    async def _sample(self, generation: Generation) -> Telemetry | None:
        """The first sample after the weights were loaded, or the latest."""

        def active() -> bool:
            sample = generation.telemetry()
            return sample is not None and sample.active_bytes > 0

        await comes(active, _TELEMETRY_S)
        return generation.telemetry()

    async def _stop(self, seen: dict[str, Any]) -> None:
        last = self._supervisor.snapshot()
        began = time.monotonic()
        await self._supervisor.stop()
        seen["stop_s"] = time.monotonic() - began
        held = last.port is not None and system.holder_of_port(last.port) is not None
        seen["left"] = held or (last.pid is not None and runs(last.pid))
        await self._upstream.stop()
        await self._preparation.stop()
