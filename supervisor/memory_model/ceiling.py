"""Pure. The ceiling: the most memory that the child may use, and which of the machine's bounds sets it."""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

_MIB = 2**20
#: Share of the memory that is left for the system and other programs to grow into, beyond what they use now.
_RESERVE = 0.05
#: Bounds on that reserve, in bytes.
_LEAST_RESERVE, _MOST_RESERVE = 512 * _MIB, 4096 * _MIB
#: Reserve for CUDA's own context and kernels, which no MLX counter includes (some 500 MB on an H200).
_CUDA_RESERVE = 1024 * _MIB


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of the machine, in bytes; None where it has no such value."""

    total: int
    available: int  # RAM that can be allocated without swapping
    backend: str = "cpu"
    working_set: int | None = None  # recommended by Metal (`mx.device_info`)
    wired_limit: int | None = None  # `sysctl iogpu.wired_limit_mb`; replaces the working set when it is not 0
    cgroup_limit: int | None = None  # of the tightest control group around this process
    cgroup_used: int = 0  # without the page cache
    gpu_total: int | None = None  # the card's memory, with the CUDA build
    gpu_free: int | None = None


@dataclass(frozen=True, slots=True)
class Bound:
    """One limit on the child's memory."""

    bytes: int
    source: str  # a clause: "memory free now, less 4.0 GB for the system"


@dataclass(frozen=True, slots=True)
class Ceiling:
    """The bound in force, and the other bounds that were considered."""

    bytes: int
    source: str
    others: tuple[Bound, ...] = field(default=())
    exceeds: Bound | None = None  # a bound of the machine below what was configured
    wired_mb: int | None = None  # a better iogpu.wired_limit_mb, where Metal's own bound is in force


def ceiling(
    readings: Readings,
    *,
    configured: int | None = None,
    reserve: int | None = None,
    child: int = 0,
    learned: Bound | None = None,
) -> Ceiling:
    """Find the most memory that the child may use.

    Args:
        configured: `[memory] max_active_memory_bytes`; it replaces the machine's bounds.
        reserve: `[memory] reserve_system_bytes`; None uses `default_reserve`.
        child: bytes that the child already has, which count as free.
        learned: the bound learned from deaths, which applies in addition to either.
    """
    by_size = attrgetter("bytes")
    bounds = sorted(_bounds(readings, reserve, child), key=by_size)
    from_deaths = () if learned is None else (learned,)
    if configured is None:
        lowest, *others = sorted((*bounds, *from_deaths), key=by_size)
        metal = readings.wired_limit or readings.working_set
        wired_mb = advised_wired_limit(readings) if lowest.bytes == metal else None
        return Ceiling(lowest.bytes, lowest.source, tuple(others), wired_mb=wired_mb)
    fixed = Bound(configured, "memory.max_active_memory_bytes")
    lowest, *others = sorted((fixed, *from_deaths), key=by_size)
    exceeds = bounds[0] if lowest is fixed and bounds[0].bytes < configured else None
    return Ceiling(lowest.bytes, lowest.source, (*others, *bounds), exceeds)


def default_reserve(readings: Readings) -> int:
    """Bytes left to other programs where `reserve_system_bytes` is "auto"."""
    whole = min(readings.total, readings.cgroup_limit or readings.total)
    return max(_LEAST_RESERVE, min(_MOST_RESERVE, round(whole * _RESERVE)))


def advised_wired_limit(readings: Readings) -> int | None:
    """MiB for `sudo sysctl iogpu.wired_limit_mb=N` where that allows over 5 % more; otherwise None.

    Metal recommends two thirds to three quarters of RAM. A machine that only serves the model can give it
    all but an eighth, but must leave at least 6 GiB for everything else.
    """
    if readings.backend != "metal":
        return None
    now = readings.wired_limit or readings.working_set or 0
    wanted = readings.total - max(6 * 1024 * _MIB, readings.total // 8)
    return wanted // _MIB // 256 * 256 if wanted > 1.05 * now else None


def _bounds(readings: Readings, reserve: int | None, child: int) -> list[Bound]:
    if readings.backend == "cuda" and readings.gpu_free is not None:
        left = _CUDA_RESERVE if reserve is None else reserve
        free = max(0, readings.gpu_free + child - left)
        return [Bound(free, f"GPU memory free now, less {gb(left)} for CUDA itself")]
    left = default_reserve(readings) if reserve is None else reserve
    less = f", less {gb(left)} for the system"
    bounds = [Bound(max(0, readings.available + child - left), f"memory free now{less}")]
    if readings.wired_limit:
        bounds.append(Bound(readings.wired_limit, "iogpu.wired_limit_mb"))
    elif readings.working_set:
        bounds.append(Bound(readings.working_set, "Metal's recommended working set"))
    if readings.cgroup_limit is not None:
        free = readings.cgroup_limit - max(0, readings.cgroup_used - child)
        bounds.append(Bound(max(0, free - left), f"the control group's limit{less}"))
    return bounds


def gb(size: float) -> str:
    """Format a size in decimal gigabytes, as in proxy.toml, or in megabytes below one gigabyte."""
    return f"{size / 10**9:.1f} GB" if size >= 10**9 else f"{size / 10**6:.0f} MB"
