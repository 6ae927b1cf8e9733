"""The report on a sweep: its results as JSON, its tables in Markdown, and both with learning curves as one page."""

from __future__ import annotations

import dataclasses
import importlib.resources
import shlex
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from kdcache.console import markdown, tables
from kdcache.console.progress import duration
from kdcache.errors import DataError, UsageError
from kdcache.experiments.sweep_file import Student, SweepConfig
from kdcache.experiments.sweep_folders import Checker
from kdcache.experiments.sweep_results import (
    Outcome,
    collect,
    contrast_rows,
    contrasts,
    notes,
    runs_text,
    spreads,
    value_rows,
)
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import log, versions
from kdcache.files.strict_json import readable_json
from kdcache.pictures import svg
from kdcache.pictures.axes import ticks
from kdcache.pictures.curves import VALIDATION_LOSS, read_curves
from kdcache.pictures.html_page import Pages
from kdcache.process.signals import StopRequest

RESULTS_FILE, TABLE_FILE, PAGE_FILE = "results.json", "table.md", "index.html"
# The margins hold type that is nearly twice as large, with which the numbers can be read on a telephone.
SHEET = svg.Sheet(width=720, height=420, left=84, right=28, top=14, bottom=54)
# Losses fall steeply at first; only the steps after this share of them decide how high the picture is.
_SETTLED = 0.25
# How many colours and patterns of dashes the style sheet has.
COLOURS, DASHES = 8, 4

Rows = Sequence[tuple[str, ...]]
# Mean curves by row: step and value of each point.
Lines = dict[str, list[tuple[int, float]]]


def write_report(
    sweep: SweepConfig, students: Sequence[Student], others: int, checker: Checker, stop: StopRequest
) -> str:
    """Score what is finished, write `results.json`, `table.md` and `index.html`, and return the tables as text.

    `others` is the number of folders in the output that belong to no run.

    Raises:
        StoppedError: a signal asked to stop.
        CorruptError: a run's record lacks its result.
    """
    outcomes = collect(students, sweep.tests, checker, stop)
    output, title, by_row = Path(sweep.output), sweep.file.name, spreads(outcomes)
    differences = contrasts(outcomes, sweep, stop)
    values, compared = value_rows(students, outcomes), contrast_rows(differences)
    sentences = notes(outcomes, sweep.baseline if differences else None)
    finished = {outcome.name for outcome in outcomes}
    results = {
        "file": title,
        "versions": versions(),
        "baseline": sweep.baseline,
        "rows": [
            {"row": row, "values": {column: dataclasses.asdict(spread) for column, spread in columns.items()}}
            for row, columns in by_row.items()
        ],
        "differences": [dataclasses.asdict(difference) for difference in differences],
        "runs": [dataclasses.asdict(outcome) for outcome in outcomes],
        "unfinished": [student.name for student in students if student.name not in finished],
        "not_listed": others,
    }
    replace_file(output / RESULTS_FILE, readable_json(results))
    replace_file(output / TABLE_FILE, markdown_page(title, sweep.baseline, values, compared, sentences).encode())
    page = sweep_page(title, sweep.baseline, values, compared, sentences, students, outcomes, others)
    replace_file(output / PAGE_FILE, page.encode())
    if others:
        log.info("%s: %s that the file does not list are left alone and not in the table.", output, runs_text(others))
    log.info("%s: the table as a page; %s and %s lie beside it.", output / PAGE_FILE, TABLE_FILE, RESULTS_FILE)
    return "\n\n".join(tables.table(rows) for rows in (values, compared) if len(rows) > 1)


def markdown_page(
    title: str,
    baseline: str | None,
    values: Sequence[tuple[str, ...]],
    compared: Sequence[tuple[str, ...]],
    sentences: Sequence[str],
) -> str:
    """Both tables and the notes in Markdown."""
    tables_of = [[[markdown.escape(cell) for cell in row] for row in rows] for rows in (values, compared)]
    parts = [f"# {markdown.escape(title)}", markdown.table(tables_of[0], numbers=True)]
    if len(compared) > 1:
        parts.extend((f"## Against {markdown.escape(str(baseline))}", markdown.table(tables_of[1], numbers=True)))
    return "\n\n".join([*parts, *map(markdown.escape, sentences)]) + "\n"


def sweep_page(
    title: str,
    baseline: str | None,
    values: Rows,
    compared: Rows,
    sentences: Sequence[str],
    students: Sequence[Student],
    outcomes: Sequence[Outcome],
    others: int,
) -> str:
    """Tables, learning curves, and each run with the command that repeats it, as HTML."""
    finished = {outcome.name: outcome for outcome in outcomes}
    lines = mean_curves([(student.row, _validation_losses(student.folder)) for student in students])
    content = {
        "title": title,
        "finished": len(outcomes),
        "planned": runs_text(len(students)),
        "values": values,
        "baseline": baseline,
        "contrasts": compared if len(compared) > 1 else None,
        "notes": sentences,
        "curves": picture(lines) if lines else None,
        "legend": legend(lines),
        "runs": [
            (_facts(student, finished.get(student.name)), shlex.join(["kdcache", *student.arguments]))
            for student in students
        ],
        "others": others,
    }
    return Pages("kdcache.experiments", "sweep", ("palette.css", "sweep.css")).render("sweep.html", content)


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
        return dict(read_curves([folder], VALIDATION_LOSS)[0].known)
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
