"""What a sweep would cost, without doing it."""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Sequence

from kdcache.console.progress import duration
from kdcache.experiments.run_sweep import check_jobs, check_texts, divide
from kdcache.experiments.sweep_file import SweepConfig
from kdcache.experiments.sweep_folders import Checker, find_students
from kdcache.experiments.sweep_grid import Run


def forecast_runs(sweep: SweepConfig, runs: Sequence[Run], jobs: int | None) -> list[tuple[str, ...]]:
    """Names, steps and times of all runs, a header before them and the time of all behind; nothing is written.

    Some steps are taken for each row, whose seeds take the same time, with as many threads as a run would have. What
    runs side by side take from each other, validation, generation and scoring are not counted.

    Raises:
        UsageError, DataError, CorruptError: as in `run_sweep` and `training_forecast.forecast`.
    """
    import torch

    from kdcache.student.training_forecast import Forecast, forecast

    check_jobs(jobs)
    layout = divide(runs, jobs)
    before = torch.get_num_threads()
    torch.set_num_threads(layout.threads)
    found: dict[str, Forecast] = {}
    try:
        with contextlib.chdir(sweep.file.parent):
            check_texts(sweep.tests)
            checker = Checker()
            students, _ = find_students(sweep, runs, checker)
            left = [one.run for one in students if not checker.trained(one)]
            for run in left:
                if run.row not in found:
                    found[run.row] = forecast(run.config)
    finally:
        torch.set_num_threads(before)
    rows: list[tuple[str, ...]] = [("run", "steps", "time")]
    for run in runs:
        if run in left:
            rows.append((run.name, f"{found[run.row].steps:,}", duration(found[run.row].seconds)))
        else:
            rows.append((run.name, "", "trained"))
    total = time_of_all([found[run.row].seconds for run in left], len(layout.environments))
    rows.append((f"all, {layout.words}", "", duration(total)))
    return rows


def time_of_all(seconds: Sequence[float], n_places: int) -> float:
    """When the last of some runs ends that go, in their order, to whichever of the places is free first."""
    free = [0.0] * n_places
    for one in seconds:
        heapq.heapreplace(free, free[0] + one)
    return max(free)
