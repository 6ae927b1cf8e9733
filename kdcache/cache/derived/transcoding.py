"""A cache made from another one without its teacher: fewer words, other shards, another encoding."""

import dataclasses
from pathlib import Path
from typing import Any

from kdcache.cache.derived.derive_config import TranscodeConfig
from kdcache.cache.fill_cache import Report, ShardMaker, commit_cache, neighbouring_shards
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.pair_ranges import PairRanges
from kdcache.cache.plan import Plan, SourceCache
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.shard import ShardArrays
from kdcache.errors import UsageError
from kdcache.labels.verdict import HeldOut
from kdcache.process.ranks import this_process
from kdcache.text.tokenizer import Tokenizer


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
    transcoding = _Transcoding(config)
    shards = neighbouring_shards(transcoding.plan.n_shards, this_process())
    return commit_cache(transcoding, output, "transcode", config, shards)


class _Transcoding(ShardMaker):
    def __init__(self, config: TranscodeConfig) -> None:
        config.check()
        self._reader = open_cache(config.cache)
        self._ranges = PairRanges(self._reader)
        self.plan = _plan(config, self._reader)

    def tokenizer(self) -> Tokenizer:
        return self._reader.tokenizer()

    def held_out(self, _stored: HeldOut | None) -> HeldOut | None:
        """The source's: it is the same teacher."""
        return self._reader.files.held_out()

    def shard(self, index: int, _report: Report) -> ShardArrays:
        arrays = self._ranges.read(*self.plan.bounds(index))
        topk, encoding = arrays.soft.select(self.plan.topk), self.plan.encoding
        # Values are rounded once more where they are stored otherwise.
        if not self.plan.draws:
            topk = dataclasses.replace(topk, log_probs=encoding.round(topk.log_probs))
        return dataclasses.replace(arrays, soft=topk, target_log_prob=encoding.round(arrays.target_log_prob))


def _plan(config: TranscodeConfig, reader: CacheReader) -> Plan:
    before = reader.plan
    topk = before.topk if config.topk is None else config.topk
    if topk > before.topk:
        raise UsageError(
            f"--topk {topk}: {reader.place} holds {before.topk} words a position, and what is not stored cannot be "
            "made from it. Run dump-logits with the larger k."
        )
    if before.draws and topk != before.topk:
        raise UsageError(
            f"--topk {topk}: {reader.place} holds words that were drawn, not the most probable ones; fewer draws are "
            "another sample. Run dump-logits with another number of draws."
        )
    if before.temperatures and config.encoding == "compact":
        raise UsageError(
            f"--encoding compact: {reader.place} holds normalizers, whose codes end at a probability of e^-25, which "
            "at a higher temperature is far too much. Keep float16."
        )
    name = config.encoding
    plan = dataclasses.replace(
        before,
        topk=topk,
        encoding=before.encoding if name is None else Encoding.named(name, before.vocabulary),
        shard_pairs=before.shard_pairs if config.shard_pairs is None else config.shard_pairs,
    )
    if plan == before:
        raise UsageError(
            f"{reader.place}: nothing would change; give --topk, --encoding or --shard-pairs another value than the "
            "cache has. To copy a cache, copy its folder."
        )
    return dataclasses.replace(plan, sources=(SourceCache(reader.manifest.root, before),))
