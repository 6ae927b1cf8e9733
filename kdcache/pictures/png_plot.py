"""Curves of training runs as a PNG, drawn by matplotlib."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kdcache.errors import UsageError
from kdcache.files.atomic import check_replaceable, replace_file
from kdcache.pictures.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette, which every kind of colour vision tells apart, with its yellow darkened for white paper.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8A7500")
_LINES = ("-", "--", "-.", ":")
_SYMBOLS = "os^DvP*X"
_SOFTWARE = "kdcache curves"


def check_png(output: Path) -> None:
    """Refuse a file that cannot become a picture, before anything is read.

    Raises:
        UsageError: the file's name does not end in .png.
        OutputError: the file exists and kdcache did not draw it.
    """
    if output.suffix.lower() != ".png":
        raise UsageError(f"--output {output}: the picture is a PNG; its name must end in .png.")
    check_replaceable(output, _SOFTWARE, "picture")


def save_png(curves: Sequence[Curve], output: Path) -> None:
    """Draw curves over each other into a PNG, with a mark at the best step of each.

    Raises:
        UsageError: matplotlib is not installed, or `check_png` refuses the file.
        OutputError: the file cannot be written, or `check_png` refuses it.
    """
    check_png(output)
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UsageError(
            f"--output {output}: drawing a PNG needs matplotlib. Run pip install matplotlib, or leave --output "
            "out: the curves are drawn in the terminal."
        ) from None
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    _draw(figure.add_subplot(), curves)
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": _SOFTWARE})
    replace_file(output, data.getvalue())


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
    # The labels are handed over, since matplotlib leaves out a label that begins with an underscore.
    labels = [f"{curve.name}: {curve.best[1]:.4g} at step {curve.best[0]:,}" for curve in curves]
    axes.set_xlabel("optimizer step")
    axes.set_ylabel(curves[0].title)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.9")
    legend = axes.legend(axes.get_lines(), labels, frameon=False, title="best", handlelength=3)
    for text in legend.get_texts():
        # The name of a folder is no formula.
        text.set_parse_math(False)
