"""How many runs go side by side, and what each of them may use."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

THREADS = "OMP_NUM_THREADS"
DEVICES = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Places:
    """Where runs are put.

    Attributes:
        environments: one for each run at a time: the variables that say what it may use.
        words: the same for people.
    """

    environments: tuple[dict[str, str], ...]
    words: str

    @property
    def threads(self) -> int:
        """Threads of each run."""
        return int(self.environments[0][THREADS])


def places(jobs: int | None, n_runs: int, gpus: Sequence[str], cores: int, environment: Mapping[str, str]) -> Places:
    """Divide a machine among the runs: one for each GPU at a time; without GPUs, one for each core or group of cores.

    The number of threads depends on all runs, not on those that are left: only with the same number is a run that was
    stopped continued bit by bit.

    Args:
        jobs: how many at a time, or None.
        n_runs: how many there are altogether.
        gpus: names as in CUDA_VISIBLE_DEVICES; empty: the runs use the CPU.
        cores: that this process may use.
        environment: OMP_NUM_THREADS in it is kept.
    """
    given = environment.get(THREADS, "")
    kept = int(given) if given.isdecimal() and int(given) > 0 else None
    if jobs is None:
        jobs = min(n_runs, len(gpus) or max(1, cores // (kept or 1)))
    threads = kept or max(1, cores // jobs)
    one = {THREADS: str(threads)}
    if gpus:
        environments = tuple({**one, DEVICES: gpus[number % len(gpus)]} for number in range(jobs))
        where = f"on {min(jobs, len(gpus))} of {len(gpus)} GPUs"
    else:
        environments, where = (one,) * jobs, "on the CPU"
    plural = "" if threads == 1 else "s"
    return Places(environments, f"{jobs} at a time {where}, {threads} thread{plural} each")


def visible_gpus(environment: Mapping[str, str]) -> list[str]:
    """The GPUs that PyTorch sees here, by names for CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [one.strip() for one in environment.get(DEVICES, "").split(",") if one.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
