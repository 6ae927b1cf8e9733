"""What soft labels, chunks and the loader cost in a training step, and what a cache saves against a live teacher."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch

from benchmarks import live, operators, projection, student_step
from benchmarks.report import publish
from benchmarks.text import first_pairs

PARTS = ("step", "projection", "loader", "live", "operators")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--rounds", type=int, default=5, help="runs of each arm")
    parser.add_argument("--pairs", type=int, default=2_000, help="pairs of text in the cache")
    parser.add_argument("--part", choices=PARTS, action="append", help="only this part; may be repeated")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    parts = options.part or PARTS
    rows: list[tuple[str, str]] = [("what", "median [range]")]
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = first_pairs(folder, options.pairs)
        measured = {
            "step": lambda: student_step.measure(folder, text, options.rounds),
            "projection": lambda: projection.measure(options.rounds),
            "loader": lambda: student_step.loader_share(folder, text),
            "operators": lambda: operators.measure(folder, text, options.rounds),
            "live": lambda: live.measure(folder, text, options.rounds),
        }
        for part in parts:
            more_rows, more_figures = measured[part]()
            rows += more_rows
            figures |= more_figures
    publish(rows, figures)
