"""Draws a campaign's curves of memory: `python -m tests.campaign.memory_plot RESULT.json OUT.svg`.

SVG, by hand: two axes and three lines are no reason for a library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 760, 320, 60, 44, 30
_COLOURS = {"bare": "#c0392b", "guarded": "#1f6fb2", "fixed": "#8a8a8a"}
_NAMES = {"bare": "bare server", "guarded": "guarded", "fixed": "bare, best fixed concurrency"}
_MIB = 2**20


class _Scale:
    """From seconds and bytes to places in the picture."""

    def __init__(self, seconds: float, size: float) -> None:
        self.seconds, self.size = seconds, size

    def x(self, seconds: float) -> float:
        return _LEFT + seconds / self.seconds * (_WIDTH - _LEFT - 12)

    def y(self, size: float) -> float:
        return _HEIGHT - _BOTTOM - size / self.size * (_HEIGHT - _BOTTOM - _TOP)


def picture(result: dict[str, Any]) -> str:
    """The curves of the first seed, and the limit."""
    runs = {name: run for name, run in result["seeds"][0]["runs"].items() if run["curve"]}
    seconds = max(run["curve"][-1][0] for run in runs.values())
    scale = _Scale(seconds, 1.1 * result["limit"])
    parts = [*_axes(scale, result["limit"])]
    for place, (name, run) in enumerate(runs.items()):
        parts += _line(name, run, scale, place)
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _axes(scale: _Scale, limit: int) -> Iterator[str]:
    step = max(1, round(limit / _MIB / 5 / 50)) * 50
    for mib in range(0, int(1.1 * limit / _MIB) + 1, step):
        y = scale.y(mib * _MIB)
        yield _rule(y, 'stroke="#e4e4e4"')
        yield _text(_LEFT - 6, y + 4, str(mib), 'text-anchor="end"')
    for fifth in range(6):
        at = scale.seconds * fifth / 5
        yield _text(scale.x(at), _HEIGHT - _BOTTOM + 16, f"{at:.0f} s", 'text-anchor="middle"')
    yield _text(_LEFT - 6, _TOP - 14, "MiB", 'text-anchor="end"')
    yield _rule(scale.y(limit), 'stroke="black" stroke-dasharray="5 4"')
    words = "limit: an allocation beyond it fails"
    yield _text(_WIDTH - 14, scale.y(limit) - 5, words, 'text-anchor="end"')


def _line(name: str, run: dict[str, Any], scale: _Scale, place: int) -> Iterator[str]:
    colour = _COLOURS[name]
    curve = [sample for sample in run["curve"] if sample[1] > 0]  # a server that has ended holds nothing
    points = " ".join(f"{scale.x(at):.1f},{scale.y(size):.1f}" for at, size in curve)
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.2"/>'
    if run["died"]:
        at, size = curve[-1]
        yield _text(scale.x(at) + 3, scale.y(size), "✝", f'fill="{colour}" font-size="16"')
    words = f"{_NAMES[name]}, {run['turns']} turns" + (", died" if run["died"] else "")
    yield _text(_LEFT + 4 + 190 * place, _HEIGHT - 6, f"— {words}", f'fill="{colour}"')


def _rule(y: float, style: str) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH - 12}" y1="{y:.1f}" y2="{y:.1f}" {style}/>'


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{words}</text>'


def main(argv: Sequence[str]) -> int:
    source, target = argv
    Path(target).write_text(picture(json.loads(Path(source).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
