"""Small sweeps for tests: a synthetic cache, a few lines of text, and the file of a sweep beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caches import LINES, make_plan, write_cache

from kdcache.cli.sweep import read_student, student_options
from kdcache.experiments.sweep_file import ScoredText, Student, Sweep, read_sweep
from kdcache.experiments.sweep_report import Report
from kdcache.experiments.sweep_results import Outcome, contrasts
from kdcache.process.signals import StopRequest

BASE = """
[base]
cache = "cache"
valid_source = "valid.src"
valid_target = "valid.tgt"
device = "cpu"
max_tokens = 300
"""
TEST = """
[test.t]
source = "test.src"
reference = "test.tgt"
metrics = ["bleu", "chrf"]
"""


def write_inputs(folder: Path) -> None:
    """A cache, validation text and test text."""
    write_cache(folder / "cache", make_plan())
    for name, lines in (("valid.src", LINES), ("valid.tgt", LINES[::-1]), ("test.src", LINES[:3])):
        (folder / name).write_text("".join(f"{line}\n" for line in lines))
    (folder / "test.tgt").write_text("".join(f"{line}\n" for line in LINES[1:4]))


def write_file(folder: Path, *parts: str) -> Path:
    """A sweep's file of these parts."""
    file = folder / "sweep.toml"
    file.write_text("\n".join(parts), encoding="utf-8")
    return file


def read(folder: Path, *parts: str) -> Sweep:
    """What a file of these parts says."""
    return read_sweep(write_file(folder, *parts), student_options(), read_student)


def results(folder: Path) -> dict[str, Any]:
    """`results.json` without the one thing that a clock measured."""
    content: dict[str, Any] = json.loads((folder / "sweep" / "results.json").read_text())
    for run in content["runs"]:
        assert run.pop("seconds") > 0
    return content


def names(sweep: Sweep) -> list[str]:
    """Names of the students' folders."""
    return [student.name for student in sweep.students]


# What came of one that never ran

TEXT = ScoredText("t", "test.src", ("test.tgt",), ("bleu",))
REFERENCE = [f"the quick brown fox number {number} jumps over the lazy dog" for number in range(12)]
WORSE = [line.replace("lazy", "old") if number % 2 else line for number, line in enumerate(REFERENCE)]
ODD = "<b>&'\"|`"


def student_of(folder: Path, row: str, seed: int) -> Student:
    """A student of a row, in a folder called like its run but for the odd row."""
    arguments = ("--cache", "c", "--seed", str(seed), "--device", "cpu")
    place = folder / f"{'odd' if row == ODD else row},seed={seed}"
    return Student(f"{row},seed={seed}", row, {"seed": seed}, arguments, read_student(arguments), place)


def outcome(student: Student, bleu: float, loss: float, written: Sequence[str]) -> Outcome:
    """A finished run with this validation loss and this score of what it has written."""
    student.folder.mkdir()
    student.hypotheses(TEXT).write_text("".join(f"{line}\n" for line in written))
    lines = (f'{{"step": {step}, "valid_nll": {loss + 10 / step}}}\n' for step in (10, 20, 40))
    (student.folder / "metrics.jsonl").write_text("".join(lines))
    scores = {"t": [{"name": "bleu", "value": bleu, "signature": "nrefs:1|x"}]}
    name, row, seed = student.name, student.row, student.config.training.seed
    command = ["kdcache", *student.arguments]
    files = ("root", "ab" * 32, 61.0)
    return Outcome(name, row, seed, student.settings, student.folder.name, command, [40], loss, scores, *files)


def report_of(students: Sequence[Student], outcomes: Sequence[Outcome], title: str = "<i>.toml") -> Report:
    """The report on a sweep of these students, of which some are finished."""
    sweep = Sweep(Path(title), Path(), "plain", (TEXT,), tuple(students))
    return Report(sweep, list(outcomes), contrasts(outcomes, sweep, StopRequest()), others=3)
