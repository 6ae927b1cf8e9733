"""Top-k distributions: arithmetic by hand, and against loops over plain lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import UsageError
from kdcache.labels.soft_labels import SoftArrays, SoftLabels, concatenate


def two_positions() -> SoftArrays:
    # 1/2 + 1/4 + 1/8 and 1/4 + 1/4 + 1/16; logarithms of powers of two are not exact in float16, probabilities nearly.
    log_probs = [[-math.log(2), -math.log(4), -math.log(8)], [-math.log(4), -math.log(4), -math.log(16)]]
    return SoftLabels(np.array([[7, 3, 9], [2, 5, 7]], np.uint16), np.array(log_probs, np.float32))


def test_mass_by_hand() -> None:
    """The mass of a position is the sum of its stored probabilities, here 7/8 and 9/16."""
    assert two_positions().mass() == pytest.approx([7 / 8, 9 / 16], abs=1e-7)


def test_draws_by_hand() -> None:
    """A point of [0, 1) draws the word below which that share of the mass lies, without the words that are left out.

    The first position has 7, 3 and 9 with 4/7, 2/7 and 1/7; without 3 it has 7 and 9 with 4/5 and 1/5.
    """
    points = np.array([0, 0.57, 0.58, 0.857, 0.858, 0.999])
    first = two_positions().take(np.zeros(len(points), int))
    assert first.draw(points, [])[0].tolist() == [7, 7, 3, 3, 9, 9]
    assert first.draw(np.array([0, 0.57, 0.79, 0.81, 0.9, 0.999]), [3])[0].tolist() == [7, 7, 7, 9, 9, 9]
    words, known = two_positions().draw(np.array([0.5, 1 - 2.0**-53]), [7, 3, 9])
    assert known.tolist() == [False, True]
    assert words[1] == 5


def test_mass_is_summed_in_float64() -> None:
    """Ten thousand words of float16 lose nothing in the sum: 10,000 times exp(-9.5) of float16's exact -9.5."""
    topk = SoftLabels(np.arange(10_000, dtype=np.uint16)[None], np.full((1, 10_000), -9.5, np.float16))
    assert topk.mass()[0] == pytest.approx(10_000 * math.exp(-9.5), rel=1e-12)


def test_rank_by_hand() -> None:
    """A word's rank is its column, and k where it is not among the k."""
    topk = two_positions()
    assert topk.rank_of(np.array([7, 7])).tolist() == [0, 2]
    assert topk.rank_of(np.array([9, 5])).tolist() == [2, 1]
    assert topk.rank_of(np.array([2, 3])).tolist() == [3, 3]


def test_select_keeps_the_first_columns() -> None:
    """Selecting k takes the k best of each position, and all of them give the same values back."""
    topk = two_positions()
    one = topk.select(1)
    assert (one.k, one.token_ids.tolist()) == (1, [[7], [2]])
    assert one.mass() == pytest.approx([1 / 2, 1 / 4], abs=1e-7)
    assert np.array_equal(topk.select(3).token_ids, topk.token_ids)


@pytest.mark.parametrize("k", [0, -1, 4])
def test_select_refuses_what_is_not_stored(k: int) -> None:
    """A k outside 1 … stored is refused, naming both numbers."""
    with pytest.raises(UsageError, match=rf"between 1 and the 3 .*not {k}"):
        two_positions().select(k)


def test_take_and_concatenate_by_hand() -> None:
    """Positions can be picked in any order, also twice, and put together again."""
    topk = two_positions()
    taken = topk.take(np.array([1, 0, 1]))
    assert taken.token_ids.tolist() == [[2, 5, 7], [7, 3, 9], [2, 5, 7]]
    joined = concatenate([topk.take(np.array([0])), topk.take(np.array([1]))])
    assert np.array_equal(joined.token_ids, topk.token_ids)
    assert np.array_equal(joined.log_probs, topk.log_probs)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 6), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_mass_and_rank_equal_slow_loops(n: int, k: int, seed: int) -> None:
    """Array arithmetic gives what loops over Python numbers give, for any n and k."""
    generator = np.random.default_rng(seed)
    ids = np.array([generator.permutation(12)[:k] for _ in range(n)], np.uint16).reshape(n, k)
    log_probs = -np.sort(generator.exponential(3, (n, k)), axis=1).astype(np.float16)
    words = generator.integers(0, 12, n)
    topk = SoftLabels(ids, log_probs)
    masses = [math.fsum(math.exp(float(value)) for value in row) for row in log_probs]
    ranks = [row.index(word) if word in row else k for row, word in zip(ids.tolist(), words.tolist(), strict=True)]
    assert topk.mass() == pytest.approx(masses, rel=1e-12)
    assert topk.rank_of(words).tolist() == ranks
