"""Writing a cache that is made from others, with the commit protocol of a dump.

Any number of processes may work on one cache, as in `kdcache.dump.dump_shards`. Each takes a run of neighbouring
shards, since several of them may be made from one shard of a source, which then only one or two processes read.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from kdcache.cache import schema, shard_records
from kdcache.cache.derived.merge import MergeConfig, Merging
from kdcache.cache.derived.transcode import TranscodeConfig, Transcoding
from kdcache.cache.plan import Plan
from kdcache.cache.shard import ShardArrays
from kdcache.cache.writer import CacheWriter
from kdcache.console.progress import Progress
from kdcache.files.run_records import earlier_result, folder_run, log
from kdcache.process.ranks import Process, this_process
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.text.tokenizer import Tokenizer


class Derivation(Protocol):
    """How the shards of a new cache are made from those of others."""

    @property
    def plan(self) -> Plan:
        """Of the new cache."""

    def tokenizer(self) -> Tokenizer:
        """That of the others."""

    def shard(self, index: int) -> ShardArrays:
        """What shard `index` holds."""

    def unreported(self) -> list[int]:
        """Shards that must be made, though they are there, before `report` can tell of them."""

    def report(self) -> dict[str, Any]:
        """What `run.json` and the user are told when all is done."""


def transcode(config: TranscodeConfig, output: Path) -> dict[str, Any] | None:
    """Write a cache with fewer words, other shards or another encoding; run again, it continues.

    Returns what `run.json` says of the result, or None if other processes are still at work.

    Raises:
        UsageError: the source does not hold what is asked for, or nothing would change.
        MismatchError: `output` holds another cache.
        CorruptError: the source is incomplete or damaged; what needs the damaged part is not committed.
        OutputError: the disk refused.
        StoppedError: a signal asked to stop; committed shards are kept.
    """
    return _derive(Transcoding(config), "transcode", config, output)


def merge(config: MergeConfig, output: Path) -> dict[str, Any] | None:
    """Write the average of several caches; run again, it continues. Returns and errors as in `transcode`.

    Raises:
        MismatchError: the sources do not share text, tokenizer and vocabulary; or as above.
    """
    merging = Merging(config)
    if any(source.plan.temperatures for source in merging.plan.sources):
        log.warning("Normalizers at other temperatures are left out: that of an average is not the average of those.")
    return _derive(merging, "merge", config, output)


def _derive(
    derivation: Derivation, command: str, config: TranscodeConfig | MergeConfig, output: Path
) -> dict[str, Any] | None:
    plan = derivation.plan
    schema.check_shards(plan)
    writer = CacheWriter(output, plan, derivation.tokenizer())
    missing = writer.missing()
    if not missing and writer.finalize() and (before := _finished(output, command, plan)) is not None:
        log.info("%s: complete already.", output)
        return before
    run = folder_run(output, command, config, fixed=False)
    mine = own(plan.n_shards, this_process())
    missing = [index for index in missing if index in mine]
    log.info("%s pairs in %s shards, %s still to do.", f"{plan.n_pairs:,}", f"{plan.n_shards:,}", f"{len(missing):,}")
    with stop_on_signals() as stop:
        with _progress("writing", plan, missing) as progress:
            writer.commit_each(missing, lambda index: _make(derivation, index, progress, stop))
        if not writer.finalize():
            log.info("%s: the shards of this process are done, others are still missing.", output)
            return None
        unreported = derivation.unreported()
        with _progress("counting", plan, unreported) as progress:
            for index in unreported:
                _make(derivation, index, progress, stop)
    manifest = shard_records.read_manifest(output, plan)
    result = {**_counts(manifest), **derivation.report()}
    run.finish(result)
    log.info("%s: complete.", output)
    return result


def own(n_shards: int, process: Process) -> range:
    """The shards that are up to a process; they follow from their number alone, whatever others have done meanwhile."""
    first, stop = (n_shards * rank // process.count for rank in (process.rank, process.rank + 1))
    return range(first, stop)


def _finished(output: Path, command: str, plan: Plan) -> dict[str, Any] | None:
    """What an earlier run has reported of the very cache that is there, or None."""
    counts, before = _counts(shard_records.read_manifest(output, plan)), earlier_result(output, command)
    same = before is not None and {name: before.get(name) for name in counts} == counts
    return before if same else None


def _counts(manifest: shard_records.Manifest) -> dict[str, Any]:
    return {"manifest": manifest.root, "targets": sum(record.n_targets for record in manifest.shards)}


def _progress(what: str, plan: Plan, indices: list[int]) -> Progress:
    bounds = [plan.bounds(index) for index in indices]
    return Progress(what, sum(last - first for first, last in bounds), "pairs")


def _make(derivation: Derivation, index: int, progress: Progress, stop: StopRequest) -> ShardArrays:
    stop.check()
    arrays = derivation.shard(index)
    progress.advance(arrays.pairs.n_pairs)
    return arrays
