"""Single pairs that are worth a look, picked while the shards of a cache are read.

Only picked pairs are kept, each as a copy of its own arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdcache.cache.shard import ShardArrays
from kdcache.labels.soft_labels import SoftArrays, SoftLabels
from kdcache.text import ragged
from kdcache.text.encoded_pairs import IdArray

_SEED = 20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PickedPair:
    """One pair and everything that its shard holds about it.

    Attributes:
        index: number of the pair in the corpus, from 0.
        source_ids: [S].
        target_ids: [N].
        soft: of its N target positions.
        surprise: −log p of the written words in nats, float64 [N].
    """

    index: int
    source_ids: IdArray
    target_ids: IdArray
    soft: SoftArrays
    surprise: Floats

    @property
    def mean(self) -> float:
        """Mean surprise of a target position, in nats."""
        return float(self.surprise.mean())

    @property
    def worst(self) -> int:
        """The target position of the most surprising word, from 0."""
        return int(self.surprise.argmax())


def pick(arrays: ShardArrays, row: int, first: int) -> PickedPair:
    """The pair `row` of a shard that begins with pair `first`, as a copy."""
    pairs = arrays.pairs
    source = slice(int(pairs.source_offsets[row]), int(pairs.source_offsets[row + 1]))
    target = slice(int(pairs.target_offsets[row]), int(pairs.target_offsets[row + 1]))
    return PickedPair(
        first + row,
        pairs.source_ids[source].copy(),
        pairs.target_ids[target].copy(),
        SoftLabels(arrays.soft.token_ids[target].copy(), arrays.soft.log_probs[target].copy()),
        -arrays.target_log_prob[target].astype(np.float64),
    )


def usable_rows(arrays: ShardArrays) -> npt.NDArray[np.int64]:
    """The pairs of a shard that were not skipped, int64."""
    return np.flatnonzero(arrays.pairs.target_lengths).astype(np.int64)


class MostSurprisingPairs:
    """The `limit` pairs at whose words the teacher is most surprised, on average and by their worst word."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_mean: list[tuple[float, PickedPair]] = []
        self._by_word: list[tuple[float, PickedPair]] = []

    @property
    def by_mean(self) -> list[PickedPair]:
        """The pairs by falling mean of −log p over their target positions, end token included; equal ones by index."""
        return [pair for _, pair in self._by_mean]

    @property
    def by_word(self) -> list[PickedPair]:
        """The pairs by falling −log p of the most surprising word; equal ones by index."""
        return [pair for _, pair in self._by_word]

    def add(self, arrays: ShardArrays, first: int) -> None:
        """Look at all pairs of a shard that begins with pair `first`; shards come in order."""
        rows = usable_rows(arrays)
        if len(rows) == 0:
            return
        surprise = -arrays.target_log_prob.astype(np.float64)
        # Skipped pairs take no room, so each of the others ends where the next begins.
        starts = arrays.pairs.target_offsets[rows]
        sums = np.add.reduceat(surprise, starts)
        self._by_mean = self._merge(self._by_mean, sums / arrays.pairs.target_lengths[rows], rows, arrays, first)
        self._by_word = self._merge(self._by_word, np.maximum.reduceat(surprise, starts), rows, arrays, first)

    def _merge(
        self,
        kept: list[tuple[float, PickedPair]],
        scores: Floats,
        rows: npt.NDArray[np.int64],
        arrays: ShardArrays,
        first: int,
    ) -> list[tuple[float, PickedPair]]:
        """The highest of the pairs that were `kept` and of a shard's `rows` [m], which have these `scores` [m]."""
        least = kept[-1][0] if len(kept) == self._limit else -np.inf
        order = np.argsort(-scores, kind="stable")[: self._limit]
        new = [(float(scores[i]), pick(arrays, int(rows[i]), first)) for i in order if scores[i] > least]
        # The sort is stable and earlier pairs come first.
        return sorted([*kept, *new], key=lambda scored: -scored[0])[: self._limit]


class Sample:
    """About `count` pairs, spread evenly over the usable ones and drawn with a fixed seed.

    The usable pairs are divided into `count` runs whose lengths differ by one at most, and one pair of each run is
    drawn. `usable` has their number in each shard. All are taken if there are no more than `count`.
    """

    def __init__(self, usable: Sequence[int], count: int) -> None:
        self._offsets = ragged.offsets_of(usable)
        self._chosen = _spread(int(self._offsets[-1]), count)
        self.pairs: list[PickedPair] = []

    def add(self, arrays: ShardArrays, index: int, first: int) -> None:
        """Take the pairs that were drawn from shard `index`, which begins with pair `first`."""
        low, high = self._offsets[index : index + 2]
        inside = self._chosen[(self._chosen >= low) & (self._chosen < high)] - low
        rows = usable_rows(arrays)
        # A record can be wrong about what was skipped; verify says so.
        self.pairs.extend(pick(arrays, int(row), first) for row in rows[inside[inside < len(rows)]])


def _spread(total: int, count: int) -> npt.NDArray[np.int64]:
    """Rising numbers below `total`, one from each of `count` runs; all of them if there are fewer."""
    count = min(count, total)
    bounds = np.arange(count + 1, dtype=np.int64) * total // max(1, count)
    return np.random.default_rng((_SEED, total)).integers(bounds[:-1], bounds[1:])
