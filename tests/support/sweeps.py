"""Small sweeps for tests: a synthetic cache, a few lines of text, and the file of a sweep beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caches import LINES, make_plan, write_cache

from kdcache.cli.sweep import read_student, student_options
from kdcache.experiments.sweep_file import ScoredText, Settings, Student, Sweep, command_line, read_sweep
from kdcache.experiments.sweep_results import results as results_of
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
    settings: Settings = {"cache": "c", "seed": seed, "device": "cpu"}
    place = folder / f"{'odd' if row == ODD else row},seed={seed}"
    return Student(f"{row},seed={seed}", row, settings, read_student(command_line(settings)), place)


def outcome(student: Student, bleu: float, loss: float, written: Sequence[str]) -> dict[str, Any]:
    """A finished run with this validation loss and this score of what it has written."""
    student.folder.mkdir()
    student.hypotheses(TEXT).write_text("".join(f"{line}\n" for line in written))
    lines = (f'{{"step": {step}, "valid_nll": {loss + 10 / step}}}\n' for step in (10, 20, 40))
    (student.folder / "metrics.jsonl").write_text("".join(lines))
    return {
        "name": student.name,
        "row": student.row,
        "seed": student.config.training.seed,
        "folder": student.folder.name,
        "exported_steps": [40],
        "valid_nll": loss,
        "scores": {"t": [{"name": "bleu", "value": bleu, "signature": "nrefs:1|x"}]},
        "student": "ab" * 32,
        "seconds": 61.0,
    }


def sweep_of(
    students: Sequence[Student], outcomes: Sequence[dict[str, Any]], title: str = "<i>.toml"
) -> tuple[Sweep, dict[str, Any]]:
    """A sweep of these students, of which some are finished, and its results."""
    sweep = Sweep(Path(title), Path(), "plain", (TEXT,), tuple(students))
    return sweep, results_of(sweep, outcomes, 3, StopRequest())
