"""Writing what came out of a sweep: `results.json`, `table.md` and `index.html`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdcache.console import tables
from kdcache.experiments.sweep_file import SweepConfig
from kdcache.experiments.sweep_folders import Checker, Student
from kdcache.experiments.sweep_grid import rows_of
from kdcache.experiments.sweep_page import page
from kdcache.experiments.sweep_results import Outcome, collect, column_of, contrasts, spreads
from kdcache.experiments.sweep_table import Report, contrast_cells, markdown, value_cells
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import log, versions
from kdcache.files.strict_json import readable_json
from kdcache.process.signals import StopRequest

RESULTS_FILE = "results.json"
TABLE_FILE = "table.md"
PAGE_FILE = "index.html"


def write_report(
    sweep: SweepConfig, students: Sequence[Student], others: int, checker: Checker, stop: StopRequest
) -> str:
    """Score what is finished, write the three files into the sweep's folder, and return the tables as text.

    `others` is the number of folders there that belong to no run.

    Raises:
        StoppedError: a signal asked to stop.
    """
    outcomes = collect(students, sweep.tests, checker, stop)
    runs = [one.run for one in students]
    report = Report(
        title=sweep.file.name,
        rows=rows_of(runs),
        planned=dict(Counter(run.row for run in runs)),
        finished=dict(Counter(one.student.run.row for one in outcomes)),
        spreads=spreads(outcomes),
        contrasts=[] if sweep.baseline is None else contrasts(outcomes, sweep.baseline, sweep.tests, stop),
        baseline=sweep.baseline,
        metrics=_signatures(sweep, outcomes),
    )
    output = Path(sweep.output)
    replace_file(output / RESULTS_FILE, readable_json(_results(sweep, report, outcomes, students, others)))
    replace_file(output / TABLE_FILE, markdown(report).encode())
    replace_file(output / PAGE_FILE, page(report, students, outcomes, others).encode())
    if others:
        log.info("%s: %s runs that the file does not list are left alone and not in the table.", output, others)
    log.info("%s: the table as a page; %s and %s lie beside it.", output / PAGE_FILE, TABLE_FILE, RESULTS_FILE)
    text = tables.table(value_cells(report))
    return text if not report.contrasts else f"{text}\n\n{tables.table(contrast_cells(report))}"


def _signatures(sweep: SweepConfig, outcomes: Sequence[Outcome]) -> dict[str, str]:
    found = {}
    for one in outcomes:
        for text in sweep.tests:
            found.update({column_of(text, score["name"]): score["signature"] for score in one.scores[text.name]})
    return found


def _results(
    sweep: SweepConfig, report: Report, outcomes: Sequence[Outcome], students: Sequence[Student], others: int
) -> dict[str, Any]:
    finished = {one.student.run.name for one in outcomes}
    return {
        "file": sweep.file.name,
        "versions": versions(),
        "baseline": sweep.baseline,
        "rows": [
            {"row": row, "values": {column: dataclasses.asdict(one) for column, one in values.items()}}
            for row, values in report.spreads.items()
        ],
        "differences": [dataclasses.asdict(one) for one in report.contrasts],
        "runs": [one.as_json() for one in outcomes],
        "unfinished": [one.run.name for one in students if one.run.name not in finished],
        "not_listed": others,
    }
