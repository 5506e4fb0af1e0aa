"""Judges what the doctor's trials have shown of this machine."""

from __future__ import annotations

import signal
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from proxy.config.open_files import SERVER_FILES, shortages
from proxy.doctor.check_result import CheckResult, failed, ok, warning
from proxy.doctor.serving import SIGINT_GRACE_S, ServedTrial
from proxy.doctor.trials import MemoryRise, MlxRise, Orphans, PortSeen, ProcessSeen
from proxy.planning.server_flags import FLAGS
from supervisor.child.process import Exit
from supervisor.memory_model.ceiling import gb

#: Seconds within which all processes end after the gateway was killed (docs/reliability.md).
PROMISED_S = 5.0
#: Range of a plausible reading, as a multiple of the memory that a process allocated; Python itself needs
#: some.
_LEAST, _MOST = 0.75, 1.5
_REPORT = "please report it with the output of `mlxguard-proxy doctor --json`"
#: Flags without which the proxy cannot run the server.
_NEEDED = ("--model", "--host", "--port")


@dataclass(frozen=True, slots=True)
class Versions:
    """What is installed; None if it is not. `system`: as "macOS 15.1"; `machine`: of the interpreter."""

    python: str
    mlx: str | None
    mlx_lm: str | None
    system: str
    machine: str
    chip: str | None


def versions(seen: Versions) -> CheckResult:
    """Whether everything is installed, and for this processor."""
    found = f"Python {seen.python}, mlx {seen.mlx or 'missing'}, mlx-lm {seen.mlx_lm or 'missing'}"
    found += f", {seen.system} ({seen.machine}), {seen.chip or 'unknown chip'}"
    if seen.mlx is None or seen.mlx_lm is None:
        return failed("versions", found, "Install mlx-lm into the environment of mlxguard-proxy.")
    if seen.system.startswith("macOS") and seen.machine != "arm64":
        advice = "This Python was built for Intel: install one for Apple silicon, and mlxguard-proxy with it."
        return failed("versions", found, advice)
    return ok("versions", found)


def flags(offered: Collection[str]) -> CheckResult:
    """Whether the server has the flags that the plan sets; `offered` are those of its --help."""
    if not offered:
        advice = "Run `mlx_lm.server --help`, or the command in [upstream], and see why."
        return failed("server flags", "the server did not answer --help", advice)
    wanted = [f"--{name.replace('_', '-')}" for name in FLAGS]
    missing = [flag for flag in (*_NEEDED, *wanted) if flag not in offered]
    if not missing:
        return ok("server flags", f"the server has all {len(_NEEDED) + len(wanted)} flags that are used")
    found = f"the server has no {', '.join(missing)}"
    if set(missing) & set(_NEEDED):
        return failed("server flags", found, "The proxy cannot run it: see [upstream] command.")
    return warning("server flags", found, "Its defaults apply to these; a newer mlx-lm has them.")


def memory(rise: MemoryRise) -> CheckResult:
    """Whether the memory of a process can be read from outside."""
    if _plausible(rise, rise.asked):
        return ok("memory of a child", _risen(rise))
    advice = f"The proxy cannot measure the server's memory: {_REPORT}."
    return failed("memory of a child", _risen(rise), advice)


def mlx_memory(seen: MlxRise, platform: str) -> CheckResult:
    """Whether MLX runs here, and its memory can be read from outside."""
    check = "memory of MLX"
    found = f"{_risen(seen.rise)}; MLX reports {gb(seen.active)} more active, on {seen.backend}"
    if platform == "darwin" and seen.backend != "metal":
        return failed(check, found, "MLX has no Metal here, so models run on the CPU: reinstall mlx.")
    if not _LEAST <= seen.active / seen.rise.asked <= _MOST:
        return failed(check, found, f"MLX does not report its own memory: {_REPORT}.")
    if seen.backend == "cuda":
        return ok(check, f"{gb(seen.active)} more active on the card, which only MLX can see")
    if not _plausible(seen.rise, seen.active):
        advice = f"GPU memory cannot be read from outside, so only telemetry shows it; {_REPORT}."
        return warning(check, found, advice)
    if platform == "darwin" and seen.working_set is None:
        return warning(check, found, "Metal reports no working set: set memory.max_active_memory_bytes.")
    return ok(check, found)


def _plausible(rise: MemoryRise, size: int) -> bool:
    if rise.before is None or rise.after is None:
        return False
    return _LEAST * size <= rise.after - rise.before <= _MOST * size


def _risen(rise: MemoryRise) -> str:
    if rise.before is None or rise.after is None:
        return f"{gb(rise.asked)} allocated, but nothing can be read from outside"
    return f"{gb(rise.asked)} allocated, {gb(rise.after - rise.before)} more seen from outside"


def processes(seen: ProcessSeen) -> CheckResult:
    """Whether the state of a process can be read."""
    facts = {
        "its CPU time": seen.cpu_seconds is not None,
        "its creation time": seen.created is not None,
        "that it runs": not seen.stopped_before,
        "that it was stopped": seen.stopped_after,
    }
    if all(facts.values()):
        return ok("state of a child", "CPU time, creation time, running and stopped can be seen")
    found = f"not seen of a process: {', '.join(name for name, known in facts.items() if not known)}"
    return warning("state of a child", found, f"Causes of crashes may be reported wrongly: {_REPORT}.")


def port_holder(seen: PortSeen) -> CheckResult:
    """Whether the process that uses a port can be found."""
    check = "holder of a port"
    if seen.listens is False:
        advice = f"The proxy would think that another program uses its server's port: {_REPORT}."
        return failed(check, f"pid {seen.pid} listens, but is not seen to listen", advice)
    if seen.holder is None or f"(pid {seen.pid})" not in seen.holder or seen.listens is None:
        found = f"pid {seen.pid} listens, but {seen.holder or 'no process'} was found"
        return warning(check, found, "If a port is in use, run `lsof -i` to see by which program.")
    return ok(check, f"{seen.holder} is found by its port")


def exits(seen: tuple[Exit, Exit]) -> CheckResult:
    """Whether the ends of two children are reported exactly: exit status 7, and signal 9."""
    if seen == (Exit(7, None), Exit(None, signal.SIGKILL)):
        return ok("end of a child", "exit status 7 and signal 9 are reported")
    found = f"exit status 7 and signal 9 are reported as {seen[0]} and {seen[1]}"
    return failed("end of a child", found, f"Crashes would be reported wrongly: {_REPORT}.")


def orphans(seen: Orphans) -> CheckResult:
    """Whether the server ends when the gateway is killed."""
    check = "no orphans"
    if seen.left:
        pids = ", ".join(map(str, seen.left))
        found = (
            f"{len(seen.left)} of {seen.started} processes ran {seen.seconds:.1f} s after a gateway's death"
        )
        return failed(check, f"{found} (pid {pids})", f"A server may outlive the proxy: {_REPORT}.")
    found = f"a stubborn child, its child and the keeper ended {seen.seconds:.1f} s after the gateway"
    if seen.seconds > PROMISED_S:
        return warning(check, found, f"It should take at most {PROMISED_S:g} s; is the machine very busy?")
    return ok(check, found)


def open_files(limit: int | None, max_connections: int) -> CheckResult:
    """Whether enough files can be open for server and connections; `limit` is the hard limit, or None."""
    found = "no limit" if limit is None else f"up to {limit:,}"
    advice = " ".join(shortages(limit, max_connections))
    if limit is not None and limit < SERVER_FILES:
        return failed("open files", found, advice)
    return warning("open files", found, advice) if advice else ok("open files", found)


def served(seen: ServedTrial) -> Sequence[CheckResult]:
    """Whether the real server works as the gateway's child."""
    if seen.fault is not None:
        quote = f" Its last words: {seen.last_words[-1]}" if seen.last_words else ""
        advice = f"The server does not work with the embedded model; if the reason is not clear, {_REPORT}."
        return (failed("server", seen.fault + quote, advice),)
    found = f"mlx_lm.server loaded the embedded model and gave a first token within {seen.ready_s:.1f} s"
    return (ok("server", found), _telemetry(seen), _counts(seen), _stops(seen))


def _telemetry(seen: ServedTrial) -> CheckResult:
    sample = seen.telemetry
    if sample is None or not sample.active_bytes:
        found = "no sample came from inside the child" if sample is None else "it reports no active memory"
        return failed("telemetry", found, f"Set upstream.telemetry to off for now; {_REPORT}.")
    found = f"{gb(sample.active_bytes)} active, peak {gb(sample.peak_bytes)}"
    if seen.footprint is None:
        return warning("telemetry", f"{found}; nothing seen from outside", f"It should be seen: {_REPORT}.")
    found += f"; the process has {gb(seen.footprint)} in all"
    if seen.footprint < sample.active_bytes and not sample.card_total:
        return warning("telemetry", found, f"A process cannot have less than MLX has active: {_REPORT}.")
    return ok("telemetry", found)


def _counts(seen: ServedTrial) -> CheckResult:
    if seen.counted == seen.served:
        return ok("token counts", f"one chat has {seen.counted} tokens for the proxy and for the server")
    found = f"one chat has {seen.counted} tokens for the proxy and {seen.served} for the server"
    return failed("token counts", found, f"Limits would be wrong by as much: {_REPORT}.")


def _stops(seen: ServedTrial) -> CheckResult:
    if seen.left or seen.stop_s is None:
        return failed("stop", "the server was stopped, but it still runs", f"End it by hand; {_REPORT}.")
    if seen.stop_s > SIGINT_GRACE_S:
        found = f"the server needed more than Ctrl-C: {seen.stop_s:.1f} s"
        return warning("stop", found, "Answers may be cut off at a stop; is the machine very busy?")
    return ok("stop", f"the server ended in {seen.stop_s:.1f} s and left nothing behind")
