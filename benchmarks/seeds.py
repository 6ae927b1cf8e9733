"""The demo's comparison with longer training and several seeds: does the difference stand?"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
from pathlib import Path

from benchmarks.report import publish
from kdcache.experiments.demo import HARD, SOFT, DemoConfig, compare_outputs, make_cache, make_student


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("folder", help="where the models go; run again, it continues")
    parser.add_argument("--seeds", type=int, default=3, help="students of each kind")
    parser.add_argument("--pairs", type=int, default=2_000, help="training pairs")
    parser.add_argument("--teacher-steps", type=int, default=5_000)
    parser.add_argument("--student-steps", type=int, default=1_000)
    parser.add_argument("--alpha", type=float, default=0.5, help="weight of the hard labels where there are soft ones")


def run(options: argparse.Namespace) -> None:
    """Train and print."""
    folder = Path(options.folder)
    config = DemoConfig(options.pairs, options.teacher_steps, options.student_steps, options.alpha)
    make_cache(folder, config)
    rows = [("seed", "metric", "without", "with soft labels", "difference", "95 % interval over sentences")]
    differences: dict[str, list[float]] = {}
    for seed in range(1, options.seeds + 1):
        one = dataclasses.replace(config, seed=seed)
        arms = ((SOFT, config.alpha), (HARD, 1.0))
        outputs = [make_student(folder / f"{name}-{seed}", one, alpha) for name, alpha in arms]
        for found in compare_outputs(*outputs):
            cells = (f"{found.baseline:.2f}", f"{found.system:.2f}", f"{found.difference:+.2f}")
            rows.append((str(seed), found.name, *cells, f"{found.low:+.2f} to {found.high:+.2f}"))
            differences.setdefault(found.name, []).append(found.difference)
    figures = {f"{name}_difference": statistics.mean(values) for name, values in differences.items()}
    if options.seeds > 1:
        figures |= {f"{name}_deviation": statistics.stdev(values) for name, values in differences.items()}
    publish(rows, figures)
