"""`mlxguard-proxy crashes`: describes the crash reports of the state folder in words."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

Report = dict[str, Any]

#: Rows of the memory history that are shown: about one per five seconds.
_SHOWN_SAMPLES = 12

#: What describing a report raises if its content is not as it was written.
_DAMAGED = (ArithmeticError, AttributeError, LookupError, OSError, TypeError, ValueError)

#: The name under which the newest report is asked for.
_LAST = "last"


def choose(reports: Sequence[Report], wanted: str) -> Report | None:
    """Find the report with this id, or the only one whose id contains it; `last` is the newest."""
    if wanted == _LAST:
        return reports[-1] if reports else None
    found = [report for report in reports if wanted in report["id"]]
    exact = [report for report in found if report["id"] == wanted]
    return (exact or found)[0] if len(exact or found) == 1 else None


def listing(reports: Sequence[Report]) -> str:
    """List the crashes, one line each, the newest last."""
    if not reports:
        return "no crash has been recorded"
    rows: list[tuple[str, ...]] = [("id", "when", "cause", "in flight", "suspects", "then")]
    for report in reports:
        try:
            rows.append(_row(report))
        except _DAMAGED:
            rows.append((str(report["id"]), "-", "the report is damaged", "-", "-", "-"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def _row(report: Report) -> tuple[str, ...]:
    work = report["in_flight"]
    suspects = sum(1 for each in work if each["suspect"])
    then = report["done"][-1]["what"] if report["done"] else "-"
    return report["id"], _when(report), str(report["cause"]), str(len(work)), str(suspects), then


def explanation(report: Report) -> str:
    """Describe one crash in full."""
    try:
        return "\n".join(_explain(report))
    except _DAMAGED:
        return f"{report['id']}  the report is damaged; --json prints what is there"


def _explain(report: Report) -> Iterator[str]:
    yield f"{report['id']}  {_when(report)}  generation {report['generation']}, {report['state']}"
    yield f"cause    {report['cause']}: {report['explanation']}"
    yield f"advice   {report['advice']}"
    yield f"noticed  {report['symptom']}{_end(report)}, after {report['child']['ran_s']} s"
    yield f"flags    {' '.join(report['child']['flags'])}"
    yield from _plan(report["child"].get("plan"))
    yield from _in_flight(report["in_flight"])
    yield from _memory(report["child"])
    yield "done"
    for step in report["done"]:
        details = {name: value for name, value in step.items() if name not in ("after_s", "what")}
        shown = ", ".join(f"{name} {value}" for name, value in details.items() if value is not None)
        yield f"  {step['after_s']:8.3f} s  {step['what']:9} {shown}".rstrip()
    yield "last lines"
    yield from (f"  {line}" for line in report["last_lines"])


def _plan(plan: dict[str, Any] | None) -> Iterator[str]:
    """The ceiling and the plan that followed from it; reports of early versions have none."""
    if plan is None:
        return
    longest = "not limited" if plan["max_prompt"] is None else f"{plan['max_prompt']} tokens"
    yield f"plan     {_gb(plan['ceiling'])} allowed: {plan['ceiling_from']}"
    yield (
        f"         weights {_gb(plan['weights'])}, {plan['kv_per_token']} bytes per token of KV, "
        f"{plan['running']} together, longest prompt {longest}"
    )


def _cost(each: dict[str, Any]) -> str:
    predicted, observed = each.get("predicted_bytes"), each.get("seen_bytes")
    known = [f"{_gb(predicted)} predicted"] if predicted is not None else []
    known += [f"memory rose by {_gb(observed)}"] if observed is not None else []
    return "".join(f", {each}" for each in known)


def _gb(size: int) -> str:
    return f"{size / 1e9:.3f} GB"


def _in_flight(work: Sequence[dict[str, Any]]) -> Iterator[str]:
    yield f"in flight: {len(work)}"
    for each in work:
        progress = "{}/{}".format(*each["progress"]) if each["progress"] else ""
        refused = "" if each["refused_s"] is None else f", refused for {each['refused_s']:.0f} s"
        yield (
            f"  {each['answer_id']}  {each['fingerprint']}  {each['phase']} {progress} of "
            f"{each['prompt_tokens']} tokens, {each['completion_tokens']} generated, "
            f"attempt {each['attempts']}, {each['running_s']:.1f} s{_cost(each)}"
            f"{', suspect' if each['suspect'] else ''}{refused}"
        )


def _memory(child: dict[str, Any]) -> Iterator[str]:
    table = child["memory"]
    rows = table["rows"]
    if not rows:
        return
    yield "memory (GB)  " + "".join(name.rjust(10) for name in table["columns"])
    step = max(1, len(rows) // _SHOWN_SAMPLES)
    for age_s, *sizes in [*rows[:-1:step], rows[-1]]:
        cells = ("-" if size is None else f"{size / 1e9:.3f}" for size in sizes)
        yield " " * 13 + f"{age_s:10.1f}" + "".join(cell.rjust(10) for cell in cells)


def _end(report: Report) -> str:
    if report["signal"] is not None:
        return f" by signal {report['signal']}"
    return "" if report["exit_code"] is None else f" with code {report['exit_code']}"


def _when(report: Report) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(report["time"]))
