"""The figures of `make bench-gpu` as a table and as bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tests.bench.turns import End
from tests.figures import bar

#: A death must be known, and named as what it is, within this time of the server's first word of it.
NOTICED_S = 2.0
#: The scenario in which nothing is taken away, and the least part of the bare server's tokens/s there.
CALM = "calm"
CALM_SPEED = 0.9


@dataclass(slots=True)
class Outcome:
    """One side of one scenario; see `_row` for the units."""

    scenario: str
    side: str
    seconds: float
    turns: dict[str, int]
    lost: int
    tokens_per_s: float
    without_service_s: float
    longest_prompt: int
    room_gib: float
    peak_gib: float
    left_gib: float  # in use at the end
    deaths: list[dict[str, Any]]
    notes: dict[str, Any] = field(default_factory=dict)


HEADER = (
    "side",
    "turns survived",
    "lost (reset, empty, cut, silent)",
    "told (errors)",
    "compacted",
    "deaths",
    "no service, s",
    "tokens/s",
    "longest prompt",
    "peak of room, GiB",
    "held at end, GiB",
)


def table(outcomes: Sequence[Outcome]) -> str:
    """In Markdown, one block for each scenario."""
    lines: list[str] = []
    for scenario in dict.fromkeys(outcome.scenario for outcome in outcomes):
        lines += ["", f"**{scenario}**", "", _line(HEADER), _line(["---"] * len(HEADER))]
        lines += [_line(_row(outcome)) for outcome in outcomes if outcome.scenario == scenario]
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _row(outcome: Outcome) -> list[str]:
    ends = (End.RESET, End.EMPTY, End.CUT, End.SILENT)
    lost = ", ".join(str(outcome.turns.get(end.value, 0)) for end in ends)
    return [
        outcome.side,
        str(outcome.turns.get(End.COMPLETE.value, 0)),
        f"{outcome.lost} ({lost})",
        str(outcome.turns.get(End.ERROR.value, 0)),
        str(outcome.turns.get(End.COMPACTED.value, 0)),
        str(len(outcome.deaths)),
        f"{outcome.without_service_s:.1f} of {outcome.seconds:.0f}",
        f"{outcome.tokens_per_s:.1f}",
        str(outcome.longest_prompt),
        f"{outcome.peak_gib:.1f} of {outcome.room_gib:.1f}",
        f"{outcome.left_gib:.1f}",
    ]


def bars(outcomes: Sequence[Outcome]) -> bool:
    """Print each figure that has a limit; True if all hold."""
    bare = [outcome for outcome in outcomes if outcome.side == "bare" and outcome.scenario != CALM]
    guarded = [outcome for outcome in outcomes if outcome.side != "bare"]
    deaths = [death for outcome in guarded for death in outcome.deaths]
    noticed = max((death["noticed_s"] or 0.0 for death in deaths), default=0.0)
    held = [
        bar("gpu_bare_died", sum(bool(outcome.deaths) for outcome in bare), len(bare), at_least=True),
        bar("gpu_guarded_lost", sum(outcome.lost for outcome in guarded), 0),
        bar("gpu_noticed_s", noticed, NOTICED_S),
        bar("gpu_causes_not_oom", sum(death["cause"] != "cuda_oom" for death in deaths), 0),
    ]
    calm = {outcome.side: outcome.tokens_per_s for outcome in outcomes if outcome.scenario == CALM}
    if calm:
        share = calm["guarded"] / calm["bare"]
        held.append(bar("gpu_calm_speed_share", share, CALM_SPEED, at_least=True))
    return all(held)
