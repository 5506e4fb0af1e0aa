"""What trials on a machine mean. Evidence of a Mac is made up after Apple's documentation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxy.doctor import machine
from proxy.doctor.check_result import CheckResult, CheckVerdict
from proxy.doctor.machine import Versions
from proxy.doctor.serving import ServedTrial
from proxy.doctor.trials import MemoryRise, MlxRise, Orphans, PortSeen, ProcessSeen
from proxy.planning.server_flags import FLAGS
from supervisor.child.process import Exit, Telemetry

MB = 10**6
OK, WARNING, FAILED = CheckVerdict
MAC = Versions("3.12.4", "0.32.4", "0.32.2", "macOS 15.1", "arm64", "Apple M3 Max")
ALL_FLAGS = {"--model", "--host", "--port", *(f"--{name.replace('_', '-')}" for name in FLAGS)}
METAL = MlxRise(MemoryRise(128 * MB, 40 * MB, 170 * MB), 128 * MB, "metal", 51_539 * MB)
SAMPLE = Telemetry(2 * MB, 3 * MB, 0, 2, 7.0)
SERVED = ServedTrial(ready_s=2.0, telemetry=SAMPLE, footprint=90 * MB, counted=24, served=24, stop_s=0.2)


def verdict(finding: CheckResult) -> CheckVerdict:
    """Whatever is not well comes with one sentence of advice, and nothing else does."""
    assert bool(finding.advice) == (finding.verdict is not OK)
    assert not finding.advice or finding.advice.endswith((".", "?"))
    return finding.verdict


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (MAC, OK),
        (replace(MAC, chip=None), OK),
        (replace(MAC, machine="x86_64"), FAILED),  # an Intel Python under Rosetta
        (replace(MAC, system="Linux 6.8", machine="x86_64"), OK),
        (replace(MAC, mlx_lm=None), FAILED),
    ],
)
def test_versions(seen: Versions, expected: CheckVerdict) -> None:
    assert verdict(machine.versions(seen)) is expected


@pytest.mark.parametrize(
    ("missing", "expected"),
    [(set(), OK), ({"--prompt-cache-bytes"}, WARNING), ({"--port"}, FAILED), (ALL_FLAGS, FAILED)],
)
def test_flags(missing: set[str], expected: CheckVerdict) -> None:
    assert verdict(machine.flags(ALL_FLAGS - missing)) is expected


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (20 * MB, 84 * MB, OK),
        (20 * MB, 21 * MB, FAILED),  # not seen
        (20 * MB, 300 * MB, FAILED),  # something else was read
        (None, None, FAILED),  # proc_pid_rusage refused
    ],
)
def test_memory_from_outside(before: int | None, after: int | None, expected: CheckVerdict) -> None:
    assert verdict(machine.memory(MemoryRise(64 * MB, before, after))) is expected


@pytest.mark.parametrize(
    ("seen", "platform", "expected"),
    [
        (METAL, "darwin", OK),
        (
            METAL._replace(rise=MemoryRise(128 * MB, 40 * MB, 41 * MB)),
            "darwin",
            WARNING,
        ),  # no GPU memory in it
        (METAL._replace(backend="cpu"), "darwin", FAILED),
        (METAL._replace(backend="cpu", working_set=None), "linux", OK),
        (METAL._replace(working_set=None), "darwin", WARNING),
        (METAL._replace(active=0), "darwin", FAILED),
        (METAL._replace(backend="cuda", rise=MemoryRise(128 * MB, 40 * MB, 41 * MB)), "linux", OK),
    ],
)
def test_memory_of_mlx(seen: MlxRise, platform: str, expected: CheckVerdict) -> None:
    assert verdict(machine.mlx_memory(seen, platform)) is expected


def test_what_was_seen_of_metal_is_told() -> None:
    assert machine.mlx_memory(METAL, "darwin").found == (
        "128 MB allocated, 130 MB more seen from outside; MLX reports 128 MB more active, on metal"
    )


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (ProcessSeen(0.1, 1.0, stopped_before=False, stopped_after=True), OK),
        (ProcessSeen(0.1, 1.0, stopped_before=False, stopped_after=False), WARNING),
        (ProcessSeen(None, 1.0, stopped_before=False, stopped_after=True), WARNING),
    ],
)
def test_processes(seen: ProcessSeen, expected: CheckVerdict) -> None:
    assert verdict(machine.processes(seen)) is expected


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (PortSeen(12, "python3 (pid 12)", listens=True), OK),
        (PortSeen(12, "python3 (pid 123)", listens=True), WARNING),
        (PortSeen(12, None, listens=None), WARNING),  # macOS tells nobody
        (PortSeen(12, None, listens=False), FAILED),
    ],
)
def test_port_holder(seen: PortSeen, expected: CheckVerdict) -> None:
    assert verdict(machine.port_holder(seen)) is expected


def test_exits() -> None:
    assert verdict(machine.exits((Exit(7, None), Exit(None, 9)))) is OK
    assert verdict(machine.exits((Exit(7, None), Exit(137, None)))) is FAILED


@pytest.mark.parametrize(
    ("seen", "expected"),
    [(Orphans(3, 1.5, ()), OK), (Orphans(3, 5.2, ()), WARNING), (Orphans(3, 5.0, (7,)), FAILED)],
)
def test_orphans(seen: Orphans, expected: CheckVerdict) -> None:
    assert verdict(machine.orphans(seen)) is expected


@pytest.mark.parametrize(("limit", "expected"), [(None, OK), (4096, OK), (256, FAILED)])
def test_open_files(limit: int | None, expected: CheckVerdict) -> None:
    assert verdict(machine.open_files(limit, 512)) is expected


def test_more_connections_than_files() -> None:
    assert verdict(machine.open_files(4096, 20_000)) is WARNING


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (SERVED, [OK, OK, OK, OK]),
        (ServedTrial(fault="It died.", last_words=("Abort trap: 6",), stop_s=0.1), [FAILED]),
        (replace(SERVED, telemetry=None), [OK, FAILED, OK, OK]),
        (replace(SERVED, telemetry=replace(SAMPLE, active_bytes=0)), [OK, FAILED, OK, OK]),
        (replace(SERVED, footprint=None), [OK, WARNING, OK, OK]),
        (replace(SERVED, footprint=MB), [OK, WARNING, OK, OK]),
        (replace(SERVED, footprint=MB, telemetry=replace(SAMPLE, card_total=MB)), [OK, OK, OK, OK]),
        (replace(SERVED, served=25), [OK, OK, FAILED, OK]),
        (replace(SERVED, stop_s=5.1), [OK, OK, OK, WARNING]),
        (replace(SERVED, left=True), [OK, OK, OK, FAILED]),
    ],
)
def test_served(seen: ServedTrial, expected: list[CheckVerdict]) -> None:
    assert [verdict(finding) for finding in machine.served(seen)] == expected


def test_a_server_that_died_is_quoted() -> None:
    (finding,) = machine.served(ServedTrial(fault="It died.", last_words=("first", "Abort trap: 6")))
    assert finding.found == "It died. Its last words: Abort trap: 6"
