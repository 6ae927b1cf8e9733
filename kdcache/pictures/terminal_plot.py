"""Curves of training runs drawn with characters, for a terminal."""

import itertools
from collections.abc import Iterator, Sequence

from kdcache.console import tables
from kdcache.errors import UsageError
from kdcache.pictures.axes import Axis, ticks
from kdcache.pictures.curves import Curve

MARKERS = "ox+*#@%&"
_ROWS = 17
_COLUMNS_MIN = 20


def plot(curves: Sequence[Curve], width: int) -> str:
    """Draw curves over each other, in `width` columns or in 20 cells if these need more.

    Curves that share a cell show their markers in turns.

    Raises:
        UsageError: there are more curves than markers.
    """
    if len(curves) > len(MARKERS):
        raise UsageError(f"At most {len(MARKERS)} runs can be told apart in one picture, not {len(curves)}.")
    values = [value for curve in curves for _, value in curve.finite]
    down = Axis(ticks(min(values), max(values)), _ROWS)
    margin = max(map(len, down.labels()))
    steps = [step for curve in curves for step, _ in curve.finite]
    across = Axis(ticks(0, max(steps)), max(_COLUMNS_MIN, width - margin - 2))
    cells: dict[tuple[int, int], list[str]] = {}
    for marker, curve in zip(MARKERS, curves, strict=False):
        for cell in sorted(set(_cells(curve, across, down))):
            cells.setdefault(cell, []).append(marker)
    named = dict(zip(map(down.cell, down.ticks), down.labels(), strict=True))
    lines = []
    for row in reversed(range(_ROWS)):
        shown = [cells.get((column, row), [" "]) for column in range(across.cells)]
        drawn = "".join(markers[column % len(markers)] for column, markers in enumerate(shown))
        lines.append(f"{named.get(row, ''):>{margin}} {'+' if row in named else '|'}{drawn}".rstrip())
    return "\n".join([*lines, *_foot(across, margin)])


def _cells(curve: Curve, across: Axis, down: Axis) -> Iterator[tuple[int, int]]:
    """Columns and rows (from the bottom) of points, and of straight lines between neighbours that are both finite."""
    places = [None if value is None else (across.cell(step), down.cell(value)) for step, value in curve.points]
    yield from (place for place in places if place is not None)
    for start, end in itertools.pairwise(places):
        if start is not None and end is not None:
            count = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
            for i in range(1, count):
                yield tuple(round(a + (b - a) * i / count) for a, b in zip(start, end, strict=True))  # type: ignore[misc]


def _foot(across: Axis, margin: int) -> list[str]:
    places = [across.cell(tick) for tick in across.ticks]
    rule = "".join("+" if column in places else "-" for column in range(across.cells))
    names = ""
    for place, label in zip(places, across.labels(), strict=True):
        start = min(max(0, place - len(label) // 2), across.cells - len(label))
        if start > len(names) or not names:
            names = names.ljust(start) + label
    indent = " " * margin
    return [f"{indent} +{rule}", f"{indent}  {names}", f"{indent}  {'optimizer step':^{across.cells}}".rstrip()]


def summary(curves: Sequence[Curve], width: int) -> str:
    """Legend and table: marker and name, number of points, and the best and the last value with their steps."""
    rows = [("run", "points", "best", "at step", "last", "at step")]
    room = max(12, width - 55)
    for marker, curve in zip(MARKERS, curves, strict=False):
        name = curve.name if len(curve.name) <= room else "…" + curve.name[1 - room :]
        pairs = [(f"{value:.4g}", f"{step:,}") for step, value in (curve.best, curve.finite[-1])]
        rows.append((f"{marker} {name}", f"{len(curve.finite):,}", *pairs[0], *pairs[1]))
    return tables.table(rows)
