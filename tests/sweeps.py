"""Small sweeps for tests: a synthetic cache, a few lines of text, and the file of a sweep beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caches import LINES, make_plan, write_cache

from kdcache.cli.sweep import read_student, student_options
from kdcache.sweep.config import SweepConfig, read_sweep
from kdcache.sweep.grid import Run, expand

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


def read(folder: Path, *parts: str) -> SweepConfig:
    """What a file of these parts says."""
    return read_sweep(write_file(folder, *parts), student_options())


def runs_of(sweep: SweepConfig) -> list[Run]:
    """The runs of a sweep."""
    return expand(sweep, read_student)


def results(folder: Path) -> dict[str, Any]:
    """`results.json` without the one thing that a clock measured."""
    content: dict[str, Any] = json.loads((folder / "sweep" / "results.json").read_text())
    for run in content["runs"]:
        assert run.pop("seconds") > 0
    return content


def names(runs: Sequence[Run]) -> list[str]:
    """Names of the runs' folders."""
    return [run.name for run in runs]
