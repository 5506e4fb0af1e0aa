"""Runs the real server with the embedded model once, as the gateway does, and reports what was seen."""

from __future__ import annotations

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from proxy.config.settings import Settings
from proxy.doctor.trials import becomes_true
from proxy.errors import GatewayError
from proxy.planning.preparation import Preparation
from proxy.prompt.counter import TokenCounter
from proxy.request.completion import ChatPrompt
from proxy.upstream.broken import UpstreamBroken
from proxy.upstream.client import Upstream
from supervisor.child.generation import Generation, NotReady
from supervisor.child.options import SupervisorOptions
from supervisor.child.process import Telemetry, is_running
from supervisor.machine import system
from supervisor.model.resolve import EMBEDDED
from supervisor.supervisor import Supervisor

#: Seconds that the server may need to start, to answer one chat, and to send telemetry afterwards.
_START_S, _ANSWER_S, _TELEMETRY_S = 60.0, 20.0, 3.0
#: Seconds after which a stop by SIGINT counts as failed.
SIGINT_GRACE_S = 5.0

_QUESTION: dict[str, Any] = {"role": "user", "content": "Does everything work here?"}


@dataclass(frozen=True, slots=True)
class ServedTrial:
    """What was seen. Times are in seconds; None if the trial did not get that far.

    Attributes:
        fault: why the server could not be used, in a sentence; None if it could.
        last_words: the server's last lines of output, if there is a fault.
        ready_s: time until the canary was answered.
        counted, served: tokens of one chat, as counted by the tokenizer worker and by the server.
        footprint: memory of the child in bytes, seen from outside.
        stop_s: time until the server had ended; above `SIGINT_GRACE_S`, SIGINT was not enough.
        left: whether its process still ran afterwards, or its port was still in use.
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
    """Make the embedded model in `cache_dir` if it is missing, serve one chat with it, and stop.

    Raises nothing for what the child does.
    """
    seen: dict[str, Any] = {}
    counter, upstream = TokenCounter(), Upstream()
    settings = Settings.model_validate({"model": {"path": EMBEDDED}})
    preparation = Preparation(settings, counter, cache_dir)
    with tempfile.TemporaryDirectory(prefix="mlxguard-doctor-") as folder:
        options = SupervisorOptions(
            Path(folder), start_timeout_s=_START_S, max_restarts=0, sigint_grace_s=SIGINT_GRACE_S
        )
        supervisor = Supervisor(preparation.prepare, options)
        await supervisor.start()
        try:
            began = time.monotonic()
            generation = await supervisor.ready(_START_S)
            seen["ready_s"] = time.monotonic() - began
            await preparation.ready(_START_S)
            async with asyncio.timeout(_ANSWER_S):
                seen["counted"] = await counter.count(ChatPrompt((_QUESTION,)))
                seen["served"] = await _ask(upstream, generation)
            await becomes_true(lambda: _has_active_memory(generation), _TELEMETRY_S)
            seen["telemetry"] = generation.telemetry()
            seen["footprint"] = supervisor.snapshot().memory_bytes
        except NotReady as failure:
            seen |= {"fault": str(failure), "last_words": failure.snapshot.log_tail}
        except (GatewayError, UpstreamBroken, TimeoutError, ValueError, LookupError) as failure:
            words = supervisor.snapshot().log_tail
            seen |= {"fault": f"{type(failure).__name__}: {failure}", "last_words": words}
        finally:
            seen |= await _stopped(supervisor)
            await upstream.stop()
            await preparation.stop()
    return ServedTrial(**seen)


async def _ask(upstream: Upstream, generation: Generation) -> int:
    """Ask a question; returns the tokens of the prompt as counted by the server."""
    body = {"model": "default_model", "messages": [_QUESTION], "max_tokens": 4, "stream": False}
    answer = bytearray()
    with generation.busy():
        async with upstream.post(generation, "/v1/chat/completions", orjson.dumps(body)) as exchange:
            while data := await exchange.read():
                answer += data
    return int(orjson.loads(answer)["usage"]["prompt_tokens"])


def _has_active_memory(generation: Generation) -> bool:
    """Whether a sample has arrived since the weights were loaded."""
    sample = generation.telemetry()
    return sample is not None and sample.active_bytes > 0


async def _stopped(supervisor: Supervisor) -> dict[str, Any]:
    last, began = supervisor.snapshot(), time.monotonic()
    await supervisor.stop()
    took = time.monotonic() - began
    held = last.port is not None and system.holder_of_port(last.port) is not None
    return {"stop_s": took, "left": held or (last.pid is not None and is_running(last.pid))}
