"""A sweep as one HTML page that needs nothing beside itself."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kdcache.console.progress import duration
from kdcache.experiments.sweep_chart import legend, mean_lines, picture
from kdcache.experiments.sweep_folders import Student
from kdcache.experiments.sweep_results import Outcome
from kdcache.experiments.sweep_table import Report, contrast_cells, notes, value_cells
from kdcache.pictures.html_page import Pages


def page(report: Report, students: Sequence[Student], outcomes: Sequence[Outcome], others: int) -> str:
    """Tables, learning curves, and each run with the command that repeats it."""
    finished = {one.student.run.name: one for one in outcomes}
    lines = mean_lines(students)
    values = {
        "title": report.title,
        "finished": len(outcomes),
        "planned": len(students),
        "values": value_cells(report),
        "baseline": report.baseline,
        "contrasts": contrast_cells(report) if report.contrasts else None,
        "notes": notes(report),
        "curves": picture(lines) if lines else None,
        "legend": legend(lines),
        "runs": [_run(student, finished.get(student.run.name)) for student in students],
        "others": others,
    }
    return Pages("kdcache.experiments", "sweep", ("palette.css", "sweep.css")).render("sweep.html", values)


def _run(student: Student, outcome: Outcome | None) -> tuple[str, str]:
    """What is known of a run, and the command that repeats it."""
    if outcome is None:
        facts = "not finished"
    else:
        steps = ", ".join(f"{step:,}" for step in outcome.exported_steps)
        facts = f"step {steps}, trained for {duration(outcome.seconds)}, weights {outcome.weights[:12]}"
    name, folder = student.run.name, student.folder.name
    elsewhere = "" if folder == name else f" (in {folder})"
    return f"{name}{elsewhere}: {facts}", shlex.join(["kdcache", *student.arguments])
