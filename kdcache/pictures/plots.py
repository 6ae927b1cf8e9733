"""Pictures: the curves of training runs, as text for a terminal and as a PNG."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.console import tables
from kdcache.errors import OutputError, UsageError
from kdcache.files.atomic import replace_file
from kdcache.pictures.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = "ox+*#@%&"
# Okabe and Ito's palette, yellow darkened for white paper: told apart with every kind of colour vision.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7500")
_LINES = ("-", "--", "-.", ":")
_SYMBOLS = "os^DvP*X"
_SOFTWARE = "kdcache curves"
_ROWS = 17
_COLUMNS_MIN = 20
_INTERVALS = 4
_SMALLEST = 1e-300


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of `cells` character cells; its ticks are multiples of one round number and span the data."""

    ticks: tuple[float, ...]
    cells: int

    def cell(self, value: float) -> int:
        """The cell of a value, from 0 for the first tick."""
        first, last = self.ticks[0], self.ticks[-1]
        return round((value - first) / (last - first) * (self.cells - 1))

    def labels(self) -> list[str]:
        """The ticks as text, with the decimals that tell them apart."""
        digits = max(0, -math.floor(math.log10(self.ticks[1] - self.ticks[0]) + 1e-9))
        size = max(abs(self.ticks[0]), abs(self.ticks[-1]))
        short = size < (1e9 if digits == 0 else 1e6) and digits <= 5
        return [f"{value:,.{digits}f}" if short else f"{value:.4g}" for value in self.ticks]


def ticks(low: float, high: float, intervals: int = _INTERVALS) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten: the first at most `low`, the last at least `high`, two at least.

    There are about `intervals` steps between them, mostly fewer.
    """
    size = max(abs(low), abs(high))
    # Smaller numbers lose their digits; they are drawn as 0.
    size = size if size > _SMALLEST else 1.0
    if high - low < 1e-6 * size:
        low, high = low - size / 20, high + size / 20
    rough = (high - low) / intervals
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(factor for factor in (1, 2, 5, 10) if factor * power >= rough or factor == 10) * power
    return tuple(unit * i for i in range(math.floor(low / unit), math.ceil(high / unit) + 1))


def plot(curves: Sequence[Curve], width: int) -> str:
    """Draw curves over each other in a text of at most `width` columns (but 20 cells); markers take turns in a cell."""
    values = [value for curve in curves for _, value in curve.known]
    down = Axis(ticks(min(values), max(values)), _ROWS)
    margin = max(map(len, down.labels()))
    steps = [step for curve in curves for step, _ in curve.known]
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
    """Columns and rows (from the bottom) of the points and of straight lines between neighbours that are both known."""
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
    """Legend and table: marker and name, how many points, the best value and its step, the last."""
    rows = [("run", "points", "best", "at step", "last", "at step")]
    room = max(12, width - 55)
    for marker, curve in zip(MARKERS, curves, strict=False):
        name = curve.name if len(curve.name) <= room else "…" + curve.name[1 - room :]
        pairs = [(f"{value:.4g}", f"{step:,}") for step, value in (curve.best, curve.known[-1])]
        rows.append((f"{marker} {name}", f"{len(curve.known):,}", *pairs[0], *pairs[1]))
    return tables.table(rows)


def check_count(curves: Sequence[object]) -> None:
    """Raise UsageError if there are more curves than markers."""
    if len(curves) > len(MARKERS):
        raise UsageError(f"At most {len(MARKERS)} runs can be told apart in one picture, not {len(curves)}.")


def save_png(curves: Sequence[Curve], output: Path) -> None:
    """Draw curves over each other into a PNG, with a mark at the best step of each.

    Raises:
        UsageError: matplotlib is not installed, or the file's name does not end in .png.
        OutputError: the file is another one's, or cannot be written.
    """
    check_png(output)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            f"--output {output}: drawing a PNG needs matplotlib. Run pip install matplotlib, or leave --output "
            "out: the curves are drawn in the terminal."
        ) from None
    refuse_strangers(output, _SOFTWARE, "picture")
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    _draw(figure.add_subplot(), curves)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": _SOFTWARE})
    replace_file(output, data.getvalue())


def check_png(output: Path) -> None:
    """Raise UsageError unless a picture may have this name."""
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: the picture is a PNG; its name must end in .png.")


def refuse_strangers(output: Path, mark: str, kind: str) -> None:
    """Only what was made here is replaced, which its `mark` says; `kind` is what people call it.

    Raises:
        OutputError: the file exists without the mark, or its folder is missing.
    """
    if not output.parent.is_dir():
        raise OutputError(f"{output}: its folder does not exist. Create it first.")
    if output.exists() and not (output.is_file() and mark.encode() in output.read_bytes()):
        raise OutputError(f"{output}: exists, and is no {kind} that kdcache drew. Move it away first.")


def _draw(axes: Axes, curves: Sequence[Curve]) -> None:
    for number, curve in enumerate(curves):
        axes.plot(
            [step for step, _ in curve.points],
            [math.nan if value is None else value for _, value in curve.points],
            linestyle=_LINES[number % len(_LINES)],
            color=_COLOURS[number],
            linewidth=1.6,
            marker=_SYMBOLS[number],
            markevery=[curve.points.index(curve.best)],
            markersize=9,
            markeredgecolor="white",
        )
    # Handed over, since a label that begins with an underscore would be left out otherwise.
    labels = [f"{one.name}: {one.best[1]:.4g} at step {one.best[0]:,}" for one in curves]
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(curves[0].title)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    legend = axes.legend(axes.get_lines(), labels, frameon=False, title="best", handlelength=3)
    for text in legend.get_texts():
        # A folder's name is no formula.
        text.set_parse_math(False)
