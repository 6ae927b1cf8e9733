"""Writing a cache that is made from others, with the commit protocol of a dump.

Any number of processes may work on one cache, as in `kdcache.dump.run`: each takes the shards whose number leaves its
rank when divided by the number of processes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from kdcache.cache import layout
from kdcache.cache.merge import MergeConfig, Merging
from kdcache.cache.plan import Plan
from kdcache.cache.shard import ShardArrays
from kdcache.cache.transcode import TranscodeConfig, Transcoding
from kdcache.cache.writer import CacheWriter
from kdcache.interrupt import StopRequest, stop_on_signals
from kdcache.processes import this_process
from kdcache.progress import Progress
from kdcache.runs import folder_run, log
from kdcache.tokens import Tokenizer


class Derivation(Protocol):
    """How the shards of a new cache are made from those of others."""

    @property
    def plan(self) -> Plan:
        """Of the new cache."""

    def tokenizer(self) -> Tokenizer:
        """That of the others."""

    def shard(self, index: int) -> ShardArrays:
        """What shard `index` holds."""

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
    plan, process = derivation.plan, this_process()
    layout.check_shards(plan)
    writer = CacheWriter(output, plan, derivation.tokenizer())
    run = folder_run(output, command, config, fixed=False)
    missing = [index for index in writer.missing() if index % process.count == process.rank]
    log.info("%s pairs in %s shards, %s still to do.", f"{plan.n_pairs:,}", f"{plan.n_shards:,}", f"{len(missing):,}")
    with stop_on_signals() as stop:
        _write(derivation, writer, missing, stop)
    if not writer.finalize():
        log.info("%s: the shards of this process are done, others are still missing.", output)
        return None
    manifest = layout.read_manifest(output, plan)
    result = {
        "manifest": manifest.root,
        "targets": sum(record.n_targets for record in manifest.shards),
        **derivation.report(),
    }
    run.finish(result)
    log.info("%s: complete.", output)
    return result


def _write(derivation: Derivation, writer: CacheWriter, missing: list[int], stop: StopRequest) -> None:
    bounds = [writer.plan.bounds(index) for index in missing]
    with Progress("writing", sum(last - first for first, last in bounds), "pairs") as progress:

        def make(index: int) -> ShardArrays:
            stop.check()
            arrays = derivation.shard(index)
            progress.advance(arrays.pairs.n_pairs)
            return arrays

        writer.commit_each(missing, make)
