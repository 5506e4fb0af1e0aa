"""`mlxguard-proxy plan`: prints what fits on this machine and why; runs no child and downloads nothing."""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Iterator
from typing import Any

import orjson

from proxy.config.folders import cache_folder, state_folder
from proxy.config.settings import Settings
from proxy.exit_codes import ExitCode
from proxy.planning.learned_limits import LearnedLimits
from proxy.planning.learned_state import LearnedFile
from proxy.planning.model_defaults import described, sampling_defaults, thinking_switches
from proxy.planning.planner import Planner, local_folder
from proxy.request.model_names import served_name
from supervisor.memory_model.ceiling import gb
from supervisor.memory_model.plan import SESSION, SESSIONS, Plan
from supervisor.model.resolve import ModelFacts, ModelUnavailable, describe


def run(settings: Settings, *, as_json: bool) -> int:
    """Print the plan to stdout; the exit code is one of `ExitCode`."""
    logging.getLogger("mlxguard").addHandler(logging.NullHandler())  # the plan says the same
    try:
        folder = local_folder(settings, cache_folder())
        facts = describe(folder)
        limits = LearnedLimits(LearnedFile(state_folder(settings.supervisor.state_dir)))
        plan = asyncio.run(Planner(settings, cache_folder(), limits).plan(folder))
    except (ModelUnavailable, OSError, ValueError) as failure:
        sys.stderr.write(f"{failure}\n")
        return ExitCode.CONFIGURATION
    name = settings.model.served_name or served_name(settings.model.path)
    used = settings.request.model_sampling_defaults
    sampling = sampling_defaults(folder, settings.upstream.args) if used else {}
    switches = thinking_switches(folder)
    if as_json:
        more = {
            "learned": limits.document(),
            "sampling_defaults": sampling,
            "thinking_switches": list(switches),
        }
        whole = document(plan, facts, name) | more
        text = orjson.dumps(whole, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()
    else:
        lines = [
            screen(plan, facts, name, limits.factors),
            "",
            "Requests",
            f"  {'sampling':<{_NAME - 2}}{described(sampling)}",
            f"  {'thinking':<{_NAME - 2}}{_thinking(switches)}",
        ]
        text = "\n".join(lines) + "\n"
    sys.stdout.write(text)
    return ExitCode.OK


def _thinking(switches: tuple[str, ...]) -> str:
    return f"the template reads {', '.join(switches)}" if switches else "the template has no switch"


#: Width of the column with the names, in characters.
_NAME = 17
NOT_CORRECTED = (1.0, 1.0)


def screen(plan: Plan, facts: ModelFacts, name: str, factors: tuple[float, float] = NOT_CORRECTED) -> str:
    """The plan for people, in 80 columns where possible.

    `factors`: the gate's factors on predicted costs, for one request alone and for several.
    """
    lines = [f"{label:<{_NAME}}{text}" for label, text in _rows(plan, facts, name)]
    if factors != NOT_CORRECTED:
        shown = f"x {factors[0]:.2f} alone, x {factors[1]:.2f} together, learned from finished requests"
        lines.append(f"{'cost correction':<{_NAME}}{shown}")
    lines += ["", "Longest session, with equal lengths in all of them", *_sessions(plan)]
    lines += ["", "Server flags", *_flags(plan)]
    remarks = [*plan.warnings, *plan.advice]
    return "\n".join([*lines, *(["", "Advice"] if remarks else []), *(f"  {each}" for each in remarks)])


def document(plan: Plan, facts: ModelFacts, name: str) -> dict[str, Any]:
    """The plan for programs, with sizes in bytes and lengths in tokens."""
    cost_model = plan.model.cost_model
    return {
        "model": {
            "name": name,
            "architecture": facts.architecture,
            "layers": facts.layers,
            "context_length": facts.context_length,
            "weights_bytes": plan.model.weights,
        },
        "kv": {
            "exact": plan.model.traced.reason is None,
            "bytes_per_token": cost_model.bytes_per_row,
            "windows": [{"rows": rows, "bytes_per_row": size} for rows, size in cost_model.windows.items()],
            "constant_bytes": cost_model.constant,
            "bytes_at": {str(rows): cost_model.cold(rows) for rows in (1024, 8192, SESSION)},
        },
        "ceiling": {
            "bytes": plan.ceiling.bytes,
            "source": plan.ceiling.source,
            "others": [{"bytes": bound.bytes, "source": bound.source} for bound in plan.ceiling.others],
        },
        "headroom_bytes": plan.headroom,
        "largest_rows": {str(members): rows for members, rows in plan.fits.items()},
        "max_prompt_tokens": plan.max_prompt,
        "max_running": plan.running,
        "max_active_kv_bytes": plan.max_active_kv,
        "flags": [
            {"name": c.flag, "value": c.value, "reason": c.reason, "given": c.given} for c in plan.choices
        ],
        "mlx_cache_limit": plan.cache_limit.value if plan.cache_limit else None,
        "warnings": list(plan.warnings),
        "advice": list(plan.advice),
    }


def _rows(plan: Plan, facts: ModelFacts, name: str) -> Iterator[tuple[str, str]]:
    yield "model", _model(facts, name)
    yield "weights", gb(plan.model.weights)
    yield "ceiling", f"{gb(plan.ceiling.bytes)}: {plan.ceiling.source}"
    for bound in plan.ceiling.others:
        yield "", f"({gb(bound.bytes)}: {bound.source})"
    mlx = f", and {gb(plan.cache_limit.value)} for memory that MLX retains" if plan.cache_limit else ""
    yield "left for prompts", gb(max(0, plan.headroom)) + mlx
    yield "KV per token", _kv(plan)
    yield "longest prompt", _longest(plan, facts)


def _model(facts: ModelFacts, name: str) -> str:
    parts = (
        facts.architecture,
        f"{facts.layers} layers" if facts.layers else None,
        f"{facts.quantization_bits} bits" if facts.quantization_bits else facts.dtype,
        f"context {facts.context_length:,}" if facts.context_length else None,
    )
    return f"{name} ({', '.join(part for part in parts if part)})"


def _kv(plan: Plan) -> str:
    cost_model = plan.model.cost_model
    parts = [f"{cost_model.bytes_per_row:,} bytes"]
    parts += [f"{size:,} up to a window of {rows:,}" for rows, size in sorted(cost_model.windows.items())]
    if cost_model.constant:
        parts.append(f"{gb(cost_model.constant)} at any length")
    return " + ".join(parts) + ("" if plan.model.traced.reason is None else " (upper bound)")


def _longest(plan: Plan, facts: ModelFacts) -> str:
    if plan.max_prompt is None:
        return "not limited"
    source = " (the model's context)" if plan.max_prompt == facts.context_length else ""
    return f"{plan.max_prompt:,} tokens{source}"


def _sessions(plan: Plan) -> Iterator[str]:
    for members in SESSIONS:
        rows = plan.fits[members]
        number = "alone" if members == 1 else f"{members} at once"
        kv = f"  ({gb(members * plan.model.cost_model.cold(rows))} of KV)" if rows else ""
        yield f"  {number:<{_NAME - 2}}{rows:>9,} tokens{kv}"


def _flags(plan: Plan) -> Iterator[str]:
    for choice in plan.choices:
        value = f"{choice.flag} {choice.value}" if choice.given else f"({choice.flag})"
        yield f"  {value:<34}{choice.reason}"
    if plan.cache_limit is not None:
        yield f"  {f'MLX cache limit {gb(plan.cache_limit.value)}':<34}{plan.cache_limit.reason}"
