"""Pairs picked out of the shards: the worst and the sample, against a look at all pairs at once."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from caches import make_arrays, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.plan import Plan
from kdcache.inspection.picked_pairs import MostSurprisingPairs, PickedPair, Sample, pick, usable_rows


def all_pairs(plan: Plan) -> list[PickedPair]:
    found = []
    for index in range(plan.n_shards):
        arrays, first = make_arrays(plan, index), plan.bounds(index)[0]
        found.extend(pick(arrays, int(row), first) for row in usable_rows(arrays))
    return found


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_worst_are_those_of_a_sorted_list(n_pairs: int, shard_pairs: int, limit: int) -> None:
    """However pairs lie in shards, both lists are the heads of all pairs sorted by surprise, then by index."""
    plan = make_plan(n_pairs, shard_pairs)
    worst = MostSurprisingPairs(limit)
    for index in range(plan.n_shards):
        worst.add(make_arrays(plan, index), plan.bounds(index)[0])
    pairs = all_pairs(plan)
    by_mean = sorted(pairs, key=lambda one: (-round(one.mean, 9), one.index))[:limit]
    by_word = sorted(pairs, key=lambda one: (-max(one.surprise.tolist()), one.index))[:limit]
    assert [one.index for one in worst.by_mean] == [one.index for one in by_mean]
    assert [one.index for one in worst.by_word] == [one.index for one in by_word]


def test_equal_pairs_come_in_their_order() -> None:
    """Where pairs are equally bad, those that come first in the corpus are kept, over shards too."""
    plan = make_plan(30, 10)
    arrays = make_arrays(plan, 0)
    arrays.target_log_prob[:] = -2
    worst = MostSurprisingPairs(7)
    for first in (0, 10, 20):
        worst.add(arrays, first)
    expected = [int(row) for row in usable_rows(arrays)][:7]
    assert [one.index for one in worst.by_mean] == [one.index for one in worst.by_word] == expected


def test_a_pick_holds_the_pair_alone() -> None:
    """A picked pair has its own arrays, so that its shard can be freed, and its index counts from the cache's start."""
    plan = make_plan(20, 8)
    arrays = make_arrays(plan, 1)
    row = int(usable_rows(arrays)[1])
    pair = pick(arrays, row, 8)
    offsets = arrays.pairs.target_offsets
    assert pair.index == 8 + row
    assert pair.target_ids.tolist() == arrays.pairs.target_ids[offsets[row] : offsets[row + 1]].tolist()
    assert pair.surprise.tolist() == (-arrays.target_log_prob[offsets[row] : offsets[row + 1]]).tolist()
    assert pair.worst == pair.surprise.tolist().index(max(pair.surprise.tolist()))
    for own in (pair.source_ids, pair.target_ids, pair.soft.token_ids, pair.soft.log_probs, pair.surprise):
        assert own.base is None
        assert len(own) == (len(pair.source_ids) if own is pair.source_ids else len(pair.target_ids))


def draw(plan: Plan, count: int) -> list[int]:
    shards = [make_arrays(plan, index) for index in range(plan.n_shards)]
    sample = Sample([len(usable_rows(one)) for one in shards], count)
    for index, arrays in enumerate(shards):
        sample.add(arrays, index, plan.bounds(index)[0])
    return [one.index for one in sample.pairs]


@given(st.integers(1, 60), st.integers(1, 20), st.integers(1, 12))
@settings(max_examples=30, deadline=None)
def test_the_sample_is_spread_over_the_usable_pairs(n_pairs: int, shard_pairs: int, count: int) -> None:
    """One pair of each of `count` runs of the usable pairs is drawn, no skipped one, each time the same."""
    plan = make_plan(n_pairs, shard_pairs)
    usable = [one.index for one in all_pairs(plan)]
    drawn = draw(plan, count)
    assert drawn == draw(plan, count)
    assert len(drawn) == min(count, len(usable))
    runs = Counter(
        min(i for i in range(len(drawn)) if usable.index(one) < (i + 1) * len(usable) // len(drawn)) for one in drawn
    )
    assert all(runs[i] == 1 for i in range(len(drawn)))


def test_another_division_into_shards_draws_the_same() -> None:
    """The sample depends on the usable pairs and not on the shards that they lie in."""
    usable = [7, 0, 12, 3]
    whole, parts = Sample([sum(usable)], 5), Sample(usable, 5)
    assert np.array_equal(whole._chosen, parts._chosen)


def test_every_usable_pair_can_be_drawn() -> None:
    """Over caches of many sizes the drawn pairs fill all places of their run."""
    places = {int(Sample([total], 1)._chosen[0]) / total // 0.25 for total in range(50, 90)}
    assert places == {0, 1, 2, 3}


def test_a_record_that_is_wrong_about_skips_does_no_harm() -> None:
    """Pairs that a record promises and the shard does not have are left out of the sample."""
    plan = make_plan(8, 8)
    arrays = make_arrays(plan, 0)
    sample = Sample([1_000], 50)
    sample.add(arrays, 0, 0)
    assert len(sample.pairs) <= len(usable_rows(arrays)) < 8


@pytest.mark.parametrize("n_pairs", [1, 2])
def test_a_shard_without_usable_pairs_adds_nothing(n_pairs: int) -> None:
    """A shard of skipped pairs only changes neither list."""
    plan = make_plan(n_pairs, n_pairs)
    arrays = make_arrays(plan, 0)
    empty = type(arrays)(
        arrays.pairs.without(np.ones(n_pairs, np.bool_)),
        arrays.soft.take(np.array([], np.int64)),
        arrays.target_log_prob[:0],
    )
    worst, sample = MostSurprisingPairs(3), Sample([0], 3)
    worst.add(empty, 0)
    sample.add(empty, 0, 0)
    assert (worst.by_mean, worst.by_word, sample.pairs) == ([], [], [])
