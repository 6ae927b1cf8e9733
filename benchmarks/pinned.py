"""Two processes on one cache, each pinned to one core with its writer thread, against one such process."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.report import alternate
from kdcache.text.corpus import TextFiles

# Each process makes as many, so that one and two processes do the same work each; the first is not counted.
SHARDS_EACH = 4
_WAIT = 0.01


def measure(folder: Path, text: TextFiles, rounds: int) -> dict[str, list[float]]:
    """Targets per second after each process's first shard, added up over the processes."""
    arms = {
        f"{work}, {name}": lambda work=work, count=count: _together(folder, text, work, count)
        for work in ("dump", "forward")
        for name, count in (("one", 1), ("two", 2))
    }
    return alternate(arms, rounds)  # type: ignore[arg-type]


def _together(folder: Path, text: TextFiles, work: str, count: int) -> float:
    start = folder / f"start-{time.monotonic_ns()}"
    cores = sorted(os.sched_getaffinity(0))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    workers = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.pinned", str(folder), work, str(rank), str(start), *_paths(text)],
            stdout=subprocess.PIPE,
            text=True,
            env={**environment, "PINNED_CORE": str(cores[rank % len(cores)])},
        )
        for rank in range(count)
    ]
    for worker in workers:
        if worker.stdout is None or worker.stdout.readline().strip() != "ready":
            raise RuntimeError("a worker died")
    start.touch()
    rates = [float(worker.communicate()[0]) for worker in workers]
    shutil.rmtree(_cache(folder, start))
    return sum(rates)


def _cache(folder: Path, start: Path) -> Path:
    return folder / f"cache-{start.name}"


def _paths(text: TextFiles) -> tuple[str, str]:
    return str(text.source), str(text.target)


def main(folder: Path, work: str, rank: int, start: Path, text: TextFiles) -> None:
    """One process: get ready, wait for the start, work, print targets per second."""
    os.sched_setaffinity(0, {int(os.environ["PINNED_CORE"])})
    from benchmarks.job import PASSES, TOKENS, forward, pilot_job
    from kdcache.cache.commit_protocol import CacheWriter
    from kdcache.cache.fill_cache import write_shards
    from kdcache.cli.screen import quiet_transformers
    from kdcache.dump.dump_shards import Dumping
    from kdcache.process.signals import StopRequest
    from kdcache.teacher.masking import partition_batches

    quiet_transformers()
    job = pilot_job(folder, text, 2 * SHARDS_EACH)
    own = list(range(rank, job.plan.n_shards, 2))
    encoded = {index: job.encode(index) for index in own}
    special = job.teacher.tokenizer.special
    batches = {index: list(partition_batches(pairs, PASSES, TOKENS, special)) for index, pairs in encoded.items()}
    writer = CacheWriter(_cache(folder, start), job.plan, job.teacher.tokenizer)

    def make(shards: list[int]) -> None:
        if work == "dump":
            write_shards(Dumping(job), writer, shards, StopRequest())
        else:
            for index in shards:
                forward(job, batches[index])

    print("ready", flush=True)
    while not start.exists():
        time.sleep(_WAIT)
    make(own[:1])
    began = time.perf_counter()
    make(own[1:])
    spent = time.perf_counter() - began
    print(sum(encoded[index].n_targets for index in own[1:]) / spent, flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), TextFiles(sys.argv[5], sys.argv[6]))
