"""What trials on this machine mean: the judgement of `mlxguard-proxy doctor`. Pure.

Trials are in proxy/doctor/trials.py and doctor_served.py; what the settings need of the machine is judged in
doctor_setup.py.
"""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from proxy.doctor.finding import CheckResult, failed, ok, warning
from proxy.doctor.serving import SIGINT_GRACE_S, ServedTrial
from proxy.doctor.trials import MemoryRise, MlxRise, Orphans, PortSeen, ProcessSeen
from proxy.planning.server_flags import FLAGS
from supervisor.child.process import Exit
from supervisor.memory_model.ceiling import gb

#: After the gateway has gone (docs/reliability.md).
PROMISED_S = 5.0
#: What is read of a process that took a known amount may be so far from it: Python takes a little beside.
_LEAST, _MOST = 0.75, 1.5
_REPORT = "please report it with the output of `mlxguard-proxy doctor --json`"
_NEEDED = ("--model", "--host", "--port")
_OPEN_FILES = 1024


@dataclass(frozen=True, slots=True)
class Versions:
    """`system`: as "macOS 15.1". `machine`: what the interpreter was built for. None: not installed."""

    python: str
    mlx: str | None
    mlx_lm: str | None
    system: str
    machine: str
    chip: str | None


def versions(seen: Versions) -> CheckResult:
    """Is everything installed, and for this processor?"""
    found = f"Python {seen.python}, mlx {seen.mlx or 'missing'}, mlx-lm {seen.mlx_lm or 'missing'}"
    found += f", {seen.system} ({seen.machine}), {seen.chip or 'a chip that is not told'}"
    if seen.mlx is None or seen.mlx_lm is None:
        return failed("versions", found, "Install mlx-lm into the environment of mlxguard-proxy.")
    if seen.system.startswith("macOS") and seen.machine != "arm64":
        advice = "This Python was built for Intel: install one for Apple silicon, and mlxguard-proxy with it."
        return failed("versions", found, advice)
    return ok("versions", found)


def flags(offered: Collection[str]) -> CheckResult:
    """Does the server know what the plan wants to tell it? `offered`: of its --help."""
    if not offered:
        advice = "Run `mlx_lm.server --help`, or the command in [upstream], and see why."
        return failed("server flags", "the server did not answer --help", advice)
    wanted = [f"--{name.replace('_', '-')}" for name in FLAGS]
    missing = [flag for flag in (*_NEEDED, *wanted) if flag not in offered]
    if not missing:
        return ok("server flags", f"all {len(_NEEDED) + len(wanted)} that are used")
    found = f"the server has no {', '.join(missing)}"
    if set(missing) & set(_NEEDED):
        return failed("server flags", found, "It cannot be run by the proxy: see [upstream] command.")
    return warning("server flags", found, "Its own defaults hold for these; a newer mlx-lm has them.")


def memory(rise: MemoryRise) -> CheckResult:
    """Is a process's memory seen from outside?"""
    if _plausible(rise, rise.asked):
        return ok("memory of a child", _risen(rise))
    advice = f"The proxy cannot tell what the server holds: {_REPORT}."
    return failed("memory of a child", _risen(rise), advice)


def mlx_memory(seen: MlxRise, platform: str) -> CheckResult:
    """Does MLX run here, and is its memory seen from outside?"""
    check = "memory of MLX"
    found = f"{_risen(seen.rise)}; MLX says {gb(seen.active)} more active, on {seen.backend}"
    if platform == "darwin" and seen.backend != "metal":
        return failed(check, found, "MLX has no Metal here, so models run on the CPU: reinstall mlx.")
    if not _LEAST <= seen.active / seen.rise.asked <= _MOST:
        return failed(check, found, f"MLX does not count what it holds: {_REPORT}.")
    if seen.backend == "cuda":
        return ok(check, f"{gb(seen.active)} more active on the card, which only MLX counts")
    if not _plausible(seen.rise, seen.active):
        advice = f"What the GPU holds is not seen from outside, so trust telemetry alone, and {_REPORT}."
        return warning(check, found, advice)
    if platform == "darwin" and seen.working_set is None:
        return warning(check, found, "Metal tells no working set: set memory.max_active_memory_bytes.")
    return ok(check, found)


def _plausible(rise: MemoryRise, size: int) -> bool:
    if rise.before is None or rise.after is None:
        return False
    return _LEAST * size <= rise.after - rise.before <= _MOST * size


def _risen(rise: MemoryRise) -> str:
    if rise.before is None or rise.after is None:
        return f"{gb(rise.asked)} more taken, and nothing can be read from outside"
    return f"{gb(rise.asked)} more taken, {gb(rise.after - rise.before)} more seen from outside"


def processes(seen: ProcessSeen) -> CheckResult:
    """Are processes seen as they are?"""
    unknown = [
        name
        for name, told in (
            ("its CPU time", seen.cpu_seconds is not None),
            ("when it was created", seen.created is not None),
            ("that it runs", not seen.stopped_before),
            ("that it was stopped", seen.stopped_after),
        )
        if not told
    ]
    if not unknown:
        return ok("state of a child", "CPU time, time of creation, running and stopped are seen")
    found = f"of a process it is not seen: {', '.join(unknown)}"
    return warning("state of a child", found, f"Causes of crashes may be told wrongly: {_REPORT}.")


def port_holder(seen: PortSeen) -> CheckResult:
    """Is who holds a port found?"""
    check = "holder of a port"
    if seen.listens is False:
        advice = f"The proxy would take its own server's port for a stranger's: {_REPORT}."
        return failed(check, f"pid {seen.pid} listens, and is not seen to", advice)
    if seen.holder is None or f"(pid {seen.pid})" not in seen.holder or seen.listens is None:
        found = f"pid {seen.pid} listens, found is {seen.holder or 'nobody'}"
        return warning(check, found, "When a port is taken, look with `lsof -i` for who has it.")
    return ok(check, f"{seen.holder} is found by its port")


def exits(seen: tuple[Exit, Exit]) -> CheckResult:
    """Is the end of a child told exactly? Of one that exits with 7, and of one that was killed."""
    if seen == (Exit(7, None), Exit(None, signal.SIGKILL)):
        return ok("end of a child", "exit status 7 and signal 9 are told")
    found = f"7 and signal 9 are told as {seen[0]} and {seen[1]}"
    return failed("end of a child", found, f"Crashes would be told wrongly: {_REPORT}.")


def orphans(seen: Orphans) -> CheckResult:
    """Does the server go when the gateway is killed?"""
    check = "no orphans"
    if seen.left:
        pids = ", ".join(map(str, seen.left))
        found = (
            f"{len(seen.left)} of {seen.started} were left {seen.seconds:.1f} s after a gateway was killed"
        )
        return failed(check, f"{found} (pid {pids})", f"A server may outlive the proxy: {_REPORT}.")
    found = f"a stubborn child, its child and the keeper were gone {seen.seconds:.1f} s after the gateway"
    if seen.seconds > PROMISED_S:
        return warning(check, found, f"{PROMISED_S:g} s are promised; is the machine very busy?")
    return ok(check, found)


def open_files(limit: int | None) -> CheckResult:
    """Can as many connections be open as are let in? `limit` as it could be raised; None: no limit."""
    if limit is None or limit >= _OPEN_FILES:
        return ok("open files", "no limit" if limit is None else f"up to {limit:,}")
    advice = "Raise the hard limit (`ulimit -Hn`), or lower server.max_connections."
    return warning("open files", f"up to {limit:,}", advice)


def served(seen: ServedTrial) -> Sequence[CheckResult]:
    """Does the real server work as the gateway's child?"""
    if seen.fault is not None:
        said = f" Its last words: {seen.last_words[-1]}" if seen.last_words else ""
        advice = f"The server cannot be run with the embedded model; if no reason is clear, {_REPORT}."
        return (failed("server", seen.fault + said, advice),)
    return (_answers(seen), _telemetry(seen), _counts(seen), _stops(seen))


def _answers(seen: ServedTrial) -> CheckResult:
    found = f"mlx_lm.server loaded the embedded model and gave a first token within {seen.ready_s:.1f} s"
    return ok("server", found)


def _telemetry(seen: ServedTrial) -> CheckResult:
    sample = seen.telemetry
    if sample is None or not sample.active_bytes:
        found = "nothing came from inside the child" if sample is None else "no active memory is told"
        return failed("telemetry", found, f"Set upstream.telemetry to off until it is mended; {_REPORT}.")
    found = f"{gb(sample.active_bytes)} active, peak {gb(sample.peak_bytes)}"
    if seen.footprint is None:
        return warning("telemetry", f"{found}; nothing seen from outside", f"It should be: {_REPORT}.")
    found += f"; the process holds {gb(seen.footprint)} in all"
    if seen.footprint < sample.active_bytes and not sample.card_total:
        return warning("telemetry", found, f"A process holds no less than MLX has active: {_REPORT}.")
    return ok("telemetry", found)


def _counts(seen: ServedTrial) -> CheckResult:
    if seen.counted == seen.served:
        return ok("token counts", f"one chat is {seen.counted} tokens, for the proxy and for the server")
    found = f"one chat is {seen.counted} tokens for the proxy and {seen.served} for the server"
    return failed("token counts", found, f"Limits would be wrong by as much: {_REPORT}.")


def _stops(seen: ServedTrial) -> CheckResult:
    if seen.left or seen.stop_s is None:
        return failed("stop", "the server was stopped, and is still there", f"End it by hand; {_REPORT}.")
    if seen.stop_s > SIGINT_GRACE_S:
        found = f"the server needed more than Ctrl-C: {seen.stop_s:.1f} s"
        return warning("stop", found, "Answers may be cut at a stop; is the machine very busy?")
    return ok("stop", f"the server ended in order in {seen.stop_s:.1f} s and left nothing behind")
