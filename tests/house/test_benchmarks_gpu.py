"""The benchmark for a GPU: its table says what came of each piece, and every piece runs."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT, run_python

sys.path.insert(0, str(ROOT))

from benchmarks import gpu
from benchmarks.gpu import Piece


def test_a_piece_that_fails_is_a_row(tmp_path: Path) -> None:
    """Figures, test counts, an error and a time-out each become rows, and what a piece started ends with it."""
    pieces = [
        Piece("figures", ("-c", "print('a'); print('{\"share_of_peak_bf16_base\": 0.5}')"), 60),
        Piece("tests", ("-c", "print('1 failed, 12 passed, 3 skipped in 2.00s'); raise SystemExit(1)"), 60),
        Piece("error", ("-c", "raise ValueError('no | GPU')"), 60),
        Piece("slow", ("-c", "import subprocess; subprocess.run(['sleep', '600'])"), 1),
    ]
    found = [gpu.run_piece(piece, tmp_path, {}) for piece in pieces]
    gpu.write(tmp_path, found, {"GPU": "none"})
    table = (tmp_path / "gpu.md").read_text(encoding="utf-8")
    for cells in (
        ("figures", "share_of_peak_bf16_base", "0.5", "≥ 0.45"),
        ("tests", "passed", "12", ""),
        ("tests", r"\*\*failed\*\*", r"failed \(1\): 1 failed, .*", ""),
        ("error", r"\*\*failed\*\*", r"failed \(1\): ValueError: no \\\| GPU", ""),
        ("slow", r"\*\*failed\*\*", "stopped after 1 s", ""),
    ):
        assert_row(table, cells)
    record = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    assert record["pieces"][1]["figures"] == {"failed": 1, "passed": 12, "skipped": 3}
    assert [one["failure"] is None for one in record["pieces"]] == [True, False, False, False]


def assert_row(table: str, cells: tuple[str, ...]) -> None:
    assert re.search(r"\| *" + r" *\| *".join(cells) + r" *\|", table), (cells, table)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so() -> None:
    """One line names the way to try it out."""
    done = run_python("-m", "benchmarks", "gpu", cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("run this where there is one, or try it out with --rehearse.")


def test_the_pieces_stay_below_nine_minutes() -> None:
    """The limits of all pieces together leave time to write the table."""
    assert sum(piece.limit for piece in gpu.PIECES) <= 530


@pytest.mark.full
def test_the_rehearsal_runs_every_piece(tmp_path: Path) -> None:
    """On a CPU, with tiny sizes, each piece gives figures and none fails."""
    done = run_python("-m", "benchmarks", "gpu", "--rehearse", "--output", tmp_path, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    pieces = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))["pieces"]
    assert [one["name"] for one in pieces] == [piece.name for piece in gpu.PIECES]
    for one in pieces:
        assert one["failure"] is None
        assert one["figures"]
