"""Statistics of all target positions of a cache, taken shard by shard.

Only sums and histograms of fixed size are kept between shards, however many pairs there are. A word that is listed
with probability 0 (a log-probability of −∞) counts as not listed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.shard import ShardArrays
from kdcache.labels.soft_labels import SoftArrays
from kdcache.text.encoded_pairs import EncodedPairs

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]

# Guo et al. take as many.
CALIBRATION_BINS = 15
CALIBRATION_EDGES: Floats = np.arange(CALIBRATION_BINS + 1) / CALIBRATION_BINS
# How many positions from either end are told apart; those further inside are not counted.
POSITIONS = 64
MASS_BINS = 1000
# Probabilities that divide the written words into those the teacher expects and those that surprise it.
LEVELS = (0.5, 0.1, 0.01, 0.001)
_QUARTERS = np.array([0.25, 0.5, 0.75])


@dataclass(frozen=True, slots=True)
class ByPosition:
    """Mean entropy at positions that have the same distance from one end of the target.

    Attributes:
        counts: target positions at distance 0 … 63, int64 [64]. From the end, distance 0 is the end token.
        entropy: mean of `entropy` there, in nats, float64 [64]; 0 where there is none.
    """

    counts: Counts
    entropy: Floats


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often the teacher is right, by how probable it finds its first word: the reliability diagram.

    Positions are sorted by the probability p of the teacher's first word into the 15 intervals ((m − 1)/15, m/15]; 0
    belongs to the first.

    Attributes:
        counts: positions in each interval, int64 [15].
        confidence: mean of p there, float64 [15]; 0 where there is none.
        accuracy: share of them whose written word is the teacher's first, float64 [15]; 0 where there is none.
    """

    counts: Counts
    confidence: Floats
    accuracy: Floats

    @property
    def error(self) -> float:
        """Expected calibration error: Σ_m counts_m/n · |accuracy_m − confidence_m|.

        Guo, Pleiss, Sun, Weinberger, *On Calibration of Modern Neural Networks*, ICML 2017, equation 5.
        """
        gaps = np.abs(self.accuracy - self.confidence)
        return float((self.counts * gaps).sum() / max(1, self.counts.sum()))


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """Statistics of a cache.

    Attributes:
        n_targets: number of target positions, end tokens included.
        surprise: mean of −log p of the written words, in nats; infinite where one has probability 0.
        mass: mean probability that the first 1 … k words have together, float64 [k].
        mass_quartiles: its lower quartile, median, upper quartile: float64 [3, k]. The quantile q is the smallest value
            that at least a share q of the positions does not exceed; it is read off a histogram of 1,000 bins and less
            than 0.001 off.
        ranks: positions whose written word is the teacher's 1st, …, k-th, or none of them: int64 [k + 1].
        levels: positions by the probability p of the written word: p ≥ 0.5, ≥ 0.1, ≥ 0.01, ≥ 0.001, less: int64 [5].
        from_start, from_end: mean entropy by position.
        calibration: calibration of the teacher's first word.
    """

    n_targets: int
    surprise: float
    mass: Floats
    mass_quartiles: Floats
    ranks: Counts
    levels: Counts
    from_start: ByPosition
    from_end: ByPosition
    calibration: Calibration


def entropy(soft: SoftArrays) -> Floats:
    """Entropy of the k words and one bucket for all others, in nats: [n, k] to float64 [n].

    −Σ_j p_j log p_j − r log r with r = 1 − Σ_j p_j, the mass of the tail (0 where rounding lifted the sum above 1).
    Words that share a bucket cannot be told apart, so this is at most the entropy over the whole vocabulary; it lies
    between 0 and log(k + 1). For an average of caches this is no bound, since the bucket has parts of the k words too.
    """
    p = np.exp(soft.log_probs.astype(np.float64))
    total: Floats = _information(p).sum(axis=1) + _information(1.0 - p.sum(axis=1))
    return total


def _information(p: Floats) -> Floats:
    """−p log p of each, 0 at 0 and below."""
    logs = np.log(p, out=np.zeros_like(p), where=p > 0)
    information: Floats = 0.0 - p * logs
    return information


def level(p: npt.ArrayLike) -> Counts:
    """How many of `LEVELS` each probability lies below, 0 to 4: int64 of the same shape."""
    below: Counts = (np.asarray(p)[..., None] < np.array(LEVELS)).sum(axis=-1)
    return below


def calibration_interval(p: npt.ArrayLike) -> Counts:
    """The interval ((m − 1)/15, m/15] of each probability, from 0 for the first, which also has p = 0: int64."""
    interval: Counts = np.searchsorted(CALIBRATION_EDGES, np.asarray(p), side="left") - 1
    return np.clip(interval, 0, CALIBRATION_BINS - 1)


class Collector:
    """Sums over the shards that were added; `k` is the number of words that they store at a position."""

    def __init__(self, k: int) -> None:
        self._k = k
        self._n = 0
        self._surprise = 0.0
        self._mass = np.zeros(k)
        self._masses = np.zeros((k, MASS_BINS), np.int64)
        self._ranks = np.zeros(k + 1, np.int64)
        self._levels = np.zeros(len(LEVELS) + 1, np.int64)
        # The first row counts positions from the start of the target, the second from its end.
        self._at = np.zeros((2, POSITIONS), np.int64)
        self._entropy = np.zeros((2, POSITIONS))
        # The rows hold the positions of each interval, the sums of p, and the positions where the first word is right.
        self._intervals = np.zeros((3, CALIBRATION_BINS))

    def add(self, arrays: ShardArrays) -> None:
        """Add all target positions of a shard."""
        n = arrays.pairs.n_targets
        if n == 0:
            return
        self._n += n
        written = arrays.target_log_prob.astype(np.float64)
        self._surprise -= float(written.sum())
        self._levels += np.bincount(level(np.exp(written)), minlength=len(LEVELS) + 1)
        ranks = arrays.soft.rank_of(arrays.pairs.target_ids)
        self._ranks += np.bincount(ranks, minlength=self._k + 1)
        self._add_mass(arrays.soft)
        self._add_entropy(arrays.pairs, entropy(arrays.soft))
        self._add_calibration(np.exp(arrays.soft.log_probs[:, 0].astype(np.float64)), ranks == 0)

    def _add_mass(self, soft: SoftArrays) -> None:
        # The columns are added one after the other, since a table of all partial sums would be four times the shard.
        total = np.zeros(len(soft.log_probs))
        for column in range(self._k):
            total += np.exp(soft.log_probs[:, column].astype(np.float64))
            self._mass[column] += total.sum()
            bins = np.minimum((total * MASS_BINS).astype(np.int64), MASS_BINS - 1)
            self._masses[column] += np.bincount(bins, minlength=MASS_BINS)

    def _add_entropy(self, pairs: EncodedPairs, values: Floats) -> None:
        places = np.arange(pairs.n_targets)
        starts, ends = (
            np.repeat(offsets, pairs.target_lengths)
            for offsets in (pairs.target_offsets[:-1], pairs.target_offsets[1:])
        )
        for side, distance in enumerate((places - starts, ends - 1 - places)):
            near = distance < POSITIONS
            self._at[side] += np.bincount(distance[near], minlength=POSITIONS)
            self._entropy[side] += np.bincount(distance[near], weights=values[near], minlength=POSITIONS)

    def _add_calibration(self, confidence: Floats, right: npt.NDArray[np.bool_]) -> None:
        interval = calibration_interval(confidence)
        for row, weights in enumerate((np.ones_like(confidence), confidence, right.astype(np.float64))):
            self._intervals[row] += np.bincount(interval, weights=weights, minlength=CALIBRATION_BINS)

    def statistics(self) -> CacheStatistics:
        """The statistics of what was added until now."""
        n = max(1, self._n)
        start, end = (ByPosition(self._at[i].copy(), _mean(self._entropy[i], self._at[i])) for i in range(2))
        counts = self._intervals[0].astype(np.int64)
        return CacheStatistics(
            self._n,
            self._surprise / n,
            self._mass / n,
            _quartiles(self._masses),
            self._ranks.copy(),
            self._levels.copy(),
            start,
            end,
            Calibration(counts, _mean(self._intervals[1], counts), _mean(self._intervals[2], counts)),
        )


def _mean(sums: Floats, counts: Counts) -> Floats:
    mean: Floats = sums / np.maximum(counts, 1)
    return mean


def _quartiles(histograms: npt.NDArray[np.int64]) -> Floats:
    """Quartiles [3, k] of histograms [k, bins] over [0, 1], interpolated inside their bin."""
    quartiles = np.zeros((len(_QUARTERS), len(histograms)))
    for column, counts in enumerate(histograms):
        upto = np.cumsum(counts)
        wanted: Any = _QUARTERS * upto[-1]
        bins = np.searchsorted(upto, wanted, side="left")
        inside = np.maximum(counts[bins], 1)
        quartiles[:, column] = (bins + (wanted - (upto[bins] - counts[bins])) / inside) / counts.size
    return quartiles
