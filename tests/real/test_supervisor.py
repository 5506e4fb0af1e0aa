"""The supervisor over the real mlx_lm.server: first token, telemetry, every kind of death, no orphan."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from supervisor.child import attempt
from supervisor.child.generation import Generation, NotReady
from supervisor.child.options import LaunchSpec, SupervisorOptions
from supervisor.child.process import Exit
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.state_machine import State
from supervisor.supervisor import Supervisor
from tests.supervisor.conftest import gone, until
from tests.supervisor.test_orphans import Host, all_gone

pytestmark = pytest.mark.real

Supervise = Callable[..., Supervisor]


@pytest.fixture
async def supervise(tmp_path: Path, tiny_model: Path) -> AsyncIterator[Supervise]:
    """`supervise("--flag", ..., model=..., telemetry=..., stall_s=...)`; stopped at the end."""
    made: list[Supervisor] = []

    def make(
        *flags: str,
        model: Path = tiny_model,
        telemetry: bool = True,
        mlx_cache_limit: int | None = None,
        **options: Any,
    ) -> Supervisor:
        async def prepare() -> LaunchSpec:
            argv = ("--model", str(model), *flags)
            return LaunchSpec(argv, {}, telemetry=telemetry, mlx_cache_limit=mlx_cache_limit)

        chosen = SupervisorOptions(tmp_path / "state", **{"canary_timeout_s": 1.0, **options})
        made.append(Supervisor(prepare, chosen, random=lambda: 0.0))
        return made[-1]

    yield make
    for supervisor in made:
        supervisor.stop_now()
        await supervisor.stop()


async def complete(generation: Generation, **fields: Any) -> tuple[int, dict[str, Any]]:
    """A completion, as the relay would ask for it. Raises aiohttp.ClientError."""
    body = {"model": "default_model", "prompt": "to be", "max_tokens": 4, **fields}
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{generation.port}/v1/completions", json=body) as response,
    ):
        return response.status, json.loads(await response.read())


async def test_a_life(supervise: Supervise) -> None:
    supervisor = supervise(mlx_cache_limit=0)
    await supervisor.start()
    generation = await supervisor.ready(60)
    first = supervisor.snapshot()
    assert first.pid is not None
    assert await until(
        lambda: (t := supervisor.snapshot().telemetry) is not None and t.active_bytes > 100_000
    )
    telemetry = supervisor.snapshot().telemetry
    assert telemetry is not None
    assert telemetry.peak_bytes >= telemetry.active_bytes
    assert telemetry.cache_bytes == 0  # as the limit says
    assert (await complete(generation))[0] == 200

    os.kill(first.pid, signal.SIGKILL)
    death = await generation.died
    assert (death.cause, death.signal, death.state) == (Cause.KILLED_BY_SYSTEM, 9, State.READY)
    again = await supervisor.ready(60)
    assert again.number == 2

    assert supervisor._attempt is not None
    child = supervisor._attempt.child
    await supervisor.stop()
    assert child is not None
    # By SIGINT and not by what follows it; after an orderly end, the teardown of native code may abort.
    assert child.exited.result() in (Exit(0, None), Exit(None, signal.SIGABRT))
    assert again.died.result().cause is Cause.OWN_STOP


@pytest.mark.parametrize("telemetry", [True, False])
async def test_a_request_that_kills_the_generation_thread(supervise: Supervise, telemetry: bool) -> None:
    supervisor = supervise(telemetry=telemetry)
    await supervisor.start()
    generation = await supervisor.ready(60)
    with generation.busy(), pytest.raises(aiohttp.ClientError):
        await complete(generation, stop=5)
    death = await supervisor.judge(generation)
    assert death is not None
    assert (death.cause, death.exit_code, death.signal) == (Cause.GENERATION_THREAD_DIED, None, None)
    assert "TypeError: 'int' object is not iterable" in death.last_lines
    assert (await supervisor.ready(60)).number == 2


async def test_a_request_that_fails_while_the_child_lives_is_no_death(supervise: Supervise) -> None:
    """A seed takes the sequential path, which catches everything and ends the one request."""
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(60)
    status, body = await complete(generation, stop=5, seed=1)
    assert (status, "error" in body) == (404, True)
    assert await supervisor.judge(generation) is None
    assert (await complete(generation))[0] == 200
    assert supervisor.snapshot().generation == 1


async def test_a_stopped_process_is_a_wedge(supervise: Supervise) -> None:
    supervisor = supervise(stall_s=2.0)
    await supervisor.start()
    generation = await supervisor.ready(60)
    with generation.busy():
        os.kill(supervisor.snapshot().pid or 0, signal.SIGSTOP)
        death = await generation.died
    assert death.cause is Cause.WEDGE
    assert (await supervisor.ready(60)).number == 2


@pytest.mark.parametrize("telemetry", [True, False])
async def test_silent_work_is_no_wedge(supervise: Supervise, telemetry: bool) -> None:
    """A sequential request sends no byte and lets no canary through until it has ended."""
    stall_s = 0.5
    supervisor = supervise(telemetry=telemetry, stall_s=stall_s, canary_timeout_s=0.3)
    await supervisor.start()
    generation = await supervisor.ready(60)
    tokens, took_s = 1000, 0.0
    while took_s < 3 * stall_s:  # what is quicker proves nothing
        tokens, start = 2 * tokens, time.monotonic()
        with generation.busy():
            status, body = await complete(generation, max_tokens=tokens, seed=1)
        took_s = time.monotonic() - start
        assert (status, body["usage"]["completion_tokens"]) == (200, tokens)
    assert not generation.died.done()


@pytest.mark.parametrize("fault", ["no config", "unknown type", "cut weights"])
async def test_a_model_that_cannot_be_loaded_fails_at_once(
    supervise: Supervise, tiny_model: Path, tmp_path: Path, fault: str
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    match fault:
        case "no config":
            (model / "config.json").unlink()
        case "unknown type":
            config = json.loads((model / "config.json").read_text())
            (model / "config.json").write_text(json.dumps({**config, "model_type": "nonesuch"}))
        case "cut weights":
            os.truncate(model / "model.safetensors", 1000)
    supervisor = supervise(model=model)
    await supervisor.start()
    with pytest.raises(NotReady, match="cannot be loaded") as caught:
        await supervisor.ready(60)
    seen = caught.value.snapshot
    assert (seen.state, seen.cause, seen.generation) == (State.FAILED, Cause.BAD_MODEL, 1)
    assert seen.advice is not None
    assert "[model] path" in seen.advice


async def test_a_flag_that_the_server_does_not_know_fails_at_once(supervise: Supervise) -> None:
    supervisor = supervise("--nonesuch", "3")
    await supervisor.start()
    with pytest.raises(NotReady) as caught:
        await supervisor.ready(60)
    assert caught.value.snapshot.cause is Cause.UNSUPPORTED_FLAG


async def test_a_port_that_another_server_took_is_left_to_it(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        free = attempt.free_port
        ports = iter((other.getsockname()[1], free()))
        monkeypatch.setattr(attempt, "free_port", lambda: next(ports))
        supervisor = supervise(max_restarts=0)
        await supervisor.start()
        assert (await supervisor.ready(60)).number == 2
    assert dict(supervisor.snapshot().restarts_by_cause) == {Cause.PORT_TAKEN: 1}


async def test_a_death_while_loading(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    assert await until(lambda: supervisor.snapshot().pid is not None)
    os.kill(supervisor.snapshot().pid or 0, signal.SIGSEGV)
    assert (await supervisor.ready(60)).number == 2
    seen = supervisor.snapshot()
    assert (seen.cause, dict(seen.restarts_by_cause)) == (Cause.SEGFAULT, {Cause.SEGFAULT: 1})


async def test_a_recycle_with_a_request_running(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(60)

    async def ask() -> tuple[int, dict[str, Any]]:
        with generation.busy():
            return await complete(generation, max_tokens=500)

    asking = asyncio.create_task(ask())
    assert await until(lambda: generation.in_flight == 1)
    await supervisor.recycle("asked")
    assert (await asking)[0] == 200
    assert (await supervisor.ready(60)).number == 2
    assert generation.died.result().cause is Cause.RECYCLED


@pytest.mark.parametrize("telemetry", ["on", "off"])
async def test_a_killed_gateway_leaves_nothing(tmp_path: Path, tiny_model: Path, telemetry: str) -> None:
    host = Host(tmp_path, telemetry, str(tiny_model))
    while await host.line() != "ready":
        pass
    family = host.family()
    assert len(family) == 2
    host.kill()
    assert await all_gone(family)


async def test_a_double_kill_is_noticed_by_the_child_itself(tmp_path: Path, tiny_model: Path) -> None:
    """With telemetry it finds that nobody reads any more."""
    host = Host(tmp_path, "on", str(tiny_model))
    child = int((await host.line()).removeprefix("child "))
    (keeper,) = host.family() - {child}
    os.kill(keeper, signal.SIGSTOP)
    host.kill()
    os.kill(keeper, signal.SIGKILL)
    assert await gone(child, within_s=10.0)
