"""Running a teacher once over every masked target position of a corpus, into a cache."""

from pathlib import Path
from typing import ClassVar

from kdcache.cache.fill_cache import Report, ShardMaker, commit_cache
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, prepare
from kdcache.dump.held_out import gap_of_sample, measure, own_figures
from kdcache.errors import UsageError
from kdcache.files.hub import local_folder
from kdcache.files.run_records import log
from kdcache.labels.verdict import HeldOut
from kdcache.process.ranks import Process, this_process
from kdcache.teacher.masking import view_counts
from kdcache.text.tokenizer import Tokenizer


def dump(config: DumpConfig, output: Path | str) -> None:
    """Write a cache; run again, it continues with the shards that are missing.

    Raises:
        MismatchError: `output` holds a cache of another teacher, corpus or setting.
        DataError: the text breaks a rule, or the teacher gives values that are not finite.
        OutputError: the disk refused.
        StoppedError: a signal asked to stop; committed shards are kept.
    """
    output, process = Path(output), this_process()
    dump_job(prepare(config, output), output, process)


def dump_job(job: Job, output: Path, process: Process) -> None:
    """Write this process's share of a cache, and complete the cache if nothing is missing. Errors as in `dump`."""
    shards = interleaved_shards(job.plan.n_shards, job.config.shards, process)
    if commit_cache(Dumping(job, measures=process.rank == 0), output, "dump-logits", job.config, shards) is not None:
        figures = CacheReader(output).teacher_figures()
        for line in figures.sentences():
            log.info("%s", line)
        for line in figures.warnings() if figures.unseen else ():
            log.warning("%s", line)


def interleaved_shards(n_shards: int, bounds: tuple[int, int] | None, process: Process) -> range:
    """The shards whose number leaves the process's rank when divided by the number of processes.

    With `bounds`, only those from the first bound up to the second, exclusive.

    Raises:
        UsageError: the cache has no shard inside the bounds.
    """
    first, stop = bounds or (0, n_shards)
    if first >= n_shards:
        raise UsageError(f"--shards begins at {first}, but the cache has shards 0 to {n_shards - 1}.")
    return range(first + (process.rank - first) % process.count, min(stop, n_shards), process.count)


class Dumping(ShardMaker):
    """Makes the shards of a cache with a teacher; with `measures`, measures it on held-out text too."""

    verb: ClassVar[str] = "dumping"

    def __init__(self, job: Job, *, measures: bool = True) -> None:
        self._job, self.plan, self._measures = job, job.plan, measures
        self._held_out: HeldOut | None = None

    def tokenizer(self) -> Tokenizer:
        """The teacher's tokenizer."""
        return self._job.teacher.tokenizer

    def held_out(self, stored: HeldOut | None) -> HeldOut | None:
        """The teacher on the text that was given, else on its own validation text; warns of a poor teacher.

        For several teachers what they label is held-out text.

        Errors as of `measure`.
        """
        found, valid = stored, self._job.valid
        if valid is not None and self._measures and (stored is None or stored.text != valid.fingerprint):
            found = measure(self._job, valid)
        elif stored is None and valid is None and len(self._job.teachers) == 1:
            found = own_figures(local_folder(self._job.config.teachers[0]))
        self._held_out = found
        if found is not None and (poor := found.poor()) is not None:
            log.warning("%s", poor)
        return found

    def shard(self, index: int, report: Report) -> ShardArrays:
        """The soft labels of the pairs of shard `index`; reports after each batch.

        Raises:
            DataError: a pair cannot be used, or the teacher gives a value that is not finite.
            ModelError: memory does not suffice for a single view.
        """
        pairs = self._job.encode(index)
        n_views = max(1, int(view_counts(pairs, self.plan.passes, self.plan.maskings).sum()))
        done = 0

        def after_batch(views: int) -> None:
            nonlocal done
            done += views
            report(done / n_views)

        if self._held_out is not None and pairs.n_targets:
            # Once, and before the first shard that has targets.
            gap, self._held_out = gap_of_sample(self._job, pairs, self._held_out), None
            if gap is not None:
                log.warning("%s", gap)
        return self._job.soft_labels(pairs, self.plan.bounds(index)[0], after_batch)
