"""Judges what the settings need of this machine: memory, state folder, port and model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor.check_result import CheckResult, failed, ok, warning
from supervisor.memory_model.ceiling import Ceiling, Readings, gb
from supervisor.memory_model.plan import Plan

#: Memory in bytes below which no useful model fits.
_LITTLE_MEMORY = 2 * 10**9
#: Disk space in bytes for fifty crash reports and a log.
_LITTLE_SPACE = 500 * 10**6


@dataclass(frozen=True, slots=True)
class StateSeen:
    """The state folder. `fault`: why it cannot be used; `holder`: a sentence about the proxy that uses it."""

    folder: Path
    free: int
    fault: str | None = None
    holder: str | None = None
    holder_pid: int | None = None


def configuration(source: str, faults: Sequence[str]) -> CheckResult:
    """Whether the settings are valid; `source` is what was read."""
    if not faults:
        return ok("configuration", f"valid ({source})")
    advice = "Correct it, as `mlxguard-proxy check` says; state folder, port and model were not checked."
    return failed("configuration", "; ".join(faults), advice)


def memory(readings: Readings, allowed: Ceiling, platform: str) -> CheckResult:
    """How much memory the server may use, and whether the limits can be read."""
    check = "free memory"
    found = f"{gb(readings.available)} of {gb(readings.total)} free; the server may use {gb(allowed.bytes)}"
    found += f" ({allowed.source}{_metal(readings)})"
    if platform == "darwin" and readings.wired_limit is None:
        return warning(check, found, "`sysctl iogpu.wired_limit_mb` fails: Metal's default limit applies.")
    if allowed.exceeds is not None:
        advice = f"memory.max_active_memory_bytes is more than the available {gb(allowed.exceeds.bytes)}."
        return warning(check, found, advice)
    if allowed.bytes < _LITTLE_MEMORY:
        return warning(check, found, "Quit programs that use much memory, or choose a small model.")
    return ok(check, found)


def _metal(readings: Readings) -> str:
    if readings.backend != "metal":
        return ""
    working_set = "unknown" if readings.working_set is None else gb(readings.working_set)
    wired = "default" if not readings.wired_limit else gb(readings.wired_limit)
    return f"; Metal's working set {working_set}, wired limit {wired}"


def state(seen: StateSeen) -> CheckResult:
    """Whether the state folder can be used."""
    check = "state folder"
    if seen.fault is not None:
        return failed(check, f"{seen.folder}: {seen.fault}", "Choose another with [supervisor] state_dir.")
    if seen.holder is not None:
        return warning(check, seen.holder, "Stop it before you start another, or give that another folder.")
    found = f"{seen.folder} is writable and not in use, {gb(seen.free)} free on its disk"
    if seen.free < _LITTLE_SPACE:
        return warning(check, found, "Free some space, or crash reports may not be saved.")
    return ok(check, found)


def port(address: str, fault: str | None, proxy_pid: int | None) -> CheckResult:
    """Whether the proxy can listen. `fault`: why not; `proxy_pid`: the proxy with the state folder."""
    if fault is None:
        return ok("port", f"{address} is free")
    if proxy_pid is not None and f"(pid {proxy_pid})" in fault:
        return warning("port", f"{address} is used by that proxy", "Stop it before you start another one.")
    return failed("port", fault, "The proxy cannot start until the port is free.")


def no_model(name: str, fault: str, *, downloadable: bool) -> CheckResult:
    """The result if there is no plan for the configured model; `fault`: why."""
    if downloadable:
        return warning("model", f"{name} is not on this machine", "`serve` downloads it before it is ready.")
    return failed("model", f"{name}: {fault}", "Set [model] path to a folder or hub id.")


def model(name: str, plan: Plan) -> CheckResult:
    """Whether the configured model, which is here, fits."""
    longest = "not limited" if plan.max_prompt is None else f"{plan.max_prompt:,} tokens"
    found = f"{name}: weights {gb(plan.model.weights)}, longest prompt {longest}"
    if plan.model.weights > plan.ceiling.bytes:
        return failed("model", found, " ".join(plan.warnings))
    if plan.warnings:
        return warning("model", found, " ".join(plan.warnings))
    return ok("model", found)
