"""What the settings need of this machine: the judgement of `mlxguard-proxy doctor` on that. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from proxy.doctor.finding import CheckResult, failed, ok, warning
from supervisor.memory_model.ceiling import Ceiling, Readings, gb
from supervisor.memory_model.plan import Plan

#: For a model of some use, its prompts beside it.
_LITTLE_MEMORY = 2 * 10**9
#: Fifty crash reports and a log.
_LITTLE_SPACE = 500 * 10**6


@dataclass(frozen=True, slots=True)
class StateSeen:
    """The state folder. `fault`: why it cannot be used; `holder`: a sentence on the proxy that uses it."""

    folder: Path
    free: int
    fault: str | None = None
    holder: str | None = None
    holder_pid: int | None = None


@dataclass(frozen=True, slots=True)
class ModelSeen:
    """The configured model. `plan` is None where there is a `fault`; `hub`: it may be downloaded."""

    name: str
    plan: Plan | None = None
    fault: str = ""
    hub: bool = False


def configuration(source: str, faults: Sequence[str]) -> CheckResult:
    """Are the settings valid? `source`: what was read."""
    if not faults:
        return ok("configuration", f"good ({source})")
    advice = (
        "Mend it (`mlxguard-proxy check` tells the same); state folder, port and model were not looked at."
    )
    return failed("configuration", "; ".join(faults), advice)


def memory(readings: Readings, allowed: Ceiling, platform: str) -> CheckResult:
    """What may the server take, and is what says so readable?"""
    check = "free memory"
    found = f"{gb(readings.available)} of {gb(readings.total)} free; the server may take {gb(allowed.bytes)}"
    found += f" ({allowed.source}{_metal(readings)})"
    if platform == "darwin" and readings.wired_limit is None:
        return warning(
            check, found, "`sysctl iogpu.wired_limit_mb` does not answer: Metal's own limit holds."
        )
    if allowed.exceeds is not None:
        advice = f"memory.max_active_memory_bytes is more than there is: {gb(allowed.exceeds.bytes)}."
        return warning(check, found, advice)
    if allowed.bytes < _LITTLE_MEMORY:
        return warning(check, found, "Quit programs that hold memory, or take a small model.")
    return ok(check, found)


def _metal(readings: Readings) -> str:
    if readings.backend != "metal":
        return ""
    working_set = "not told" if readings.working_set is None else gb(readings.working_set)
    wired = "its own" if not readings.wired_limit else gb(readings.wired_limit)
    return f"; Metal's working set {working_set}, wired limit {wired}"


def state(seen: StateSeen) -> CheckResult:
    """Can the state folder be used?"""
    check = "state folder"
    if seen.fault is not None:
        return failed(check, f"{seen.folder}: {seen.fault}", "Choose another with [supervisor] state_dir.")
    if seen.holder is not None:
        return warning(check, seen.holder, "Stop it before you start another, or give that another folder.")
    found = f"{seen.folder} is writable and nobody's, {gb(seen.free)} free on its disk"
    if seen.free < _LITTLE_SPACE:
        return warning(check, found, "Make room: crash reports may not be kept.")
    return ok(check, found)


def port(address: str, fault: str | None, proxy_pid: int | None) -> CheckResult:
    """Can the proxy listen? `fault`: why not; `proxy_pid`: of the proxy that uses the state folder."""
    if fault is None:
        return ok("port", f"{address} is free")
    if proxy_pid is not None and f"(pid {proxy_pid})" in fault:
        return warning("port", f"{address} is that proxy's", "Stop it before you start another.")
    return failed("port", fault, "Until then the proxy does not start.")


def model(seen: ModelSeen) -> CheckResult:
    """Is the configured model here, and does it fit?"""
    if seen.plan is None:
        if seen.hub:
            advice = "`serve` downloads it when it starts, before it is ready."
            return warning("model", f"{seen.name} is not on this machine", advice)
        return failed(
            "model", f"{seen.name}: {seen.fault}", "Put the right folder or hub id into [model] path."
        )
    plan = seen.plan
    longest = "not limited" if plan.max_prompt is None else f"{plan.max_prompt:,} tokens"
    found = f"{seen.name}: weights {gb(plan.model.weights)}, longest prompt {longest}"
    if plan.model.weights > plan.ceiling.bytes:
        return failed("model", found, " ".join(plan.warnings))
    if plan.warnings:
        return warning("model", found, " ".join(plan.warnings))
    return ok("model", found)
