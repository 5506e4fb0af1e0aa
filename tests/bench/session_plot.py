"""Draws turns done over time, coloured by the share of each prompt that came from the cache. SVG, by hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from tests.bench.turns import End, Turn

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _BOTTOM, _TOP = 860, 420, 56, 150, 44, 56
_NAMES = {"fixed": "best fixed flags", "before": "in order of arrival", "today": "sessions take turns"}


def draw(path: Path, sides: Mapping[str, Sequence[Turn]], seconds: float) -> None:
    """Write the picture of one scene, the turns of each side being one line."""
    done = {
        side: sorted((turn for turn in turns if turn.end is End.COMPLETE), key=lambda turn: turn.ended)
        for side, turns in sides.items()
    }
    most = max((len(turns) for turns in done.values()), default=0) or 1
    parts = [*_axes(seconds, most)]
    for side, turns in done.items():
        parts += _line(_NAMES.get(side, side), turns, seconds, most)
    body = "\n".join(parts)
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12">\n<rect width="100%" height="100%" fill="white"/>\n{body}\n</svg>\n'
    )


def _x(at: float, seconds: float) -> float:
    return _LEFT + at / seconds * (_WIDTH - _LEFT - _RIGHT)


def _y(turns: float, most: int) -> float:
    return _HEIGHT - _BOTTOM - turns / (1.08 * most) * (_HEIGHT - _BOTTOM - _TOP)


def _axes(seconds: float, most: int) -> Iterator[str]:
    yield _text(
        _LEFT, 20, "Turns done by agents whose sessions do not all fit", 'font-size="14" font-weight="bold"'
    )
    yield _text(
        _LEFT, 38, "each dot is one turn: blue if its prompt came from the cache, red if it was read anew"
    )
    step = next(each for each in (5, 10, 20, 50, 100, 200, 500, 1000, 5000) if most / each <= 8)
    for turns in range(0, most + step, step):
        if _y(turns, most) > _TOP:
            yield f'<path d="M{_LEFT} {_y(turns, most):.1f}H{_WIDTH - _RIGHT}" stroke="#e4e4e4"/>'
            yield _text(_LEFT - 8, _y(turns, most) + 4, str(turns), 'text-anchor="end"')
    apart = next(each for each in (5, 10, 20, 50, 100, 500) if seconds / each <= 10)
    for at in range(0, int(seconds) + 1, apart):
        yield _text(_x(at, seconds), _HEIGHT - _BOTTOM + 18, f"{at} s", 'text-anchor="middle"')


def _line(name: str, turns: Sequence[Turn], seconds: float, most: int) -> Iterator[str]:
    points = [
        (_x(min(turn.ended, seconds), seconds), _y(number, most)) for number, turn in enumerate(turns, 1)
    ]
    if not points:
        return
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in [(_x(0, seconds), _y(0, most)), *points])
    yield f'<polyline points="{path}" fill="none" stroke="#888" stroke-width="1"/>'
    for (x, y), turn in zip(points, turns, strict=True):
        colour = _colour(turn.cached_tokens / max(1, turn.prompt_tokens))
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.6" fill="{colour}"/>'
    yield _text(points[-1][0] + 8, points[-1][1] + 4, f"{name}: {len(turns)}")


def _colour(share: float) -> str:
    """From red to blue."""
    red, blue = (192, 57, 43), (31, 111, 178)
    return "#" + "".join(f"{round(a + share * (b - a)):02x}" for a, b in zip(red, blue, strict=True))


def _text(x: float, y: float, words: str, more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" {more}>{words}</text>'
