"""The supervisor over a fake server (see fake_server.py): deaths, restarts, planned ends."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import resource
import signal
import time
from collections.abc import Iterator

import psutil
import pytest

from supervisor.child import attempt, watch
from supervisor.child.generation import Change, Death, NotReady
from supervisor.child.options import CannotStart, LaunchSpec
from supervisor.child.process import Exit
from supervisor.child.watch import Watch
from supervisor.lifecycle.causes import Cause
from supervisor.lifecycle.in_flight import InFlight
from supervisor.lifecycle.state_machine import IllegalEvent, State
from supervisor.state.folder import AlreadyRunning, crash_reports
from tests.supervisor.conftest import Supervise, fake_launch, gone, tell, until


async def test_ready_means_a_token_and_the_snapshot_says_all(supervise: Supervise) -> None:
    supervisor = supervise()
    assert supervisor.snapshot().state is State.STOPPED
    await supervisor.start()
    assert supervisor.snapshot().state is State.STARTING
    generation = await supervisor.ready(10)
    seen = supervisor.snapshot()
    assert (seen.state, seen.generation, seen.port) == (State.READY, 1, generation.port)
    assert seen.pid is not None
    assert await until(
        lambda: (supervisor.snapshot().memory_bytes or 0) > 1_000_000
    )  # at first, that of an exec
    assert seen.ready_since is not None
    assert (seen.cause, seen.restarts, dict(seen.restarts_by_cause), seen.next_restart_s) == (
        None,
        0,
        {},
        None,
    )
    await supervisor.stop()
    assert supervisor.snapshot().state is State.STOPPED
    assert await gone(seen.pid, within_s=0.1)


async def test_an_exit_is_reported_by_the_keeper_and_the_first_restart_is_immediate(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "TICK_S", 1000.0)  # no periodic look at the child finds out
    supervisor = supervise(backoff_base_s=1000.0)
    changes: list[Change] = []
    supervisor.subscribe(changes.append)
    await supervisor.start()
    generation = await supervisor.ready(10)
    os.kill(supervisor.snapshot().pid or 0, signal.SIGKILL)
    death = await generation.died
    assert (death.generation, death.cause, death.signal) == (1, Cause.KILLED_BY_SYSTEM, 9)
    assert (death.state, death.memory) == (State.READY, not death.external)
    assert await supervisor.judge(generation) is death
    assert (await supervisor.ready(10)).number == 2
    assert await until(lambda: len(changes) == 4)
    assert [(c.before, c.state, c.generation, c.death) for c in changes] == [
        (State.STOPPED, State.STARTING, 1, None),
        (State.STARTING, State.READY, 1, None),
        (State.READY, State.STARTING, 2, death),
        (State.STARTING, State.READY, 2, None),
    ]
    seen = supervisor.snapshot()
    assert (seen.restarts, dict(seen.restarts_by_cause)) == (1, {Cause.KILLED_BY_SYSTEM: 1})


async def test_an_abort_with_metals_text_is_diagnosed_and_reported(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    text = (
        "libc++abi: terminating due to uncaught exception of type std::runtime_error: [METAL] Command buffer "
        "execution failed: Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
    )
    await tell(generation, say=text, kill=int(signal.SIGABRT))
    death = await generation.died
    assert (death.cause, death.signal, death.last_lines[-1]) == (Cause.METAL_OOM, 6, text)
    await supervisor.ready(10)
    await supervisor.stop()
    (report,) = (supervisor._options.state_dir / "crashes").iterdir()
    content = json.loads(report.read_text())
    assert (content["cause"], content["state"], content["signal"]) == ("metal_oom", "ready", 6)
    assert content["last_lines"][-1] == text
    assert [step["what"] for step in content["done"]][:2] == ["starting", "memory"]
    assert content["done"][-1]["what"] == "ready"
    assert content["child"]["memory"]["rows"]
    assert content["child"]["command"] == list(fake_launch().command)


async def test_the_gateway_attributes_a_crash_before_any_request_resumes(supervise: Supervise) -> None:
    heard: list[tuple[Cause, bool]] = []
    work = InFlight("chatcmpl-1", "abc", 700, 10, 0, "prefill", (64, 700), 1, 2.5, suspect=True)

    def attribute(death: Death) -> list[InFlight]:
        heard.append((death.cause, told.done()))
        return [work]

    supervisor = supervise(attribute_crash=attribute)
    await supervisor.start()
    generation = await supervisor.ready(10)
    told = asyncio.ensure_future(asyncio.shield(generation.died))
    await tell(generation, say="[metal::malloc] Unable to allocate 10 bytes", kill=int(signal.SIGABRT))
    await told
    assert heard == [(Cause.ALLOCATION_REFUSED, False)]
    advice = supervisor.snapshot().advice
    assert advice is not None
    assert "max_prompt_tokens = 512" in advice
    await supervisor.ready(10)
    await supervisor.recycle("planned")
    await supervisor.stop()
    assert len(heard) == 1, "a planned end is no crash"
    (report,) = crash_reports(supervisor._options.state_dir)
    assert report["in_flight"] == [json.loads(json.dumps(dataclasses.asdict(work)))]
    assert report["done"][-1]["what"] == "ready", "later steps do not belong to it"


async def test_a_failed_attribution_does_not_keep_the_child_down(
    supervise: Supervise, caplog: pytest.LogCaptureFixture
) -> None:
    def attribute(death: Death) -> list[InFlight]:
        raise RuntimeError("an error in the gateway")

    supervisor = supervise(attribute_crash=attribute)
    await supervisor.start()
    generation = await supervisor.ready(10)
    await tell(generation, exit=3)
    await generation.died
    assert (await supervisor.ready(10)).number == 2
    assert "crash_attribution_failed" in [record.getMessage() for record in caplog.records]


async def test_a_child_that_is_old_enough_is_replaced_in_order(supervise: Supervise) -> None:
    supervisor = supervise(max_age_h=0.2 / 3600)
    changes: list[Change] = []
    supervisor.subscribe(changes.append)
    await supervisor.start()
    generation = await supervisor.ready(10)
    assert (await generation.died).cause is Cause.RECYCLED
    assert (await supervisor.ready(10)).number == 2
    assert State.DRAINING in [change.state for change in changes]


async def test_more_crashes_than_allowed_end_in_failed_and_recycle_leads_out(supervise: Supervise) -> None:
    supervisor = supervise("exit=3", max_restarts=2)
    await supervisor.start()
    with pytest.raises(NotReady) as caught:
        await supervisor.ready(10)
    seen = caught.value.snapshot
    assert (seen.state, seen.generation) == (State.FAILED, 3)
    assert (seen.cause, seen.explanation) == (Cause.UNKNOWN, "The server exited with code 3.")
    assert seen.next_restart_s is not None
    assert 590 < seen.next_restart_s <= 600
    await supervisor.recycle("asked")
    assert supervisor.snapshot().state is State.STARTING
    assert supervisor.snapshot().generation == 4


async def test_failed_is_left_after_the_cool_down(supervise: Supervise) -> None:
    supervisor = supervise("exit=3", max_restarts=0, cooldown_s=0.05)
    await supervisor.start()
    assert await until(lambda: supervisor.snapshot().generation == 3)


async def test_a_hopeless_cause_fails_at_once_with_its_explanation(supervise: Supervise) -> None:
    supervisor = supervise("say=mlx_lm.server: error: unrecognized arguments: --x", "exit=2")
    await supervisor.start()
    with pytest.raises(NotReady, match="refused a command-line flag"):
        await supervisor.ready(10)
    assert supervisor.snapshot().generation == 1


async def test_a_command_that_does_not_exist_fails_at_once(supervise: Supervise) -> None:
    async def prepare() -> LaunchSpec:
        return LaunchSpec((), {}, command=("/nowhere/server",))

    supervisor = supervise(prepare=prepare)
    await supervisor.start()
    with pytest.raises(NotReady, match="could not be run"):
        await supervisor.ready(10)


async def test_nothing_to_run_fails_at_once(supervise: Supervise) -> None:
    async def prepare() -> LaunchSpec:
        raise CannotStart(Cause.BAD_MODEL, "There is no model in /x.")

    supervisor = supervise(prepare=prepare)
    await supervisor.start()
    with pytest.raises(NotReady, match="no model in /x") as caught:
        await supervisor.ready(10)
    assert caught.value.snapshot.cause is Cause.BAD_MODEL


async def test_a_start_that_fails_for_another_reason_is_tried_again(supervise: Supervise) -> None:
    tries = iter((OSError("Too many open files"), None))

    async def prepare() -> LaunchSpec:
        if error := next(tries):
            raise error
        return fake_launch()

    supervisor = supervise(prepare=prepare)
    await supervisor.start()
    assert (await supervisor.ready(10)).number == 2
    assert dict(supervisor.snapshot().restarts_by_cause) == {Cause.SPAWN_FAILED: 1}


async def test_a_child_that_does_not_get_ready_in_time_is_replaced(supervise: Supervise) -> None:
    supervisor = supervise("start=60", start_timeout_s=0.3, max_restarts=1)
    await supervisor.start()
    assert await until(lambda: supervisor.snapshot().generation == 2)
    seen = supervisor.snapshot()
    assert (seen.cause, seen.state) == (Cause.START_TIMEOUT, State.STARTING)


async def test_ready_waits_no_longer_than_its_timeout(supervise: Supervise) -> None:
    supervisor = supervise("start=60")
    await supervisor.start()
    with pytest.raises(NotReady) as caught:
        await supervisor.ready(0.05)
    assert caught.value.snapshot.state is State.STARTING


async def test_a_taken_port_is_changed_without_counting_a_crash(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server answers there, and well; it must not be taken for the child."""
    other = supervise()
    await other.start()
    taken = (await other.ready(10)).port
    free = attempt.free_port
    ports = iter((taken, taken, free()))
    monkeypatch.setattr(attempt, "free_port", lambda: next(ports))
    supervisor = supervise(state_dir=other._options.state_dir / "second", max_restarts=0)
    await supervisor.start()
    generation = await supervisor.ready(10)
    assert (generation.number, generation.port != taken) == (3, True)
    assert dict(supervisor.snapshot().restarts_by_cause) == {Cause.PORT_TAKEN: 2}


async def test_a_dead_thread_is_noticed_by_its_log_line_and_confirmed_by_health(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watch, "TICK_S", 1000.0)  # no periodic look at the child finds out
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    await tell(
        generation,
        health=503,
        say="2026-01-05 10:11:12,345 - ERROR - mlx_lm.server generation thread died: x",
    )
    death = await generation.died
    assert death.cause is Cause.GENERATION_THREAD_DIED
    assert (await supervisor.ready(10)).number == 2


async def test_a_dead_thread_is_noticed_without_a_log_line_within_a_second(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    await tell(generation, health=503)
    assert (
        await asyncio.wait_for(asyncio.shield(generation.died), 1.0)
    ).cause is Cause.GENERATION_THREAD_DIED


async def test_a_log_line_alone_kills_nothing(supervise: Supervise) -> None:
    """A client's text in a log line could say anything."""
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    await tell(generation, say="generation thread died: said the user")
    assert await supervisor.judge(generation) is None
    assert supervisor.snapshot().state is State.READY


async def test_a_broken_response_of_a_living_child_is_no_death(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    deaths = await asyncio.gather(*(supervisor.judge(generation) for _ in range(8)))
    assert deaths == [None] * 8
    assert supervisor.snapshot().generation == 1


async def test_an_old_server_whose_canary_fails_is_dead(supervise: Supervise) -> None:
    """Up to mlx-lm 0.31.3 /health stays 200 when the generation thread dies."""
    supervisor = supervise()
    await supervisor.start()
    for canary, cause in (("silent", Cause.WEDGE), ("refused", Cause.GENERATION_THREAD_DIED)):
        generation = await supervisor.ready(10)
        await tell(generation, canary=canary)
        death = await supervisor.judge(generation)
        assert death is not None
        assert death.cause is cause


async def test_a_stopped_process_is_a_wedge(supervise: Supervise) -> None:
    supervisor = supervise(stall_s=1.0)
    await supervisor.start()
    generation = await supervisor.ready(10)
    with generation.busy():
        os.kill(supervisor.snapshot().pid or 0, signal.SIGSTOP)
        death = await asyncio.wait_for(asyncio.shield(generation.died), 1.0 + 2.0)
    assert death.cause is Cause.WEDGE
    assert (await supervisor.ready(10)).number == 2


async def test_a_predicted_silence_is_no_wedge_until_its_predicted_end(supervise: Supervise) -> None:
    supervisor = supervise(stall_s=0.4)
    supervisor.expect_silence(time.monotonic() + 99.0)  # without effect: no generation serves yet
    await supervisor.start()
    generation = await supervisor.ready(10)
    supervisor.expect_silence(time.monotonic() + 2.0)
    with generation.busy():
        os.kill(supervisor.snapshot().pid or 0, signal.SIGSTOP)
        done, _ = await asyncio.wait((generation.died,), timeout=1.8)
        assert not done
        death = await asyncio.wait_for(asyncio.shield(generation.died), 0.2 + 0.4 + 2.0)
    assert death.cause is Cause.WEDGE


async def test_a_busy_child_that_answers_its_canary_is_left_alone(supervise: Supervise) -> None:
    supervisor = supervise(stall_s=0.1)
    await supervisor.start()
    generation = await supervisor.ready(10)
    with generation.busy():
        await asyncio.sleep(1.5)
    assert not generation.died.done()


async def test_a_recycle_drains_then_restarts_and_is_no_crash(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    with generation.busy():
        await supervisor.recycle("memory")
        assert supervisor.snapshot().state is State.DRAINING
        assert not generation.died.done()
    assert generation.died.result().cause is Cause.RECYCLED
    assert generation.died.result().planned
    assert (await supervisor.ready(10)).number == 2
    seen = supervisor.snapshot()
    assert (seen.cause, dict(seen.restarts_by_cause)) == (None, {Cause.RECYCLED: 1})
    assert not (supervisor._options.state_dir / "crashes").exists()


async def test_a_recycle_cuts_what_does_not_end_in_time(supervise: Supervise) -> None:
    supervisor = supervise(drain_s=0.1)
    await supervisor.start()
    generation = await supervisor.ready(10)
    with generation.busy():
        await supervisor.recycle("memory")
        assert (await asyncio.wait_for(asyncio.shield(generation.died), 1)).cause is Cause.RECYCLED


async def test_a_stop_tells_the_requests_that_still_wait(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    with generation.busy():
        await supervisor.stop()
    assert generation.died.result().cause is Cause.OWN_STOP
    with pytest.raises(NotReady):
        await supervisor.ready(1)
    with pytest.raises(IllegalEvent):
        await supervisor.recycle("too late")


async def test_a_child_that_ignores_signals_is_killed_after_its_graces(supervise: Supervise) -> None:
    supervisor = supervise("ignore=all", "grandchild=yes", sigint_grace_s=0.2, sigterm_grace_s=0.2)
    await supervisor.start()
    await supervisor.ready(10)
    grandchild = int(supervisor.snapshot().log_tail[0].removeprefix("grandchild "))
    start = time.monotonic()
    await supervisor.stop()
    assert time.monotonic() - start >= 0.4
    assert await gone(grandchild, within_s=0.5)


async def test_a_second_ctrl_c_stops_at_once(supervise: Supervise) -> None:
    supervisor = supervise("ignore=all", sigint_grace_s=60.0)
    await supervisor.start()
    await supervisor.ready(10)
    stopping = asyncio.create_task(supervisor.stop())
    await asyncio.sleep(0)
    supervisor.stop_now()
    await asyncio.wait_for(stopping, 1.0)


@pytest.mark.parametrize("told", [(), ("start=60",)])
async def test_a_stop_while_starting(supervise: Supervise, told: tuple[str, ...]) -> None:
    supervisor = supervise(*told)
    await supervisor.start()
    await asyncio.sleep(0)
    await asyncio.wait_for(supervisor.stop(), 2.0)
    assert supervisor.snapshot().state is State.STOPPED


async def test_a_stop_while_preparing_gives_up_the_preparation(supervise: Supervise) -> None:
    async def prepare() -> LaunchSpec:
        await asyncio.sleep(60)
        raise AssertionError

    supervisor = supervise(prepare=prepare)
    await supervisor.start()
    await asyncio.sleep(0.01)
    await asyncio.wait_for(supervisor.stop(), 1.0)


async def test_a_stopped_supervisor_starts_again(supervise: Supervise) -> None:
    supervisor = supervise()
    for number in (1, 2):
        await supervisor.start()
        assert (await supervisor.ready(10)).number == number
        await supervisor.stop()


async def test_a_failing_subscriber_does_no_harm(supervise: Supervise) -> None:
    def fail(change: Change) -> None:
        raise RuntimeError(change.state)

    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(
        lambda loop, context: failures.append(context["exception"])
    )
    supervisor = supervise()
    supervisor.subscribe(fail)
    await supervisor.start()
    generation = await supervisor.ready(10)
    os.kill(supervisor.snapshot().pid or 0, signal.SIGKILL)
    await generation.died
    assert (await supervisor.ready(10)).number == 2
    assert len(failures) >= 3


async def test_descriptors_and_tasks_stay_flat_over_restarts(supervise: Supervise) -> None:
    supervisor = supervise(max_restarts=100)
    await supervisor.start()

    def counts() -> tuple[int, int]:
        return psutil.Process().num_fds(), len(asyncio.all_tasks())

    async def restart() -> None:
        generation = await supervisor.ready(10)
        os.kill(supervisor.snapshot().pid or 0, signal.SIGKILL)
        await generation.died

    await restart()
    await supervisor.ready(10)
    await asyncio.sleep(0.5)  # the keeper before is reaped, the crash report written
    after_one = counts()
    for _ in range(4):
        await restart()
    await supervisor.ready(10)
    assert await until(lambda: counts() == after_one), (counts(), after_one)


async def test_a_state_folder_belongs_to_one(supervise: Supervise) -> None:
    first, second = supervise(proxy_port=8080), supervise()
    await first.start()
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()}, port 8080"):
        await second.start()


async def test_a_full_disk_does_not_prevent_the_restart(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)

    def full(*args: object) -> None:
        raise OSError("No space left on device")

    monkeypatch.setattr("supervisor.state.folder.write_json", full)
    os.kill(supervisor.snapshot().pid or 0, signal.SIGKILL)
    await generation.died
    assert (await supervisor.ready(10)).number == 2


async def test_a_stopped_child_is_continued_so_that_it_can_react_to_its_stop(supervise: Supervise) -> None:
    """Otherwise SIGKILL would end it, a second later."""
    supervisor = supervise(stall_s=0.6, canary_timeout_s=0.1)
    await supervisor.start()
    generation = await supervisor.ready(10)
    assert supervisor._attempt is not None
    child = supervisor._attempt.child
    with generation.busy():
        os.kill(supervisor.snapshot().pid or 0, signal.SIGSTOP)
        death = await asyncio.shield(generation.died)
    assert (death.cause, death.external) == (Cause.WEDGE, True)
    assert (await supervisor.ready(10)).number == 2
    assert child is not None
    assert child.exited.result() == Exit(None, signal.SIGTERM)


@contextlib.contextmanager
def no_file_descriptors() -> Iterator[None]:
    """This process cannot open another file, as after a leak or under a low limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    probe = os.open(os.devnull, os.O_RDONLY)
    os.close(probe)
    taken = [os.dup(0) for _ in range(64)]  # what asyncio has open lies below these
    resource.setrlimit(resource.RLIMIT_NOFILE, (probe, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in taken:
            os.close(fd)


async def test_a_shortage_of_file_descriptors_is_no_fault_of_the_child(supervise: Supervise) -> None:
    """It neither ends the child nor its watch: a wedge after the shortage is noticed."""
    supervisor = supervise(stall_s=1.0)
    await supervisor.start()
    generation = await supervisor.ready(10)
    with no_file_descriptors():
        await asyncio.sleep(2.5)
        assert await supervisor.judge(generation) is None
    assert supervisor.snapshot().state is State.READY
    pid = supervisor.snapshot().pid
    assert pid is not None
    with generation.busy():
        os.kill(pid, signal.SIGSTOP)
        death = await asyncio.wait_for(asyncio.shield(generation.died), 10)
    assert death.cause is Cause.WEDGE


async def test_a_child_dies_in_order_while_nothing_can_be_read(supervise: Supervise) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)
    pid = supervisor.snapshot().pid
    assert pid is not None
    with no_file_descriptors():
        os.kill(pid, signal.SIGKILL)
        death = await asyncio.wait_for(asyncio.shield(generation.died), 10)
        assert death.signal == signal.SIGKILL
        await asyncio.sleep(0.3)
    assert (await supervisor.ready(20)).number > generation.number


async def test_a_watch_that_fails_is_a_failure_of_what_it_watched(
    supervise: Supervise, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = supervise()
    await supervisor.start()
    generation = await supervisor.ready(10)

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "_signs", fail)
        death = await asyncio.wait_for(asyncio.shield(generation.died), 10)
    assert (death.cause, death.external) == (Cause.WATCH_FAILED, True)
    assert (await supervisor.ready(20)).number > generation.number
