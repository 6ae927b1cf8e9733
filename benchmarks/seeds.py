"""The demo with several seeds, each with a teacher and students of its own: does the difference stand?"""

from __future__ import annotations

import argparse
import csv
import os
import statistics
from pathlib import Path

from benchmarks.report import publish
from kdcache.cli.demo import set_up_process
from kdcache.experiments.demo import DemoConfig, run_demo

HEAD = ("seed", "cpu_seconds", "metric", "without", "with_soft_labels", "difference", "low", "high")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("folder", help="where the models and seeds.csv go; run again, it continues, with other times")
    parser.add_argument("--seeds", type=int, default=5)


def run(options: argparse.Namespace) -> None:
    """Train, print, and write seeds.csv."""
    set_up_process(quiet=False)
    folder = Path(options.folder)
    rows: list[tuple[str, ...]] = [HEAD]
    differences: dict[str, list[float]] = {}
    for seed in range(1, options.seeds + 1):
        before = cpu_seconds()
        found = run_demo(folder / str(seed), DemoConfig(seed=seed), set_up_process)
        spent = f"{cpu_seconds() - before:.0f}"
        for one in found:
            numbers = (one.baseline, one.system, one.difference, one.low, one.high)
            rows.append((str(seed), spent, one.name, *(f"{number:.2f}" for number in numbers)))
            differences.setdefault(one.name, []).append(one.difference)
    with (folder / "seeds.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)
    figures = {f"{name}_difference": statistics.mean(values) for name, values in differences.items()}
    if options.seeds > 1:
        figures |= {f"{name}_deviation": statistics.stdev(values) for name, values in differences.items()}
    publish(rows, figures)


def cpu_seconds() -> float:
    """Seconds that this process and those that it waited for have computed."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
