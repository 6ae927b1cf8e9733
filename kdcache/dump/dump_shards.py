"""Running a teacher once over every masked target position of a corpus, into a cache.

Any number of processes may work on one cache. Each takes the shards whose number leaves its rank when divided by the
number of processes; they never wait for each other, and whoever finds all shards committed completes the cache.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from kdcache.cache import shard_records
from kdcache.cache.shard import ShardArrays
from kdcache.cache.writer import CacheWriter
from kdcache.console.progress import Progress
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, prepare
from kdcache.errors import UsageError
from kdcache.files.run_records import folder_run, log
from kdcache.process.ranks import Process, this_process
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.teacher.masking import view_counts


def dump(config: DumpConfig, output: Path) -> None:
    """Write a cache; run again, it continues with the shards that are missing.

    Raises:
        MismatchError: `output` holds a cache of another teacher, corpus or setting.
        DataError: the text breaks a rule, or the teacher gives values that are not finite.
        OutputError: the disk refused.
        StoppedError: a signal asked to stop; committed shards are kept.
    """
    process = this_process()
    dump_job(prepare(config), output, process)


def dump_job(job: Job, output: Path, process: Process) -> None:
    """Write this process's share of a cache, and complete the cache if nothing is missing. Errors as in `dump`."""
    config, plan = job.config, job.plan
    if config.shards is not None and config.shards[0] >= plan.n_shards:
        raise UsageError(f"--shards begins at {config.shards[0]}, but the cache has shards 0 to {plan.n_shards - 1}.")
    writer = CacheWriter(output, plan, job.teacher.tokenizer)
    run = folder_run(output, "dump-logits", config, fixed=False)
    missing = [index for index in writer.missing() if own(index, config, process)]
    log.info("%s pairs in %s shards, %s still to do.", f"{plan.n_pairs:,}", f"{plan.n_shards:,}", f"{len(missing):,}")
    with stop_on_signals() as stop:
        write_shards(job, writer, missing, stop)
    if not writer.finalize():
        log.info("%s: the shards of this process are done, others are still missing.", output)
        return
    manifest = shard_records.read_manifest(output, plan)
    run.finish({"manifest": manifest.root, "targets": sum(record.n_targets for record in manifest.shards)})
    log.info("%s: complete.", output)


def own(index: int, config: DumpConfig, process: Process) -> bool:
    """Whether making shard `index` is up to this process."""
    first, stop = config.shards or (0, index + 1)
    return first <= index < stop and index % process.count == process.rank


def write_shards(job: Job, writer: CacheWriter, missing: list[int], stop: StopRequest) -> None:
    """Compute and commit shards; one is written while the next is computed."""
    n_pairs = sum(int(np.diff(job.plan.bounds(index))[0]) for index in missing)
    with Progress("dumping", n_pairs, "pairs") as progress:
        writer.commit_each(missing, lambda index: _compute(job, index, progress, stop))


def _compute(job: Job, index: int, progress: Progress, stop: StopRequest) -> ShardArrays:
    """One shard's soft labels, with progress counted in pairs and a look at the signals after each batch."""
    pairs = job.encode(index)
    n_views = max(1, int(view_counts(pairs, job.plan.passes, job.plan.maskings).sum()))
    views = reported = 0

    def after_batch(more: int) -> None:
        nonlocal views, reported
        stop.check()
        views += more
        share = pairs.n_pairs * views // n_views
        progress.advance(share - reported)
        reported = share

    arrays = job.soft_labels(pairs, job.plan.bounds(index)[0], after_batch)
    progress.advance(pairs.n_pairs - reported)
    return arrays
