"""Learning curves as SVG: one line for each row of the table, the mean over its seeds."""

from __future__ import annotations

import importlib.resources
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from kdcache.errors import DataError, UsageError
from kdcache.experiments.sweep_folders import Student
from kdcache.pictures import svg
from kdcache.pictures.axes import ticks
from kdcache.pictures.curves import VALIDATION_LOSS, read_curves

# The margins hold type that is nearly twice as large, with which the numbers can be read on a telephone.
SHEET = svg.Sheet(width=720, height=420, left=84, right=28, top=14, bottom=54)
# Losses fall steeply at first; only the steps after this share of them decide how high the picture is.
_SETTLED = 0.25
# How many colours and patterns of dashes the style sheet has.
COLOURS, DASHES = 8, 4


@dataclass(frozen=True, slots=True)
class Line:
    """One row's mean over its seeds, at the steps at which all of them were validated."""

    row: str
    points: tuple[tuple[int, float], ...]


def mean_lines(students: Sequence[Student]) -> list[Line]:
    """The validation losses of rows whose runs have some."""
    return means([(student.run.row, _points(student.folder)) for student in students])


def means(curves: Sequence[tuple[str, Mapping[int, float]]]) -> list[Line]:
    """The mean curve of each row that has points; `curves` are the rows and points of single runs."""
    by_row: dict[str, list[Mapping[int, float]]] = {}
    for row, points in curves:
        if points:
            by_row.setdefault(row, []).append(points)
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


def palette() -> str:
    """The style sheet of all kinds of line."""
    return (importlib.resources.files("kdcache.experiments") / "templates" / "palette.css").read_text(encoding="utf-8")


def kind(number: int) -> str:
    """The class of line `number`: a colour, and other dashes once the colours are used up."""
    return f"curve c{number % COLOURS} d{number // COLOURS % DASHES}"


def picture(lines: Sequence[Line]) -> Markup:
    """The lines over each other; at least one."""
    last = max(step for line in lines for step, _ in line.points)
    settled = [value for line in lines for step, value in line.points if step >= _SETTLED * last]
    across, down = ticks(0, last), ticks(min(settled), max(settled))
    area = svg.frame((across[0], across[-1]), (down[0], down[-1]), SHEET)
    drawn = [svg.curve(area, line.points, kind(number), line.row) for number, line in enumerate(lines)]
    parts = [
        svg.y_axis(area, "nats a target", down),
        svg.clipped(area, "inside", drawn),
        svg.x_axis(area, "optimizer step", across),
    ]
    ends = "; ".join(f"{line.row}: {line.points[-1][1]:.4g}" for line in lines)
    return svg.picture("Validation loss over optimizer steps", f"At the end {ends}", parts, SHEET)


def legend(lines: Sequence[Line]) -> list[tuple[Markup, str]]:
    """A short piece of each line, and the row that it stands for."""
    return [(svg.key(kind(number)), line.row) for number, line in enumerate(lines)]
