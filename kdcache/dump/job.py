"""What is needed to run a teacher over a corpus, and doing it for some pairs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from kdcache.cache import layout
from kdcache.cache.encoding import Encoding
from kdcache.cache.plan import FORMAT, VERSION, Plan
from kdcache.cache.shard import ShardArrays
from kdcache.corpus import Corpus
from kdcache.device import resolve_device, resolve_precision
from kdcache.dump.config import DumpConfig
from kdcache.dump.parts import PartwiseTeacher
from kdcache.encode import encode_slice
from kdcache.errors import DataError, UsageError
from kdcache.masking import MaskedViews, partition_batches
from kdcache.processes import this_process
from kdcache.runs import log
from kdcache.softlabels import TopK
from kdcache.teacher.model import Predictions, Teacher
from kdcache.textcheck import tokenizer_warnings
from kdcache.tokens import EncodedPairs, Tokenizer


class Predictor(Protocol):
    """What a dump asks of a teacher; see `kdcache.teacher.model.Teacher`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which cache and students share."""

    @property
    def positions(self) -> int:
        """Tokens that fit into one view."""

    @property
    def vocabulary(self) -> int:
        """Size of the output vocabulary."""

    def predict(self, views: MaskedViews, k: int, device: torch.device, precision: str) -> Predictions:
        """The k best words and the written word's log-probability at each masked position."""

    def fingerprint(self) -> str:
        """Which teacher it is."""


@dataclass(frozen=True, slots=True)
class Job:
    """All that a dump needs: the teacher on its device, the corpus, and the plan of the cache."""

    config: DumpConfig
    teacher: Predictor
    corpus: Corpus
    plan: Plan
    device: torch.device
    _partwise: PartwiseTeacher = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_partwise", PartwiseTeacher(self._predict))

    def _predict(self, views: MaskedViews) -> Predictions:
        return self.teacher.predict(views, self.plan.topk, self.device, self.plan.precision)

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
        special = self.teacher.tokenizer.special
        running: tuple[npt.NDArray[np.int64], Predictions] | None = None
        for batch in partition_batches(pairs, self.plan.passes, self.config.max_tokens, special):
            for views, found in self._partwise.parts(batch):
                # One batch late, so that a GPU has work while the one before is taken in and the next is laid out.
                if running is not None:
                    collected.add(*running)
                running = views.target_rows, found
                after_batch(len(views.lengths))
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
        self._pairs = pairs
        n = pairs.n_targets
        self._round = plan.encoding.round
        self._ids: npt.NDArray[Any] = np.zeros((n, plan.topk), dtype=plan.encoding.ids)
        # What no batch fills stays not-a-number and is refused.
        self._log_probs = np.full((n, plan.topk), np.nan, dtype=np.float16)
        self._written = np.full(n, np.nan, dtype=np.float16)

    def add(self, rows: npt.NDArray[np.int64], found: Predictions) -> None:
        self._ids[rows] = found.topk.token_ids
        self._log_probs[rows] = self._round(found.topk.log_probs)
        self._written[rows] = self._round(found.target_log_prob)

    def first_bad(self) -> int | None:
        bad = ~(np.isfinite(self._log_probs).all(axis=1) & np.isfinite(self._written))
        return int(np.flatnonzero(bad)[0]) if bad.any() else None

    def arrays(self) -> ShardArrays:
        return ShardArrays(self._pairs, TopK(self._ids, self._log_probs), self._written)


def prepare(config: DumpConfig) -> Job:
    """Open the teacher and the corpus and make the plan; writes nothing.

    Raises:
        UsageError: a setting is outside its range.
        ModelError: the teacher cannot be used.
        DataError: the text breaks a rule.
    """
    config.check()
    device = resolve_device(config.device, this_process().local)
    corpus = Corpus(config.text, skip_bad=config.skip_bad)
    teacher = Teacher.load(Path(config.teacher))
    if config.topk > teacher.vocabulary:
        raise UsageError(f"--topk {config.topk}: the teacher's vocabulary has only {teacher.vocabulary} words.")
    for warning in tokenizer_warnings(teacher.tokenizer, corpus):
        log.warning("%s", warning)
    plan = make_plan(config, teacher, corpus, device)
    layout.check_shards(plan)
    teacher.model.to(device)
    return Job(config, teacher, corpus, plan, device)


def make_plan(config: DumpConfig, teacher: Predictor, corpus: Corpus, device: torch.device) -> Plan:
    """What the cache of this teacher and corpus will be."""
    return Plan(
        format=FORMAT,
        version=VERSION,
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
        encoding=Encoding.named(config.encoding, teacher.vocabulary),
    )
