"""The report on a sweep: its results as JSON, its tables in Markdown, and both with learning curves as one page."""

from __future__ import annotations

import importlib.resources
import shlex
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kdcache.console import tables
from kdcache.console.progress import duration
from kdcache.errors import DataError, UsageError
from kdcache.experiments.sweep_file import Student, Sweep
from kdcache.experiments.sweep_folders import Checker
from kdcache.experiments.sweep_results import (
    Contrast,
    Outcome,
    Rows,
    collect,
    contrast_rows,
    contrasts,
    notes,
    spreads,
    value_rows,
)
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import log, versions
from kdcache.files.strict_json import readable_json
from kdcache.pictures import svg
from kdcache.pictures.axes import ticks
from kdcache.pictures.curves import VALIDATION_LOSS, read_curves
from kdcache.pictures.html_page import render_page
from kdcache.process.signals import StopRequest

RESULTS_FILE, TABLE_FILE, PAGE_FILE = "results.json", "table.md", "index.html"
# The margins hold type that is nearly twice as large, with which the numbers can be read on a telephone.
SHEET = svg.Sheet(width=720, height=420, left=84, right=28, top=14, bottom=54)
# Losses fall steeply at first; only the steps after this share of them decide how high the picture is.
_SETTLED = 0.25
# How many colours and patterns of dashes the style sheet has.
COLOURS, DASHES = 8, 4

# Mean curves by row: step and value of each point.
Lines = dict[str, list[tuple[int, float]]]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a sweep as terminal, Markdown and page show them.

    Attributes:
        sweep: with the folders of its students.
        outcomes: the finished runs.
        contrasts: differences to the baseline.
        others: folders in the output that belong to no run.
    """

    sweep: Sweep
    outcomes: list[Outcome]
    contrasts: list[Contrast]
    others: int = 0

    @property
    def tables(self) -> list[tuple[str | None, Rows]]:
        """The tables with their headings; the first row of each is its header."""
        tables: list[tuple[str | None, Rows]] = [(None, value_rows(self.sweep, self.outcomes))]
        if self.contrasts:
            tables.append((f"Against {self.sweep.baseline}", contrast_rows(self.contrasts)))
        return tables

    @property
    def notes(self) -> list[str]:
        """Sentences that explain the numbers, and how the scores were made."""
        return notes(self.outcomes, self.sweep.baseline if self.contrasts else None)

    def text(self) -> str:
        """The tables for a terminal."""
        return "\n\n".join(tables.table(rows) for _, rows in self.tables)

    def markdown(self) -> str:
        """Tables and notes in Markdown."""
        parts = [f"# {tables.escape(self.sweep.file.name)}"]
        for heading, rows in self.tables:
            parts.extend([f"## {tables.escape(heading)}"] if heading else [])
            parts.append(tables.markdown_table([[*map(tables.escape, row)] for row in rows], numbers=True))
        return "\n\n".join([*parts, *map(tables.escape, self.notes)]) + "\n"

    def page(self) -> str:
        """Tables, notes, learning curves, and each run with the command that repeats it, as HTML."""
        finished = {outcome.name: outcome for outcome in self.outcomes}
        students = self.sweep.students
        lines = mean_curves([(student.row, _validation_losses(student.folder)) for student in students])
        commands = [shlex.join(["kdcache", *student.arguments]) for student in students]
        facts = [_facts(student, finished.get(student.name)) for student in students]
        values = {
            "title": self.sweep.file.name,
            "finished": len(self.outcomes),
            "planned": tables.count(len(students), "run"),
            "tables": self.tables,
            "baseline": self.sweep.baseline,
            "notes": self.notes,
            "curves": picture(lines) if lines else None,
            "legend": legend(lines),
            "runs": list(zip(facts, commands, strict=True)),
            "others": self.others,
        }
        return render_page("kdcache.experiments", "sweep", "sweep.html", values, ("palette.css", "sweep.css"))

    def json(self) -> dict[str, Any]:
        """The content of `results.json`."""
        finished = {outcome.name for outcome in self.outcomes}
        return {
            "file": self.sweep.file.name,
            "versions": versions(),
            "baseline": self.sweep.baseline,
            "rows": [
                {"row": row, "values": {column: asdict(spread) for column, spread in columns.items()}}
                for row, columns in spreads(self.outcomes).items()
            ],
            "differences": [asdict(contrast) for contrast in self.contrasts],
            "runs": [asdict(outcome) for outcome in self.outcomes],
            "unfinished": [student.name for student in self.sweep.students if student.name not in finished],
            "not_listed": self.others,
        }


def write_report(sweep: Sweep, others: int, checker: Checker, stop: StopRequest) -> str:
    """Score what is finished, write `results.json`, `table.md` and `index.html`, and return the tables as text.

    Raises:
        StoppedError: a signal asked to stop.
        CorruptError: a run's record lacks its result.
    """
    outcomes = collect(sweep, checker, stop)
    report = Report(sweep, outcomes, contrasts(outcomes, sweep, stop), others)
    replace_file(sweep.output / RESULTS_FILE, readable_json(report.json()))
    replace_file(sweep.output / TABLE_FILE, report.markdown().encode())
    replace_file(sweep.output / PAGE_FILE, report.page().encode())
    if others:
        lie = "is" if others == 1 else "are"
        log.info(
            "%s: %s not in the file %s left alone and not in the table.", sweep.output, tables.count(others, "run"), lie
        )
    log.info("%s: the table as a page; %s and %s lie beside it.", sweep.output / PAGE_FILE, TABLE_FILE, RESULTS_FILE)
    return report.text()


def _facts(student: Student, outcome: Outcome | None) -> str:
    """What is known of a run, in a line."""
    elsewhere = "" if student.folder.name == student.name else f" (in {student.folder.name})"
    if outcome is None:
        return f"{student.name}{elsewhere}: not finished"
    steps = ", ".join(f"{step:,}" for step in outcome.exported_steps)
    trained = f"trained for {duration(outcome.seconds)}"
    return f"{student.name}{elsewhere}: step {steps}, {trained}, weights {outcome.student[:12]}"


def _validation_losses(folder: Path) -> dict[int, float]:
    try:
        return dict(read_curves([folder], VALIDATION_LOSS)[0].finite)
    except (DataError, UsageError):
        return {}  # no validation text, or none validated yet


def mean_curves(curves: Sequence[tuple[str, Mapping[int, float]]]) -> Lines:
    """The mean curve of each row at the steps that all its runs have; `curves` are rows and points of single runs."""
    by_row: dict[str, list[Mapping[int, float]]] = {}
    for row, points in curves:
        if points:
            by_row.setdefault(row, []).append(points)
    lines = {}
    for row, runs in by_row.items():
        steps = sorted(set(runs[0]).intersection(*runs[1:]))
        if steps:
            lines[row] = [(step, statistics.fmean(run[step] for run in runs)) for step in steps]
    return lines


def palette() -> str:
    """The style sheet of all kinds of line."""
    return (importlib.resources.files("kdcache.experiments") / "templates" / "palette.css").read_text(encoding="utf-8")


def kind(number: int) -> str:
    """The class of line `number`: a colour, and other dashes once the colours are used up."""
    return f"curve c{number % COLOURS} d{number // COLOURS % DASHES}"


def picture(lines: Lines) -> Markup:
    """The lines over each other; there must be at least one."""
    last = max(step for points in lines.values() for step, _ in points)
    settled = [value for points in lines.values() for step, value in points if step >= _SETTLED * last]
    across, down = ticks(0, last), ticks(min(settled), max(settled))
    area = svg.frame((across[0], across[-1]), (down[0], down[-1]), SHEET)
    drawn = [svg.curve(area, points, kind(number), row) for number, (row, points) in enumerate(lines.items())]
    parts = [
        svg.y_axis(area, "nats a target", down),
        svg.clipped(area, "inside", drawn),
        svg.x_axis(area, "optimizer step", across),
    ]
    ends = "; ".join(f"{row}: {points[-1][1]:.4g}" for row, points in lines.items())
    return svg.picture("Validation loss over optimizer steps", f"At the end {ends}", parts, SHEET)


def legend(lines: Lines) -> list[tuple[Markup, str]]:
    """A short piece of each line, and the row that it stands for."""
    return [(svg.key(kind(number)), row) for number, row in enumerate(lines)]
