"""Draws the memory of the bare and the guarded server over time: run by a Python that has matplotlib.

python tests/campaign/plot.py CAMPAIGN_MEMORY.json PICTURE.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

COLOURS = {"bare": "#c0392b", "guarded": "#2471a3"}


def draw(document: dict[str, Any], target: Path) -> None:
    """Of the first seed."""
    runs, limit = document["seeds"][0]["runs"], document["limit"] / 2**20
    figure, axes = plt.subplots(figsize=(9, 3.6), layout="constrained")
    for side, colour in COLOURS.items():
        curve = runs[side]["curve"]
        times, sizes = [at for at, _ in curve], [size / 2**20 for _, size in curve]
        end = "then it died" if runs[side]["died"] else "alive"
        axes.plot(times, sizes, color=colour, lw=1.2, label=f"{side}: {runs[side]['turns']} turns, {end}")
        if runs[side]["died"]:
            last = max(place for place, size in enumerate(sizes) if size)
            axes.plot(times[last], sizes[last], "x", color=colour, ms=10, mew=2)
    axes.axhline(limit, color="black", ls="--", lw=1, label="all that there is")
    axes.axhline(limit * document["told"], color="black", ls=":", lw=1, label="what the guard was told of it")
    axes.set(xlabel="seconds", ylabel="MiB beside the loaded model", xlim=(0, None), ylim=(0, limit * 1.1))
    axes.legend(loc="best", fontsize="small")
    figure.savefig(target, dpi=120)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
