"""A cache that averages others: several teachers, or one teacher with several maskings, over the same text.

At each target position source m knows p_m(w) for the words of its head H_m, its k_m best, and for the written word y.
Any other word has between 0 and min(p_m(last of H_m), r_m), where r_m is what is left of 1. Of the average
p(w) = (1/M) Σ_m p_m(w) only the known part is stored, (1/M) Σ_{m: w known} p_m(w); nothing is renormalised.
docs/method.md has the bounds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.encoding import Encoding
from kdcache.cache.plan import Plan, Source
from kdcache.cache.ranges import PairRanges, take
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.shard import ShardArrays
from kdcache.errors import CorruptError, MismatchError, UsageError
from kdcache.files import sha256
from kdcache.records import canonical_json
from kdcache.softlabels import TopK
from kdcache.tokens import EncodedPairs, Tokenizer

# What the sources of a merge must have in common.
SHARED = ("corpus", "n_pairs", "tokenizer", "vocabulary")
# Cells of the tables that are sorted at a time: some tens of megabytes.
_CELLS = 1 << 19

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MergeConfig:
    """Which caches are averaged.

    Attributes:
        caches: their folders or URLs, at least two; the order does not matter.
        topk: words stored at each target position; None is the least of the sources'.
    """

    caches: tuple[str, ...]
    topk: int | None = None

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        if len(self.caches) < 2:
            raise UsageError("At least two caches are needed to average them.")
        if self.topk is not None and self.topk < 1:
            raise UsageError(f"--topk must be at least 1, not {self.topk}.")


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where the mass of the averages is, summed over target positions.

    Attributes:
        positions: how many.
        kept: known parts of the words that are stored.
        cut: known parts of words that are not.
        tails: what no source says anything about but its amount.
        missed: how much of `tails` may belong to words that are stored, at most.
        skipped: pairs that only some of the sources skipped; they are skipped here.
    """

    positions: int = 0
    kept: float = 0.0
    cut: float = 0.0
    tails: float = 0.0
    missed: float = 0.0
    skipped: int = 0

    @classmethod
    def total(cls, parts: Sequence[Whereabouts]) -> Whereabouts:
        """The sum over several runs of positions, the same in whatever order they come."""
        return cls(
            positions=sum(part.positions for part in parts),
            kept=math.fsum(part.kept for part in parts),
            cut=math.fsum(part.cut for part in parts),
            tails=math.fsum(part.tails for part in parts),
            missed=math.fsum(part.missed for part in parts),
            skipped=sum(part.skipped for part in parts),
        )

    def shares(self) -> dict[str, float]:
        """The four masses as means over the positions."""
        names = ("kept", "cut", "tails", "missed")
        return {name: getattr(self, name) / max(1, self.positions) for name in names}


class Merging:
    """The shards of the average of several caches.

    Attributes:
        plan: of the average.

    Raises:
        MismatchError: the sources are not of the same text, tokenizer or vocabulary.
        UsageError: a source is given twice, holds draws, or has fewer words than are asked for.
        CorruptError: a source is incomplete, or its plan or manifest is damaged.
    """

    def __init__(self, config: MergeConfig) -> None:
        config.check()
        readers = [open_cache(cache) for cache in config.caches]
        # By content, so that the order in which they were given is nowhere in the result.
        self._readers = sorted(readers, key=lambda reader: reader.manifest.root)
        _check_sources(readers)
        self._ranges = [PairRanges(reader) for reader in self._readers]
        self.plan = _plan(config, self._readers)
        self._whereabouts: dict[int, Whereabouts] = {}

    def tokenizer(self) -> Tokenizer:
        """The tokenizer that the sources share."""
        return self._readers[0].tokenizer()

    def shard(self, index: int) -> ShardArrays:
        """What shard `index` of the average holds.

        Raises:
            CorruptError: a shard of a source is damaged, or the sources hold different words.
        """
        parts = [ranges.read(*self.plan.bounds(index)) for ranges in self._ranges]
        skipped, some = _skipped(parts)
        kept = [take(part, np.flatnonzero(~skipped)) for part in parts]
        self._check_words(kept, np.flatnonzero(~skipped) + self.plan.bounds(index)[0])
        topk, own, whereabouts = average(kept, self.plan)
        self._whereabouts[index] = dataclasses.replace(whereabouts, skipped=some)
        return ShardArrays(parts[0].pairs.without(skipped), topk, own)

    def _check_words(self, parts: Sequence[ShardArrays], numbers: npt.NDArray[np.integer]) -> None:
        for part, reader in zip(parts[1:], self._readers[1:], strict=True):
            pair = _first_difference(parts[0].pairs, part.pairs)
            if pair is not None:
                raise CorruptError(
                    f"{reader.place}: the words of line {numbers[pair] + 1:,} are not those of "
                    f"{self._readers[0].place}, though corpus and tokenizer are the same. One of them was "
                    "edited, or another program wrote it."
                )

    def report(self) -> dict[str, Any]:
        """Where the mass is, over all shards; those that another run or process wrote are averaged again for it."""
        for index in range(self.plan.n_shards):
            if index not in self._whereabouts:
                self.shard(index)
        total = Whereabouts.total([self._whereabouts[index] for index in range(self.plan.n_shards)])
        return {"skipped_in_some": total.skipped, "mass": total.shares()}


def _first_difference(one: EncodedPairs, other: EncodedPairs) -> int | None:
    """The first pair whose words differ; None if there is none."""
    places = []
    for ids, offsets, other_ids, other_offsets in (
        (one.source_ids, one.source_offsets, other.source_ids, other.source_offsets),
        (one.target_ids, one.target_offsets, other.target_ids, other.target_offsets),
    ):
        most = min(len(ids), len(other_ids))
        wrong = [offsets[1:] != other_offsets[1:], ids[:most] != other_ids[:most]]
        ends, words = (np.flatnonzero(each) for each in wrong)
        places += ends[:1].tolist()
        places += (np.searchsorted(offsets, words[:1], side="right") - 1).tolist()
    return min(places, default=None)


def _check_sources(readers: Sequence[CacheReader]) -> None:
    first, seen = readers[0], dict[str, CacheReader]()
    for reader in readers:
        for field in SHARED:
            stored, given = getattr(first.plan, field), getattr(reader.plan, field)
            if stored != given:
                remedy = f"Caches that are averaged share it; the first was {first.place}."
                raise MismatchError(reader.place, field, stored, given, remedy)
        if reader.plan.draws:
            raise UsageError(
                f"{reader.place}: holds {reader.plan.draws} draws a position, not the most probable words; samples are "
                "not averaged. Run dump-logits without draws."
            )
        if reader.manifest.root in seen:
            other = seen[reader.manifest.root].place
            raise UsageError(f"{reader.place}: the same cache as {other}. Each counts once; weights are equal.")
        seen[reader.manifest.root] = reader


def _plan(config: MergeConfig, readers: Sequence[CacheReader]) -> Plan:
    plans = [reader.plan for reader in readers]
    topk = min(plan.topk for plan in plans) if config.topk is None else config.topk
    most = max(plan.topk for plan in plans)
    if topk > most:
        raise UsageError(f"--topk {topk}: no source holds more than {most} words a position. Choose at most that many.")
    encodings = {plan.encoding for plan in plans}
    teachers = sorted(plan.teacher for plan in plans)
    first = plans[0]
    return Plan(
        format=first.format,
        version=first.version,
        corpus=first.corpus,
        n_pairs=first.n_pairs,
        tokenizer=first.tokenizer,
        vocabulary=first.vocabulary,
        teacher=teachers[0] if len(set(teachers)) == 1 else sha256(canonical_json(teachers)),
        positions=min(plan.positions for plan in plans),
        topk=topk,
        passes=max(plan.passes for plan in plans),
        precision="float32" if all(plan.precision == "float32" for plan in plans) else "bfloat16",
        shard_pairs=min(plan.shard_pairs for plan in plans),
        encoding=encodings.pop() if len(encodings) == 1 else Encoding.named("float16", first.vocabulary),
        maskings=sum(plan.maskings for plan in plans),
        sources=tuple(Source(reader.manifest.root, reader.plan) for reader in readers),
    )


def _skipped(parts: Sequence[ShardArrays]) -> tuple[npt.NDArray[np.bool_], int]:
    """Pairs that at least one source skipped [n], and how many of them not all skipped."""
    times = np.sum([part.pairs.target_lengths == 0 for part in parts], axis=0)
    return times > 0, int(((times > 0) & (times < len(parts))).sum())


def average(parts: Sequence[ShardArrays], plan: Plan) -> tuple[TopK, npt.NDArray[np.float16], Whereabouts]:
    """The `plan.topk` words with the largest known parts, the written word's own, and where the mass is.

    The sources `parts` hold the same pairs; values are rounded as `plan` stores them. Words with the same known part
    stand in the order of their ids.
    """
    n, k = parts[0].pairs.n_targets, plan.topk
    ids = np.zeros((n, k), dtype=plan.encoding.ids)
    log_probs, own = np.zeros((n, k), dtype=np.float16), np.zeros(n, dtype=np.float16)
    sums = []
    for rows in _runs(n, sum(part.topk.k + 1 for part in parts)):
        heads = [(part.topk.token_ids[rows], part.topk.log_probs[rows], part.target_log_prob[rows]) for part in parts]
        table = _Table(heads, parts[0].pairs.target_ids[rows], plan)
        order = table.best(k)
        ids[rows] = np.take_along_axis(table.ids, order, axis=1)
        log_probs[rows] = plan.encoding.round(np.take_along_axis(table.known, order, axis=1))
        own[rows] = plan.encoding.round(table.written)
        sums.append(table.whereabouts(order))
    return TopK(ids, log_probs), own, Whereabouts.total(sums)


def _runs(n: int, cells: int) -> Iterator[slice]:
    step = max(1, _CELLS // cells)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


class _Table:
    """All that the sources know about the words at n positions, one cell for a word and a source, sorted by word.

    Attributes:
        ids: int64 [n, cells]; V where a cell is empty.
        known: the logarithm of a word's known part in the first of its cells, -inf in all others: [n, cells].
        written: of the written word, [n].
    """

    def __init__(
        self, heads: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]], targets: Any, plan: Plan
    ) -> None:
        self._heads, self._vocabulary = heads, plan.vocabulary
        self._targets = targets.astype(np.int64)[:, None]
        ids, values, owners = zip(*(self._cells_of(m, *head) for m, head in enumerate(heads)), strict=True)
        joined = np.concatenate(ids, axis=1)
        # Stable, so that the cells of a word stand in the order of the sources.
        order = np.argsort(joined, axis=1, kind="stable")
        self.ids = np.take_along_axis(joined, order, axis=1)
        self._owners = np.concatenate(owners)[order]
        self.known = self._fold(np.take_along_axis(np.concatenate(values, axis=1), order, axis=1))
        place = (self.ids < self._targets).sum(axis=1, keepdims=True)
        self.written: Floats = np.take_along_axis(self.known, place, axis=1)[:, 0]

    def _cells_of(self, m: int, ids: Any, log_probs: Any, own: Any) -> tuple[Any, Floats, Any]:
        """The words of one head but the written one, which is known to all sources and gets a cell of its own."""
        is_written = ids == self._targets
        words = np.where(is_written, self._vocabulary, ids.astype(np.int64))
        values = np.where(is_written, -np.inf, log_probs.astype(np.float64))
        cells = np.concatenate([words, self._targets], axis=1)
        return cells, np.concatenate([values, own.astype(np.float64)[:, None]], axis=1), np.full(cells.shape[1], m)

    def _fold(self, values: Floats) -> Floats:
        first = np.ones(self.ids.shape, dtype=bool)
        first[:, 1:] = self.ids[:, 1:] != self.ids[:, :-1]
        self._first = first
        folded = values.copy()
        # A word has a cell from each source at most.
        for ahead in range(1, min(len(self._heads), self.ids.shape[1])):
            same = self.ids[:, ahead:] == self.ids[:, :-ahead]
            more = np.where(same, values[:, ahead:], -np.inf)
            folded[:, :-ahead] = np.logaddexp(folded[:, :-ahead], more)
        return np.where(first, folded - math.log(len(self._heads)), -np.inf)

    def best(self, k: int) -> npt.NDArray[np.intp]:
        """The first cells of the k words with the largest known parts, [n, k]."""
        return np.argsort(-self.known, axis=1, kind="stable")[:, :k]

    def whereabouts(self, order: npt.NDArray[np.intp]) -> Whereabouts:
        """Where the mass is if the words at `order` [n, k] are stored."""
        n, k = order.shape
        known = np.exp(self.known)
        kept = np.take_along_axis(known, order, axis=1).sum(axis=1)
        is_kept = np.zeros(self.ids.shape, dtype=bool)
        np.put_along_axis(is_kept, order, True, axis=1)
        # Each cell looks at the first one of its word.
        columns = np.arange(self.ids.shape[1])
        firsts = np.maximum.accumulate(np.where(self._first, columns, 0), axis=1)
        is_kept = np.take_along_axis(is_kept, firsts, axis=1)
        tails, missed = np.zeros(n), np.zeros(n)
        for m, (ids, log_probs, own) in enumerate(self._heads):
            head = np.exp(log_probs.astype(np.float64))
            apart = np.where((ids == self._targets).any(axis=1), 0.0, np.exp(own.astype(np.float64)))
            left = np.maximum(0.0, 1 - head.sum(axis=1) - apart)
            unknown = k - (is_kept & (self._owners == m)).sum(axis=1)
            tails += left / len(self._heads)
            missed += np.minimum(left, unknown * np.minimum(head[:, -1], left)) / len(self._heads)
        return Whereabouts(
            positions=n,
            kept=math.fsum(kept),
            cut=math.fsum(known.sum(axis=1) - kept),
            tails=math.fsum(tails),
            missed=math.fsum(missed),
        )
