"""A sweep's numbers as tables: cells for the terminal, for Markdown and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.console.markdown import escape, table
from kdcache.experiments.sweep_results import VALIDATION, Contrast, Spread

Rows = list[tuple[str, ...]]
EMPTY = "–"


@dataclass(frozen=True, slots=True)
class Report:
    """What tables and page show.

    Attributes:
        title: the name of the sweep's file.
        rows: of the table, finished or not.
        planned, finished: seeds of each row; one without finished ones may be missing from the latter.
        spreads: by row and column.
        contrasts: against `baseline`, if there is one.
        baseline: name of its row, or None.
        metrics: signature of each column's metric.
    """

    title: str
    rows: list[str]
    planned: dict[str, int]
    finished: dict[str, int]
    spreads: dict[str, dict[str, Spread]]
    contrasts: list[Contrast]
    baseline: str | None
    metrics: dict[str, str]

    @property
    def columns(self) -> list[str]:
        """All columns that any row has a value for."""
        return list(dict.fromkeys(column for one in self.spreads.values() for column in one))


def value_cells(report: Report) -> Rows:
    """Mean and standard deviation of each row, under a header."""
    cells = [("settings", "seeds", *map(heading, report.columns))]
    for row in report.rows:
        own = report.spreads.get(row, {})
        values = (spread_words(own.get(column), column) for column in report.columns)
        cells.append((row, seeds_words(report, row), *values))
    return cells


def contrast_cells(report: Report) -> Rows:
    """Differences to the baseline, under a header; nothing but the header where there are none."""
    cells: Rows = [("settings", "metric", "difference", "seeds", "p")]
    for one in report.contrasts:
        p_value = EMPTY if one.p_value is None else f"{one.p_value:.3f}"
        difference = spread_words(one.spread, one.column, sign="+")
        cells.append((one.row, heading(one.column), difference, str(one.spread.n), p_value))
    return cells


def heading(column: str) -> str:
    """A column's name for people."""
    return "validation loss" if column == VALIDATION else column


def spread_words(spread: Spread | None, column: str, sign: str = "") -> str:
    """`28.31 ± 0.42`; without the second number where there is one seed."""
    if spread is None:
        return EMPTY
    digits = 4 if column == VALIDATION else 2
    mean = f"{spread.mean:{sign}.{digits}f}"
    return mean if spread.deviation is None else f"{mean} ± {spread.deviation:.{digits}f}"


def seeds_words(report: Report, row: str) -> str:
    """How many seeds of a row are finished, and of how many where some are not."""
    done, planned = report.finished.get(row, 0), report.planned[row]
    return str(done) if done == planned else f"{done} of {planned}"


def notes(report: Report) -> list[str]:
    """What the numbers are, in sentences; then how the scores were made."""
    said = [
        "Mean ± sample standard deviation over seeds. The validation loss is in nats a target, of what was exported."
    ]
    if report.contrasts:
        said.append(
            f"Differences are those to {report.baseline}, between runs of the same seed. p is that of sacreBLEU's "
            "paired bootstrap test over the test sentences, which counts one tail, with the outputs of all these seeds "
            "one behind the other. It covers the choice of sentences, not that of the seeds, and takes the outputs of "
            "several seeds for one "
            "sentence as independent, which makes it rather too small; the deviation of the difference says what the "
            "seed does."
        )
    columns: dict[str, list[str]] = {}
    for column, signature in report.metrics.items():
        columns.setdefault(signature, []).append(column)
    return [*said, *(f"{', '.join(names)}: {signature}" for signature, names in columns.items())]


def markdown(report: Report) -> str:
    """The tables as a Markdown page."""
    parts = [f"# {escape(report.title)}", _escaped_table(value_cells(report))]
    if report.contrasts:
        parts.extend((f"## Against {escape(str(report.baseline))}", _escaped_table(contrast_cells(report))))
    parts.extend(escape(note) for note in notes(report))
    return "\n\n".join(parts) + "\n"


def _escaped_table(rows: Sequence[Sequence[str]]) -> str:
    return table([[escape(cell) for cell in row] for row in rows], numbers=True)
