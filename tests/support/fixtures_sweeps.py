"""Outcomes of a sweep that never ran."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kdcache.experiments.sweep_results import Outcome


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Two rows of two seeds, and a third seed of the first row alone."""
    from sweeps import ODD, REFERENCE, WORSE, outcome

    monkeypatch.chdir(tmp_path)
    Path("test.tgt").write_text("".join(f"{line}\n" for line in REFERENCE))
    return [
        outcome(tmp_path, "plain", 1, 10.0, 2.0, WORSE),
        outcome(tmp_path, "plain", 2, 14.0, 2.2, WORSE),
        outcome(tmp_path, "plain", 3, 99.0, 9.0, WORSE),
        outcome(tmp_path, ODD, 1, 13.0, 1.5, REFERENCE),
        outcome(tmp_path, ODD, 2, 15.0, 1.5, WORSE),
    ]
