"""Outcomes of a sweep that never ran."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from kdcache.experiments.sweep_file import Student


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Student, dict[str, Any]]]:
    """Two rows of two seeds, and a third seed of the first row alone."""
    from sweeps import ODD, REFERENCE, WORSE, outcome, student_of

    monkeypatch.chdir(tmp_path)
    Path("test.tgt").write_text("".join(f"{line}\n" for line in REFERENCE))
    made = [
        (student_of(tmp_path, "plain", 1), 10.0, 2.0, WORSE),
        (student_of(tmp_path, "plain", 2), 14.0, 2.2, WORSE),
        (student_of(tmp_path, "plain", 3), 99.0, 9.0, WORSE),
        (student_of(tmp_path, ODD, 1), 13.0, 1.5, REFERENCE),
        (student_of(tmp_path, ODD, 2), 15.0, 1.5, WORSE),
    ]
    return [(student, outcome(student, *result)) for student, *result in made]


@pytest.fixture
def outcomes(finished: list[tuple[Student, dict[str, Any]]]) -> list[dict[str, Any]]:
    """The outcomes alone."""
    return [outcome for _, outcome in finished]


@pytest.fixture
def students(finished: list[tuple[Student, dict[str, Any]]]) -> list[Student]:
    """The students alone."""
    return [student for student, _ in finished]
