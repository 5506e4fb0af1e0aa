"""Draws a campaign's curves of memory: `python -m tests.campaign.memory_plot RESULT.json OUT.svg`.

SVG, by hand: two axes and three lines are no reason for a library.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 860, 440, 64, 16, 96, 44
_COLOURS = {"fixed": "#9a9a9a", "guarded": "#1f6fb2", "bare": "#c0392b"}
_MIB = 2**20
#: Seconds between two marks of the axis: the first of which ten are enough.
_APART = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class _Scale:
    """From seconds and bytes to places in the picture."""

    def __init__(self, seconds: float, size: float) -> None:
        self.seconds, self.size = seconds, size

    def x(self, seconds: float) -> float:
        return _LEFT + seconds / self.seconds * (_WIDTH - _LEFT - _RIGHT)

    def y(self, size: float) -> float:
        return _HEIGHT - _BOTTOM - size / self.size * (_HEIGHT - _BOTTOM - _TOP)


def picture(result: dict[str, Any]) -> str:
    """The curves of the first seed, and the limit."""
    first = result["seeds"][0]
    runs = {name: first["runs"][name] for name in _COLOURS if first["runs"].get(name, {}).get("curve")}
    seconds = max(run["curve"][-1][0] for run in runs.values())
    scale = _Scale(seconds, 1.12 * result["limit"])
    parts = [*_axes(scale, result["limit"])]
    for name, run in runs.items():
        parts += _line(run, scale, _COLOURS[name])
    for row, name in enumerate(reversed(runs)):
        parts += _key(row, _words(name, first), _COLOURS[name])
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _axes(scale: _Scale, limit: int) -> Iterator[str]:
    words = "Memory of the model server beside the loaded model: three agents in growing sessions"
    yield _text(_LEFT, 18, words, 'font-size="14" font-weight="bold"')
    step = 100 if limit > 200 * _MIB else 20
    for mib in range(0, int(scale.size / _MIB) + 1, step):
        yield _rule(scale.y(mib * _MIB), 'stroke="#e4e4e4"')
        yield _text(_LEFT - 8, scale.y(mib * _MIB) + 4, str(mib), 'text-anchor="end"')
    yield _text(_LEFT - 8, _TOP - 6, "MiB", 'text-anchor="end"')
    apart = next(each for each in _APART if scale.seconds / each <= 10)
    for at in range(0, int(scale.seconds) + 1, apart):
        yield _text(scale.x(at), _HEIGHT - _BOTTOM + 18, str(at), 'text-anchor="middle"')
    middle = (_LEFT + _WIDTH - _RIGHT) / 2
    yield _text(middle, _HEIGHT - _BOTTOM + 34, "seconds at work", 'text-anchor="middle"')
    yield _rule(scale.y(limit), 'stroke="black" stroke-width="1.5" stroke-dasharray="6 4"')
    words = f"limit, {limit / _MIB:.0f} MiB: an allocation beyond it fails"
    yield _text(_WIDTH - _RIGHT - 4, scale.y(limit) - 6, words, 'text-anchor="end"')


def _line(run: dict[str, Any], scale: _Scale, colour: str) -> Iterator[str]:
    curve = [sample for sample in run["curve"] if sample[1] > 0]  # a server that has ended holds nothing
    points = " ".join(f"{scale.x(at):.1f},{scale.y(size):.1f}" for at, size in curve)
    yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.4"/>'
    if run["died"]:
        x, y = scale.x(curve[-1][0]), scale.y(curve[-1][1])
        arms = f"M{x - 7:.1f} {y - 7:.1f}l14 14m0 -14l-14 14"
        yield f'<path d="{arms}" stroke="{colour}" stroke-width="3.5" class="death"/>'
        yield _text(x + 14, y + 20, f"dies in turn {run['turns'] + 1}", f'fill="{colour}" font-weight="bold"')


def _words(name: str, seed: dict[str, Any]) -> str:
    run = seed["runs"][name]
    many = seed.get("at_a_time")
    what = {
        "bare": "bare mlx_lm.server, its own defaults",
        "guarded": "the same server behind mlxguard-proxy",
        "fixed": f"bare, {many} at a time: the best fixed number that lives through it",
    }[name]
    return f"{what}: {run['turns']} turns" + (", then dead" if run["died"] else "")


def _key(row: int, words: str, colour: str) -> Iterator[str]:
    y = _HEIGHT - 44 + 17 * row
    yield f'<line x1="{_LEFT}" x2="{_LEFT + 26}" y1="{y}" y2="{y}" stroke="{colour}" stroke-width="3"/>'
    yield _text(_LEFT + 34, y + 4, words, "")


def _rule(y: float, style: str) -> str:
    return f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}" {style}/>'


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{words}</text>'


def main(argv: Sequence[str]) -> int:
    source, target = argv
    Path(target).write_text(picture(json.loads(Path(source).read_text())))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
