"""Running a teacher once over every masked target position of a corpus, into a cache."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdcache.cache import layout
from kdcache.cache.layout import Encoding, Plan, ShardRecord
from kdcache.cache.shard import ShardArrays
from kdcache.cache.writer import CacheWriter
from kdcache.corpus import Corpus
from kdcache.device import resolve_device, resolve_precision
from kdcache.dump.config import DumpConfig
from kdcache.encode import encode_slice
from kdcache.errors import DataError, UsageError
from kdcache.interrupt import StopRequest, stop_on_signals
from kdcache.masking import partition_batches
from kdcache.progress import Progress
from kdcache.runs import folder_run, log
from kdcache.softlabels import TopK
from kdcache.teacher.model import Teacher
from kdcache.textcheck import tokenizer_warnings
from kdcache.tokens import EncodedPairs


@dataclass(frozen=True, slots=True)
class Job:
    """All that a dump needs: the teacher on its device, the corpus, and the plan of the cache."""

    config: DumpConfig
    teacher: Teacher
    corpus: Corpus
    plan: Plan
    device: torch.device

    def encode(self, index: int) -> EncodedPairs:
        """The pairs of shard `index` as ids.

        Raises:
            DataError: a pair cannot be used, or too many targets are the unknown token.
        """
        start, stop = self.plan.bounds(index)
        config, tokenizer = self.config, self.teacher.tokenizer
        pairs = encode_slice(self.corpus, tokenizer, self.teacher.positions, start, stop, skip_bad=config.skip_bad)
        unknown = int((pairs.target_ids == tokenizer.special.unk).sum())
        if unknown > config.max_unknown * pairs.n_targets:
            raise DataError(
                f"{self.corpus.name}, lines {start + 1:,} to {stop:,}: {unknown:,} of {pairs.n_targets:,} targets are "
                f"unknown to the teacher's vocabulary, more than the share of {config.max_unknown} that is allowed. Is "
                "this the text that the teacher was trained on? If so, raise --max-unknown."
            )
        return pairs


def prepare(config: DumpConfig) -> Job:
    """Open the teacher and the corpus and make the plan; writes nothing.

    Raises:
        UsageError: a setting is outside its range.
        ModelError: the teacher cannot be used.
        DataError: the text breaks a rule.
    """
    config.check()
    device = resolve_device(config.device)
    corpus = Corpus(config.text, skip_bad=config.skip_bad)
    teacher = Teacher.load(Path(config.teacher))
    if config.topk > teacher.vocabulary:
        raise UsageError(f"--topk {config.topk}: the teacher's vocabulary has only {teacher.vocabulary} words.")
    for warning in tokenizer_warnings(teacher.tokenizer, corpus):
        log.warning("%s", warning)
    plan = Plan(
        format=layout.FORMAT,
        version=layout.VERSION,
        corpus=corpus.fingerprint,
        n_pairs=corpus.n_pairs,
        tokenizer=teacher.tokenizer.fingerprint,
        vocabulary=teacher.vocabulary,
        teacher=teacher.fingerprint(),
        positions=teacher.positions,
        topk=config.topk,
        passes=config.passes,
        precision=resolve_precision(config.precision, device),
        shard_pairs=config.shard_pairs,
        encoding=Encoding.for_vocabulary(teacher.vocabulary),
    )
    teacher.model.to(device)
    return Job(config, teacher, corpus, plan, device)


def dump(config: DumpConfig, output: Path) -> None:
    """Write a cache; run again, it continues with the shards that are missing.

    Raises:
        MismatchError: `output` holds a cache of another teacher, corpus or setting.
        DataError: the text breaks a rule, or the teacher gives values that are not finite.
        OutputError: the disk refused.
        StoppedError: a signal asked to stop; committed shards are kept.
    """
    job = prepare(config)
    writer = CacheWriter(output, job.plan, job.teacher.tokenizer)
    run = folder_run(output, "dump-logits", config, fixed=False)
    missing = writer.missing()
    log.info(
        "%s pairs in %s shards, %s still to do.",
        f"{job.plan.n_pairs:,}",
        f"{job.plan.n_shards:,}",
        f"{len(missing):,}",
    )
    with stop_on_signals() as stop:
        _write_shards(job, writer, missing, stop)
    if writer.finalize():
        manifest = layout.read_manifest(output, job.plan)
        run.finish({"manifest": manifest.root, "targets": sum(record.n_targets for record in manifest.shards)})
        log.info("%s: complete.", output)


def _write_shards(job: Job, writer: CacheWriter, missing: list[int], stop: StopRequest) -> None:
    """Compute and commit shards; one is hashed, compressed and written while the next is computed."""
    done = job.plan.n_pairs - sum(np.diff(job.plan.bounds(index))[0] for index in missing)
    pending: Future[ShardRecord] | None = None
    with Progress("dumping", job.plan.n_pairs, "pairs", int(done)) as progress, ThreadPoolExecutor(1) as background:
        for index in missing:
            if writer.adopt(index) is not None:
                continue
            arrays = compute_shard(job, index, progress, stop)
            if pending is not None:
                pending.result()
            pending = background.submit(writer.commit, index, arrays)
        if pending is not None:
            pending.result()


def compute_shard(job: Job, index: int, progress: Progress, stop: StopRequest) -> ShardArrays:
    """Run the teacher over all masked views of one shard.

    Raises:
        DataError: the teacher gives a value that is not finite; the message names the pair.
        StoppedError: a signal asked to stop.
    """
    pairs = job.encode(index)
    collected = _Collector(pairs, job.plan)
    views_done = 0
    n_views = int(np.minimum(pairs.target_lengths, job.plan.passes).sum())
    reported = 0
    for views in partition_batches(pairs, job.plan.passes, job.config.max_tokens, job.teacher.tokenizer.special):
        stop.check()
        found = job.teacher.predict(views, job.plan.topk, job.device, job.plan.precision)
        collected.add(views.target_rows, found.topk, found.target_log_prob)
        views_done += len(views.lengths)
        share = pairs.n_pairs * views_done // n_views
        progress.advance(share - reported)
        reported = share
    progress.advance(pairs.n_pairs - reported)
    collected.check(job.corpus, job.plan.bounds(index)[0])
    return collected.arrays()


class _Collector:
    """The soft labels of one shard, filled batch by batch."""

    def __init__(self, pairs: EncodedPairs, plan: Plan) -> None:
        self._pairs = pairs
        n = pairs.n_targets
        log_probs = layout.LOG_PROB_DTYPES[plan.encoding.log_probs]
        self._ids = np.zeros((n, plan.topk), dtype=plan.encoding.ids)
        # What no batch fills stays not-a-number and is refused.
        self._log_probs = np.full((n, plan.topk), np.nan, dtype=log_probs)
        self._written = np.full(n, np.nan, dtype=log_probs)

    def add(self, rows: np.ndarray, topk: TopK, written: np.ndarray) -> None:
        self._ids[rows] = topk.token_ids
        self._log_probs[rows] = topk.log_probs
        self._written[rows] = written

    def check(self, corpus: Corpus, first: int) -> None:
        bad = ~(np.isfinite(self._log_probs).all(axis=1) & np.isfinite(self._written))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            pair = first + int(np.searchsorted(self._pairs.target_offsets, row, side="right"))
            raise DataError(
                f"{corpus.name}, line {pair}: the teacher's prediction is not finite. Nothing of its shard was stored. "
                "Is the teacher damaged? If it runs in bfloat16, try --precision float32."
            )

    def arrays(self) -> ShardArrays:
        return ShardArrays(self._pairs, TopK(self._ids, self._log_probs), self._written)
