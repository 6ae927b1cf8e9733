"""Writing a whole cache: the loop that a dump and a derived cache share, around the commit protocol of `CacheWriter`.

Any number of processes may work on one cache. Each makes the shards that are its own; they never wait for each other,
and whoever finds all shards committed completes the cache.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Sequence
from pathlib import Path
from typing import Any, ClassVar

from kdcache.cache.cache_files import FolderFiles
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.plan import Plan
from kdcache.cache.schema import check_shards
from kdcache.cache.shard import ShardArrays
from kdcache.cache.shard_records import Manifest, read_manifest
from kdcache.console import tables
from kdcache.console.progress import Progress
from kdcache.files.run_records import earlier_result, folder_run, log
from kdcache.labels.verdict import HeldOut
from kdcache.process.ranks import Process
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.text.tokenizer import Tokenizer

# Told the share of a shard that is done, from 0 to 1; raises StoppedError if a signal asked to stop.
Report = Callable[[float], None]


class ShardMaker(ABC):
    """Makes the shards of one cache.

    Attributes:
        plan: of the cache.
        verb: what progress calls the work.
    """

    plan: Plan
    verb: ClassVar[str] = "writing"

    @abstractmethod
    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the plan names."""

    @abstractmethod
    def shard(self, index: int, report: Report) -> ShardArrays:
        """What shard `index` holds; work that takes long may `report` how far it is."""

    def held_out(self, stored: HeldOut | None) -> HeldOut | None:
        """What is to stand in the cache of the teacher on held-out text, in place of `stored`; None: nothing."""
        return stored

    def shards_to_recount(self) -> list[int]:
        """Committed shards that must be made again, to be counted, before `result` can be reported."""
        return []

    def result(self) -> dict[str, Any]:
        """What `run.json` says about the finished cache besides its content."""
        return {}


def commit_cache(
    maker: ShardMaker, output: Path, command: str, config: Any, shards: Container[int]
) -> dict[str, Any] | None:
    """Write those of `shards`, this process's own, that are missing, and complete the cache if no other is missing.

    `command` and `config`, a dataclass, go into `run.json`. Returns what `run.json` says of the result, or None if
    other processes are still at work.

    Raises:
        UsageError: the cache would have too many shards.
        MismatchError: `output` holds a cache with another plan.
        CorruptError: what `maker` made breaks a rule of the format, or a record in `output` is damaged.
        OutputError: the disk refused.
        StoppedError: a signal asked to stop; committed shards are kept.
    """
    plan = maker.plan
    check_shards(plan)
    writer = CacheWriter(output, plan, maker.tokenizer())
    stored = FolderFiles(output).held_out()
    held_out = maker.held_out(stored)
    if held_out is not None and held_out != stored:
        writer.store_held_out(held_out, replace=stored is not None)
    missing = writer.missing()
    if not missing and writer.finalize() and (before := _finished(output, command, plan)) is not None:
        log.info("%s: complete already, 0 still to do.", output)
        return before
    run = folder_run(output, command, config, fixed=False)
    missing = [index for index in missing if index in shards]
    counted = tables.count(plan.n_pairs, "pair"), tables.count(plan.n_shards, "shard"), f"{len(missing):,}"
    log.info("%s in %s, %s still to do.", *counted)
    with stop_on_signals() as stop:
        write_shards(maker, writer, missing, stop)
        if not writer.finalize():
            log.info("%s: the shards of this process are done, others are still missing.", output)
            return None
        uncounted = maker.shards_to_recount()
        with _progress("counting", plan, uncounted) as progress:
            for index in uncounted:
                _make(maker, index, progress, stop)
    result = {**_content(read_manifest(output, plan)), **maker.result()}
    run.finish(result)
    log.info("%s: complete.", output)
    return result


def neighbouring_shards(n_shards: int, process: Process) -> range:
    """The contiguous range of shards that one process must write; it follows from their number alone.

    Several neighbours may be made from one shard of another cache, which then only one or two processes read.
    """
    first, stop = (n_shards * rank // process.count for rank in (process.rank, process.rank + 1))
    return range(first, stop)


def write_shards(maker: ShardMaker, writer: CacheWriter, missing: Sequence[int], stop: StopRequest) -> None:
    """Make and commit the shards `missing`; one is written while the next is made. Errors as of `commit_cache`."""
    with _progress(maker.verb, maker.plan, missing) as progress:
        writer.commit_each(missing, lambda index: _make(maker, index, progress, stop))


def _finished(output: Path, command: str, plan: Plan) -> dict[str, Any] | None:
    """What an earlier run has reported of the very cache that is there, or None."""
    content, before = _content(read_manifest(output, plan)), earlier_result(output, command)
    same = before is not None and {name: before.get(name) for name in content} == content
    return before if same else None


def _content(manifest: Manifest) -> dict[str, Any]:
    return {"manifest": manifest.root, "targets": sum(record.n_targets for record in manifest.shards)}


def _progress(what: str, plan: Plan, indices: Sequence[int]) -> Progress:
    bounds = [plan.bounds(index) for index in indices]
    return Progress(what, sum(stop - first for first, stop in bounds), "pairs")


def _make(maker: ShardMaker, index: int, progress: Progress, stop: StopRequest) -> ShardArrays:
    """One shard, with progress counted in pairs and a look at the signals before it and at each report."""
    first, end = maker.plan.bounds(index)
    reported = 0

    def report(share: float) -> None:
        nonlocal reported
        stop.check()
        done = int((end - first) * share)
        progress.advance(done - reported)
        reported = done

    report(0.0)
    arrays = maker.shard(index, report)
    progress.advance(end - first - reported)
    return arrays
