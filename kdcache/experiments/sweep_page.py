"""A sweep as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kdcache.console.progress import duration
from kdcache.experiments.sweep_chart import legend, mean_lines, palette, picture
from kdcache.experiments.sweep_folders import Student
from kdcache.experiments.sweep_results import Outcome
from kdcache.experiments.sweep_table import Report, Rows, contrast_cells, notes, value_cells
from kdcache.pictures.markup import document, escape, resource, section, table, tag


def page(report: Report, students: Sequence[Student], outcomes: Sequence[Outcome], others: int) -> str:
    """Tables, learning curves, and each run with the command that repeats it."""
    parts = [
        tag("h1", {}, escape(report.title)),
        tag("p", {}, f"{len(outcomes)} of {len(students)} runs are finished."),
        _table(value_cells(report), report.baseline),
    ]
    if report.contrasts:
        parts.append(section(f"Against {report.baseline}", _table(contrast_cells(report))))
    parts.extend(_note(note) for note in notes(report))
    parts.append(_curves(students))
    parts.append(section("Runs", _runs(students, outcomes, others)))
    style = palette() + resource("kdcache.experiments", "sweep.css")
    return document(report.title, "sweep", style, tag("main", {}, "\n".join(parts)))


def _table(cells: Rows, marked: str | None = None) -> str:
    return table(cells[0], cells[1:], marked)


def _note(text: str) -> str:
    return tag("p", {"class": "note"}, escape(text))


def _curves(students: Sequence[Student]) -> str:
    lines = mean_lines(students)
    if not lines:
        return ""
    caption = (
        "Mean over seeds. The height is that of the values after the first quarter of the steps; earlier ones may lie "
        "above it."
    )
    drawn = picture(lines) + legend(lines) + tag("figcaption", {}, caption)
    return section("Validation loss", tag("figure", {}, drawn))


def _runs(students: Sequence[Student], outcomes: Sequence[Outcome], others: int) -> str:
    finished = {one.student.run.name: one for one in outcomes}
    intro = (
        "Each command is run in the folder of the sweep's file. Its record (run.json), curves and weights are in its "
        "folder; what it wrote for the test texts and its scores lie beside that."
    )
    runs = "\n".join(_run(student, finished.get(student.run.name)) for student in students)
    unlisted = _note(f"{others} more runs in this folder are not listed in the file.") if others else ""
    return f"{_note(intro)}\n{runs}\n{unlisted}"


def _run(student: Student, outcome: Outcome | None) -> str:
    if outcome is None:
        facts = "not finished"
    else:
        steps = ", ".join(f"{step:,}" for step in outcome.exported_steps)
        facts = f"step {steps}, trained for {duration(outcome.seconds)}, weights {outcome.weights[:12]}"
    name, folder = student.run.name, student.folder.name
    elsewhere = "" if folder == name else f" (in {folder})"
    command = shlex.join(["kdcache", *student.arguments])
    said = tag("summary", {}, escape(f"{name}{elsewhere}: {facts}")) + tag("pre", {}, escape(command))
    return tag("details", {"class": "run"}, said)
