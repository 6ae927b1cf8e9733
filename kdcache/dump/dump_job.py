"""The job of a dump: teacher, corpus and plan, and the soft labels of some pairs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdcache.cache import schema
from kdcache.cache.hdf5 import check_writing
from kdcache.cache.number_encoding import Encoding, count_dtype
from kdcache.cache.plan import FORMAT, PLAN_FILE, VERSION, Plan, read_plan
from kdcache.cache.shard import ShardArrays
from kdcache.compute.device import resolve_device, resolve_precision, use
from kdcache.dump.dump_config import DumpConfig
from kdcache.errors import DataError, UsageError
from kdcache.files.run_records import log
from kdcache.labels.soft_labels import SoftLabels, from_counts
from kdcache.process.ranks import this_process
from kdcache.teacher.folds import FoldPasses, joint_fingerprint, open_teachers
from kdcache.teacher.masking import view_counts
from kdcache.teacher.passes import Predictor
from kdcache.teacher.reduction import Predictions
from kdcache.text.corpus import Corpus
from kdcache.text.encode_corpus import encode_slice
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.text_checks import tokenizer_warnings

# Pairs in a shard, where nothing is given: powers of two between these.
_SHARD_LEAST, _SHARD_MOST = 256, 4_096
# Products of a weight with a token in a shard: minutes of two slow cores, and less than a second of a GPU.
_SHARD_WORK = 10**13
# More shards than this are only made where they are large.
_SHARDS_MANY = 2_000
_SAMPLE_PAIRS = 1_000


@dataclass(frozen=True, slots=True)
class Job:
    """All that a dump needs: the teachers on their device, the corpus, the plan, and text to measure them on."""

    config: DumpConfig
    teachers: tuple[Predictor, ...]
    corpus: Corpus
    plan: Plan
    device: torch.device
    valid: Corpus | None = None
    _passes: FoldPasses = field(init=False)

    def __post_init__(self) -> None:
        passes = FoldPasses(self.teachers, self.plan, self.config.max_tokens, self.device)
        object.__setattr__(self, "_passes", passes)

    @property
    def teacher(self) -> Predictor:
        """One of the teachers, for what all have in common."""
        return self.teachers[0]

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

    def soft_labels(self, pairs: EncodedPairs, first: int, after_batch: Callable[[int], None]) -> ShardArrays:
        """Run the teacher over all masked views of `pairs`, the first of which is line `first` + 1.

        `after_batch` is called with the number of views done; what it raises ends the work.

        Raises:
            DataError: the teacher gives a value that is not finite; the message names the line.
            ModelError: memory does not suffice for a single view.
        """
        collected = _Collector(pairs, self.plan)
        running: tuple[npt.NDArray[np.int64], Predictions] | None = None
        for rows, predictions in self._passes.run(pairs, first, after_batch):
            # Results are read one batch late, so that a GPU has work meanwhile.
            if running is not None:
                collected.add(*running)
            running = rows, predictions
        if running is not None:
            collected.add(*running)
        row = collected.first_bad()
        if row is not None:
            line = first + int(np.searchsorted(pairs.target_offsets, row, side="right"))
            raise DataError(
                f"{self.corpus.name}, line {line}: the teacher's prediction is not finite. Nothing of its shard was "
                "stored. Is the teacher damaged? If it runs in bfloat16, try --precision float32."
            )
        return collected.arrays()


class _Collector:
    """The soft labels of some pairs, filled batch by batch."""

    def __init__(self, pairs: EncodedPairs, plan: Plan) -> None:
        self._pairs, self._draws = pairs, plan.draws
        n = pairs.n_targets
        self._round = plan.encoding.round
        self._ids: npt.NDArray[Any] = np.zeros((n, plan.topk), dtype=plan.encoding.ids)
        # A value that no batch fills stays not-a-number and is refused.
        self._written = np.full(n, np.nan, dtype=np.float16)
        self._log_probs = np.full((n, 0 if plan.draws else plan.topk), np.nan, dtype=np.float16)
        self._counts: npt.NDArray[Any] = np.zeros((n, plan.topk if plan.draws else 0), count_dtype(plan.draws))
        self._normalizers = np.full((n, len(plan.temperatures)), np.nan, dtype=np.float32)

    def add(self, rows: npt.NDArray[np.int64], kept: Predictions) -> None:
        self._ids[rows] = kept.ids
        self._written[rows] = self._round(kept.target_log_prob)
        if self._draws:
            self._counts[rows] = kept.values
        else:
            self._log_probs[rows] = self._round(kept.values)
        if kept.log_normalizers is not None:
            self._normalizers[rows] = kept.log_normalizers

    def first_bad(self) -> int | None:
        columns = (self._log_probs, self._written[:, None], self._normalizers)
        bad = ~np.logical_and.reduce([np.isfinite(values).all(axis=1) for values in columns])
        return int(np.flatnonzero(bad)[0]) if bad.any() else None

    def arrays(self) -> ShardArrays:
        if self._draws:
            topk = from_counts(self._ids, self._counts, self._draws)
        else:
            topk = SoftLabels(self._ids, self._log_probs, self._normalizers if self._normalizers.shape[1] else None)
        return ShardArrays(self._pairs, topk, self._written)


def prepare(config: DumpConfig, output: Path | None = None) -> Job:
    """Open the teachers and the corpus and make the plan; writes nothing.

    A cache that was begun in `output` keeps its size of shards and the way in which its teacher is run.

    Raises:
        UsageError: a setting is outside its range, or several teachers are not those of all folds.
        MismatchError: several teachers are of another text, or have different tokenizers.
        ModelError: a teacher cannot be used.
        DataError: the text breaks a rule.
        OutputError: the HDF5 library here cannot write shards.
    """
    config.check()
    check_writing()
    device = resolve_device(config.device, this_process().local)
    use(device)
    corpus = Corpus(config.text, skip_bad=config.skip_bad)
    begun = None
    if output is not None and (output / PLAN_FILE).exists():
        begun = read_plan(output)
        config = replace(config, shard_pairs=config.shard_pairs or begun.shard_pairs)
    teachers = open_teachers(config.teachers, corpus.fingerprint, begun)
    teacher = teachers[0]
    if config.words > teacher.vocabulary:
        raise UsageError(f"--topk {config.words}: the teacher's vocabulary has only {teacher.vocabulary} words.")
    for warning in tokenizer_warnings(teacher.tokenizer, corpus):
        log.warning("%s", warning)
    plan = make_plan(config, teachers, corpus, device)
    schema.check_shards(plan)
    for one in teachers:
        one.model.to(device)
        one.check_run(device, plan.precision)
    valid = None if config.valid is None else Corpus(config.valid, skip_bad=config.skip_bad)
    return Job(config, teachers, corpus, plan, device, valid)


def make_plan(config: DumpConfig, teachers: Sequence[Predictor], corpus: Corpus, device: torch.device) -> Plan:
    """The plan of the cache that these teachers make of this corpus."""
    distributions, teacher = config.distributions, teachers[0]
    return Plan(
        format=FORMAT,
        version=VERSION,
        corpus=corpus.fingerprint,
        n_pairs=corpus.n_pairs,
        tokenizer=teacher.tokenizer.fingerprint,
        vocabulary=teacher.vocabulary,
        teacher=joint_fingerprint(teachers),
        positions=teacher.positions,
        topk=min(distributions.sample, teacher.vocabulary) if distributions.sample else config.words,
        passes=config.passes,
        precision=resolve_precision(config.precision, device),
        shard_pairs=config.shard_pairs or shard_pairs_by_work(config, teacher, corpus),
        encoding=Encoding.named(config.encoding, teacher.vocabulary),
        maskings=distributions.maskings,
        draws=distributions.sample,
        seed=distributions.seed if distributions.sample or distributions.maskings > 1 else 0,
        temperatures=distributions.normalizers,
    )


def shard_pairs_by_work(config: DumpConfig, teacher: Predictor, corpus: Corpus) -> int:
    """Pairs in a shard, such that a shard is no more work than an interruption may cost.

    Work is counted, not timed, so that a text and a teacher give the same plan on every machine: tokens of all masked
    views of a sample of the pairs, times the weights of the encoder.
    """
    pairs = teacher.tokenizer.encode_pairs(corpus.sample(_SAMPLE_PAIRS))
    views = view_counts(pairs, config.passes, config.distributions.maskings)
    tokens = int(((pairs.source_lengths + pairs.target_lengths) * views).sum())
    work = max(1, tokens * teacher.weights // max(1, pairs.n_pairs))
    fits = max(_SHARD_LEAST, min(_SHARD_MOST, _SHARD_WORK // work))
    size = 1 << (fits.bit_length() - 1)
    while size < _SHARD_MOST and corpus.n_pairs > _SHARDS_MANY * size:
        size *= 2
    return size
