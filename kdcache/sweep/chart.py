"""Learning curves as an SVG inside a page: one line for each row, the mean over its seeds."""

from __future__ import annotations

import html
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.curves import VALIDATION_LOSS, read_curves
from kdcache.errors import DataError, UsageError
from kdcache.report import Axis, ticks
from kdcache.sweep.folders import Student

_WIDTH, _HEIGHT = 720, 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 16, 12, 44
# Losses fall steeply at first; from here on the lines decide how high the picture is.
_SETTLED = 0.25
COLOURS = 8
_DASHES = ("", "6 3", "2 3", "10 3 2 3")


@dataclass(frozen=True, slots=True)
class Line:
    """One row's mean over its seeds, at the steps at which all of them were validated."""

    row: str
    points: tuple[tuple[int, float], ...]

    def style(self, number: int) -> str:
        """Class and dashes of line `number`: a colour, and other dashes once the colours are used up."""
        dashes = _DASHES[number // COLOURS % len(_DASHES)]
        return f'class="c{number % COLOURS}"' + (f' stroke-dasharray="{dashes}"' if dashes else "")


def mean_lines(students: Sequence[Student]) -> list[Line]:
    """The validation losses of rows whose runs have some."""
    by_row: dict[str, list[dict[int, float]]] = {}
    for student in students:
        points = _points(student.folder)
        if points:
            by_row.setdefault(student.run.row, []).append(points)
    lines = []
    for row, runs in by_row.items():
        steps = sorted(set(runs[0]).intersection(*runs[1:]))
        lines.append(Line(row, tuple((step, statistics.fmean(run[step] for run in runs)) for step in steps)))
    return [line for line in lines if line.points]


def _points(folder: Path) -> dict[int, float]:
    try:
        (curve,) = read_curves([folder], VALIDATION_LOSS)
    except (DataError, UsageError):
        return {}  # no validation text, or none validated yet
    return dict(curve.known)


def svg(lines: Sequence[Line]) -> str:
    """The picture; at least one line."""
    last = max(step for line in lines for step, _ in line.points)
    settled = [value for line in lines for step, value in line.points if step >= _SETTLED * last]
    across = Axis(ticks(0, last), _WIDTH - _LEFT - _RIGHT)
    down = Axis(ticks(min(settled), max(settled)), _HEIGHT - _TOP - _BOTTOM)
    bottom = _HEIGHT - _BOTTOM
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Validation loss over optimizer steps">',
        f'<clipPath id="inside"><rect x="{_LEFT}" y="{_TOP}" width="{across.cells}" height="{down.cells}"/></clipPath>',
    ]
    for value, label in zip(down.ticks, down.labels(), strict=True):
        y = bottom - down.cell(value)
        parts.append(f'<path class="grid" d="M{_LEFT} {y}H{_WIDTH - _RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{label}</text>')
    for value, label in zip(across.ticks, across.labels(), strict=True):
        x = _LEFT + across.cell(value)
        parts.append(f'<text x="{x}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    parts.append(f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 6}" text-anchor="middle">optimizer step</text>')
    parts.append('<g clip-path="url(#inside)">')
    for number, line in enumerate(lines):
        places = " ".join(f"{_LEFT + across.cell(step)},{bottom - down.cell(value)}" for step, value in line.points)
        parts.append(f'<polyline {line.style(number)} points="{places}"><title>{html.escape(line.row)}</title>')
        parts.append("</polyline>")
    return "\n".join([*parts, "</g>", "</svg>"])


def legend(lines: Sequence[Line]) -> str:
    """Which line is which row."""
    items = [
        f'<li><svg viewBox="0 0 32 10" class="key"><path {line.style(number)} d="M0 5H32"/></svg>'
        f"{html.escape(line.row)}</li>"
        for number, line in enumerate(lines)
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'
