"""A forecast of a dump: counts from the text, time and bytes from a pilot run over some pairs."""

import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from kdcache.cache.shard import encode_shard
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, prepare
from kdcache.teacher.masking import view_counts, view_lengths

_PILOT_SECONDS = 5.0
_PILOT_PAIRS = 16


@dataclass(frozen=True, slots=True)
class Forecast:
    """A forecast of a dump.

    Attributes:
        pairs, skipped: of the corpus.
        shards: files that would be written.
        targets: target positions, each predicted once.
        views: masked views, the teacher's input sequences.
        tokens: tokens in them, padding not counted.
        bytes: of the shards, from the pilot's bytes per target.
        seconds: of the whole run, from the pilot's tokens per second.
        pilot_pairs: pairs that the pilot ran.
    """

    pairs: int
    skipped: int
    shards: int
    targets: int
    views: int
    tokens: int
    bytes: int
    seconds: float
    pilot_pairs: int


def forecast(config: DumpConfig, output: Path | None = None) -> Forecast:
    """Encode the whole corpus, run the teacher over some pairs, write nothing. Errors as in `dump_shards.dump`."""
    job = prepare(config, output)
    skipped = targets = views = tokens = 0
    for index in range(job.plan.n_shards):
        pairs = job.encode(index)
        counts = view_counts(pairs, job.plan.passes, job.plan.maskings)
        skipped += int((counts == 0).sum())
        targets += pairs.n_targets
        views += int(counts.sum())
        tokens += int((counts * view_lengths(pairs, job.teacher.tokenizer.special)).sum())
    n_pairs, bytes_per_target, tokens_per_second = _pilot(job)
    return Forecast(
        pairs=job.plan.n_pairs,
        skipped=skipped,
        shards=job.plan.n_shards,
        targets=targets,
        views=views,
        tokens=tokens,
        bytes=round(bytes_per_target * targets),
        seconds=tokens / tokens_per_second,
        pilot_pairs=n_pairs,
    )


def _pilot(job: Job) -> tuple[int, float, float]:
    """Pairs run, bytes per target, tokens per second: over more and more of the first shard, until it took a while."""
    pairs = job.encode(0)
    usable = np.flatnonzero(pairs.target_lengths > 0)
    count = _PILOT_PAIRS
    while True:
        sample = pairs.take(usable[np.linspace(0, len(usable) - 1, min(count, len(usable))).astype(np.int64)])
        start = time.perf_counter()
        arrays = job.soft_labels(sample, 0, lambda _views: None)
        seconds = time.perf_counter() - start
        # The first round also pays for what happens only once.
        if count > _PILOT_PAIRS and (seconds > _PILOT_SECONDS / 2 or count >= len(usable)):
            break
        count *= 4
    plan = replace(job.plan, n_pairs=sample.n_pairs, shard_pairs=sample.n_pairs)
    size = len(encode_shard(arrays, plan, 0))
    counts = view_counts(sample, plan.passes, plan.maskings)
    tokens = int((counts * view_lengths(sample, job.teacher.tokenizer.special)).sum())
    return sample.n_pairs, size / sample.n_targets, tokens / seconds
