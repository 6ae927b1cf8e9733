"""Statistics of a cache, each against a loop over single positions that knows nothing of arrays."""

from __future__ import annotations

import dataclasses
import itertools
import math

import numpy as np
import numpy.typing as npt
import pytest
from caches import make_arrays, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.shard import ShardArrays
from kdcache.inspection.cache_statistics import (
    CALIBRATION_BINS,
    CALIBRATION_EDGES,
    LEVELS,
    POSITIONS,
    CacheStatistics,
    Calibration,
    Collector,
    calibration_interval,
    entropy,
    level,
)
from kdcache.labels.soft_labels import SoftArrays, SoftLabels


def collect(shards: list[ShardArrays]) -> CacheStatistics:
    collector = Collector(shards[0].soft.k)
    for arrays in shards:
        collector.add(arrays)
    return collector.statistics()


def padded(arrays: ShardArrays, seed: int) -> ShardArrays:
    """The same with fewer than k words at some positions: the others are listed with probability 0."""
    generator = np.random.default_rng((seed, 7))
    values = arrays.soft.log_probs.copy()
    kept = generator.integers(1, arrays.soft.k + 1, len(values))
    values[np.arange(arrays.soft.k) >= kept[:, None]] = -np.inf
    return dataclasses.replace(arrays, soft=SoftLabels(arrays.soft.token_ids, values))


caches_drawn = st.builds(
    lambda n, size, k, seed, pad: [
        padded(one, seed) if pad else one
        for plan in [make_plan(n, size, k)]
        for one in [make_arrays(plan, i) for i in range(plan.n_shards)]
    ],
    st.integers(1, 40),
    st.integers(1, 12),
    st.integers(1, 6),
    st.integers(0, 9),
    st.booleans(),
)


@dataclasses.dataclass
class Position:
    """One target position, as a loop sees it."""

    from_start: int
    from_end: int
    p: list[float]
    rank: int
    written: float


def positions(shards: list[ShardArrays]) -> list[Position]:
    found = []
    for arrays in shards:
        offsets = arrays.pairs.target_offsets.tolist()
        for start, end in itertools.pairwise(offsets):
            for i in range(start, end):
                p = [math.exp(value) for value in arrays.soft.log_probs[i].tolist()]
                ids, word = arrays.soft.token_ids[i].tolist(), int(arrays.pairs.target_ids[i])
                rank = ids.index(word) if word in ids and p[ids.index(word)] > 0 else len(ids)
                written = math.exp(float(arrays.target_log_prob[i]))
                found.append(Position(i - start, end - 1 - i, p, rank, written))
    return found


def loop_entropy(p: list[float]) -> float:
    buckets = [*p, max(0.0, 1 - sum(p))]
    return -sum(one * math.log(one) for one in buckets if one > 0)


def check_mass(known: CacheStatistics, seen: list[Position]) -> None:
    """Mean and quartiles of the mass of the first j words are those of the sorted list, the quartiles to 0.001."""
    assert known.n_targets == len(seen)
    for j in range(len(known.mass) if seen else 0):
        masses = sorted(sum(one.p[: j + 1]) for one in seen)
        assert known.mass[j] == pytest.approx(sum(masses) / len(masses))
        for row, share in enumerate((0.25, 0.5, 0.75)):
            exact = masses[math.ceil(share * len(masses)) - 1]
            assert abs(known.mass_quartiles[row, j] - min(exact, 1)) <= 0.001


def check_entropy(known: CacheStatistics, seen: list[Position]) -> None:
    """Counts and mean entropies from either end are those of a loop; where nothing is, both are 0."""
    for side, found in (("from_start", known.from_start), ("from_end", known.from_end)):
        for place in range(POSITIONS):
            there = [loop_entropy(one.p) for one in seen if getattr(one, side) == place]
            assert found.counts[place] == len(there)
            assert found.entropy[place] == pytest.approx(sum(there) / max(1, len(there)), abs=1e-12)


def check_written_words(known: CacheStatistics, seen: list[Position]) -> None:
    """Ranks, groups by probability and the mean surprise of the written words are those of a loop."""
    assert known.ranks.tolist() == [sum(one.rank == rank for one in seen) for rank in range(len(known.ranks))]
    groups = [sum(one.written < limit for limit in LEVELS) for one in seen]
    assert known.levels.tolist() == [groups.count(i) for i in range(len(LEVELS) + 1)]
    surprise = -sum(math.log(one.written) for one in seen) / max(1, len(seen))
    assert known.surprise == pytest.approx(surprise, abs=1e-9)


def check_calibration(known: CacheStatistics, seen: list[Position]) -> None:
    """Each interval (lower, upper] and the expected calibration error are those of a loop."""
    found = known.calibration
    error = 0.0
    for i in range(CALIBRATION_BINS):
        there = [one for one in seen if CALIBRATION_EDGES[i] < one.p[0] <= CALIBRATION_EDGES[i + 1]]
        assert found.counts[i] == len(there)
        confidence = sum(one.p[0] for one in there) / max(1, len(there))
        accuracy = sum(one.rank == 0 for one in there) / max(1, len(there))
        assert (found.confidence[i], found.accuracy[i]) == (pytest.approx(confidence), pytest.approx(accuracy))
        error += len(there) / max(1, len(seen)) * abs(confidence - accuracy)
    assert found.error == pytest.approx(error)


@given(caches_drawn)
@settings(max_examples=25, deadline=None)
def test_statistics_are_those_of_a_loop(shards: list[ShardArrays]) -> None:
    """Mass, entropies, ranks, surprise and calibration are those that a loop over single positions finds."""
    known, seen = collect(shards), positions(shards)
    for check in (check_mass, check_entropy, check_written_words, check_calibration):
        check(known, seen)


def test_calibration_error_by_hand() -> None:
    """3 positions that say 90 % and are right twice, 1 that says 40 % and is wrong: ¾ · |⅔ − 0.9| + ¼ · 0.4 = 0.275."""
    counts = np.zeros(CALIBRATION_BINS, np.int64)
    confidence, accuracy = np.zeros(CALIBRATION_BINS), np.zeros(CALIBRATION_BINS)
    counts[[13, 5]], confidence[[13, 5]], accuracy[[13, 5]] = (3, 1), (0.9, 0.4), (2 / 3, 0)
    assert Calibration(counts, confidence, accuracy).error == pytest.approx(0.275)


def topk(rows: list[list[float]]) -> SoftArrays:
    with np.errstate(divide="ignore"):
        values: npt.NDArray[np.float32] = np.log(np.array(rows, np.float32))
    return SoftLabels(np.tile(np.arange(values.shape[1], dtype=np.int32), (len(values), 1)), values)


def test_entropy_by_hand() -> None:
    """Halves give log 2; ¼, ¼ and a tail of ½ give 1.5 · log 2; a sure teacher 0; a mass lifted above 1 no tail."""
    found = entropy(topk([[0.5, 0.5], [0.25, 0.25], [1, 0], [0.5, 0.5004]]))
    assert found == pytest.approx([math.log(2), 1.5 * math.log(2), 0, math.log(2)], abs=1e-3)
    assert not np.signbit(found[2])


def test_a_word_of_probability_0_is_not_listed() -> None:
    """The written word that only fills up the row has the rank k."""
    assert topk([[1, 0], [0.5, 0.5]]).rank_of(np.array([1, 1], np.int32)).tolist() == [2, 1]


def test_intervals_hold_their_upper_end() -> None:
    """An interval ends with its upper end; 0 belongs to the first, and what rounding lifted above 1 to the last."""
    found = calibration_interval([0, 1 / 15, 0.2, np.nextafter(0.2, 1), 14 / 15, 1, 1.0004])
    assert found.tolist() == [0, 0, 2, 3, 13, 14, 14]


def test_levels_are_half_open() -> None:
    """A probability of exactly one half is not below one half."""
    assert level([1, 0.5, 0.4, 0.1, 0.01, 0.001, 0.0009, 0]).tolist() == [0, 0, 1, 1, 2, 3, 4, 4]


def test_nothing_grows_with_the_pairs() -> None:
    """What a collector keeps has the same size after one shard and after thirty."""
    plan = make_plan(240, 8, 4)

    def size(shards: int) -> int:
        collector = Collector(plan.topk)
        for index in range(shards):
            collector.add(make_arrays(plan, index))
        return sum(one.nbytes for one in vars(collector).values() if isinstance(one, np.ndarray))

    assert size(1) == size(30) < 100_000


def test_positions_behind_the_last_are_left_out() -> None:
    """A target longer than 64 counts 64 positions from each end, and every one of its positions elsewhere."""
    arrays = make_arrays(make_plan(1, 1), 0)
    n = 100
    long = dataclasses.replace(
        arrays,
        pairs=dataclasses.replace(
            arrays.pairs, target_ids=np.resize(arrays.pairs.target_ids, n), target_offsets=np.array([0, n])
        ),
        soft=SoftLabels(np.resize(arrays.soft.token_ids, (n, 4)), np.resize(arrays.soft.log_probs, (n, 4))),
        target_log_prob=np.resize(arrays.target_log_prob, n),
    )
    known = collect([long])
    assert known.n_targets == known.ranks.sum() == n
    assert known.from_start.counts.tolist() == known.from_end.counts.tolist() == [1] * POSITIONS
