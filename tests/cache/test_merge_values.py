"""Merging: what is stored is the part of the average that the sources know, and nothing else."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from families import Floats, World, averaged, content, flat, told
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.derived.average import average
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays

WORLD = World()


@dataclasses.dataclass
class Position:
    """One position as a loop over words sees it: what each source knows, of the whole vocabulary."""

    known: dict[int, float]
    bound: dict[int, float]
    tails: float
    left: list[float]

    @classmethod
    def of(cls, sources: list[tuple[list[int], list[float], float]], target: int, vocabulary: int) -> Position:
        """`sources` are ids and probabilities of each head, and the written word's probability."""
        m = len(sources)
        known, bound = dict.fromkeys(range(vocabulary), 0.0), dict.fromkeys(range(vocabulary), 0.0)
        lefts = []
        for ids, probs, own in sources:
            told = dict(zip(ids, probs, strict=True)) | {target: own}
            lefts.append(max(0.0, 1 - math.fsum(told.values())))
            for word in range(vocabulary):
                if word in told:
                    known[word] += told[word] / m
                else:
                    bound[word] += min(probs[-1], lefts[-1]) / m
        return cls(known, bound, math.fsum(lefts) / m, lefts)


def by_the_loop(sources: list[list[npt.NDArray[np.generic]]], vocabulary: int) -> list[Position]:
    """Every position by the loop; `sources` are the arrays of whole caches."""
    found = []
    for row, target in enumerate(sources[0][2].tolist()):
        heads = [
            (one[4][row].tolist(), np.exp(one[5][row].astype(np.float64)).tolist(), math.exp(one[6][row]))
            for one in sources
        ]
        found.append(Position.of(heads, target, vocabulary))
    return found


def is_rounded(stored: npt.NDArray[np.generic], probabilities: list[float], plan: Plan) -> bool:
    """Whether each value is the logarithm of one of `probabilities`, rounded once; float64's own errors are allowed."""
    with np.errstate(divide="ignore"):
        exact = np.log(np.array(probabilities))
    low, high = (plan.encoding.round(np.minimum(exact + shift, 0)) for shift in (-1e-12, 1e-12))
    return bool(((low <= stored) & (stored <= high)).all())


def check_against_the_loop(merged: Path, sources: list[Path], world: World) -> None:
    """Ids, values and the written word's own are those of the loop, rounded once."""
    plan, arrays = CacheReader(merged).plan, content(merged)
    for row, expected in enumerate(by_the_loop([content(source) for source in sources], world.vocabulary)):
        order = sorted(expected.known, key=lambda word: (-expected.known[word], word))[: plan.topk]
        # Two known parts that differ by less than float64 tells apart may stand in either order.
        found = [expected.known[word] for word in arrays[4][row].tolist()]
        assert found == pytest.approx([expected.known[word] for word in order], rel=1e-12)
        assert is_rounded(arrays[5][row], found, plan)
        assert is_rounded(arrays[6][row], [expected.known[int(arrays[2][row])]], plan)


@pytest.mark.parametrize("encoding", ["float16", "compact"])
@pytest.mark.parametrize(("ks", "topk"), [((4, 4), None), ((3, 7), 7), ((2, 5, 4), 1)])
def test_stored_is_what_the_sources_know(ks: tuple[int, ...], topk: int | None, encoding: str, tmp_path: Path) -> None:
    """Every stored word and value is what a loop over the vocabulary finds known, whatever k and shards are."""
    sources = [
        WORLD.write(tmp_path / str(m), m, topk=k, shard_pairs=9 + m, encoding=encoding) for m, k in enumerate(ks)
    ]
    averaged(tmp_path / "merged", *sources, topk=topk)
    check_against_the_loop(tmp_path / "merged", sources, WORLD)
    plan = CacheReader(tmp_path / "merged").plan
    assert plan.topk == (min(ks) if topk is None else topk)
    assert plan.encoding.log_probs == CacheReader(sources[0]).plan.encoding.log_probs


def exact_sources(world: World, ks: list[int]) -> list[ShardArrays]:
    """What the teachers say about all pairs, not rounded."""
    found = []
    for m, k in enumerate(ks):
        arrays, dense = world.arrays(m, world.plan(m, topk=k)), world.dense(m)
        best = np.take_along_axis(dense, arrays.soft.token_ids.astype(int), axis=1)
        own = dense[np.arange(len(dense)), arrays.pairs.target_ids]
        topk = dataclasses.replace(arrays.soft, log_probs=best)  # type: ignore[arg-type]
        found.append(dataclasses.replace(arrays, soft=topk, target_log_prob=own))  # type: ignore[arg-type]
    return found


def half_step(values: npt.NDArray[np.float16]) -> npt.NDArray[np.float64]:
    """Half the distance to the next float16 away from zero."""
    return np.spacing(np.abs(values)).astype(np.float64) / 2


@settings(max_examples=40, deadline=None)
@given(ks=st.lists(st.integers(1, 12), min_size=2, max_size=4), seed=st.integers(0, 1000), data=st.data())
def test_the_true_average_lies_within_the_bounds(ks: list[int], seed: int, data: st.DataObject) -> None:
    """Known ≤ true ≤ known + bound for every word stored; the masses in the report are the loop's, and add up to 1."""
    world = World(n_pairs=5, vocabulary=14, seed=seed)
    topk = data.draw(st.integers(1, max(ks)))
    sources = exact_sources(world, ks)
    found, own, where = average(sources, world.plan(topk=topk))
    true: Floats = np.mean([np.exp(world.dense(m)) for m in range(len(ks))], axis=0)
    loop, targets = by_the_loop([flat(one) for one in sources], 14), sources[0].pairs.target_ids
    steps = half_step(found.log_probs)
    for row, position in enumerate(loop):
        for place, word in enumerate(found.token_ids[row].tolist()):
            low, high = (found.log_probs[row, place] + sign * steps[row, place] for sign in (-1, 1))
            assert math.exp(low) <= true[row, word] * (1 + 1e-9)
            assert true[row, word] <= (math.exp(high) + position.bound[word]) * (1 + 1e-9)
        assert abs(own[row] - math.log(true[row, targets[row]])) <= half_step(own)[row] * (1 + 1e-9)
    kept = [math.fsum(one.known[word] for word in row) for one, row in zip(loop, found.token_ids.tolist(), strict=True)]
    assert where.positions == len(loop)
    assert where.kept == pytest.approx(sum(kept))
    assert where.cut == pytest.approx(sum(sum(one.known.values()) for one in loop) - sum(kept), abs=1e-9)
    assert where.tails == pytest.approx(sum(one.tails for one in loop), abs=1e-9)
    assert where.kept + where.cut + where.tails == pytest.approx(where.positions)
    lacking = np.take_along_axis(true, found.token_ids.astype(int), axis=1).sum() - sum(kept)
    assert -1e-9 <= lacking <= where.missed + 1e-9
    assert where.missed <= where.tails + 1e-12


def test_with_the_whole_vocabulary_it_is_the_average(tmp_path: Path) -> None:
    """Where every source stores all V words, the merge is the true average to rounding, and nothing is in a tail."""
    found, own, where = average(exact_sources(WORLD, [30, 30, 30]), WORLD.plan(topk=30))
    true = np.log(np.mean([np.exp(WORLD.dense(m)) for m in range(3)], axis=0))
    expected = np.take_along_axis(true, found.token_ids.astype(int), axis=1)
    assert (np.abs(found.log_probs - expected) <= half_step(found.log_probs) * (1 + 1e-9)).all()
    assert (found.token_ids == np.argsort(-true, axis=1, kind="stable")).all()
    assert (np.abs(own - true[np.arange(len(true)), WORLD.pairs.target_ids]) <= half_step(own) * (1 + 1e-9)).all()
    assert (where.tails, where.cut) == pytest.approx((0, 0), abs=1e-9)
    # From caches, whose values are rounded themselves, it is that of the rounded ones.
    sources = [WORLD.write(tmp_path / str(m), m, topk=30, shard_pairs=9) for m in range(3)]
    averaged(tmp_path / "merged", *sources)
    check_against_the_loop(tmp_path / "merged", sources, WORLD)


def test_computed_by_hand(tmp_path: Path) -> None:
    """Two heads of two words, the written word in neither: it is fully known, and passes words that are half known."""
    world = World(n_pairs=3)
    one = told(world, tmp_path / "one", 0, {1: 0.5, 2: 0.25}, 0.125)
    two = told(world, tmp_path / "two", 1, {3: 0.25, 2: 0.125}, 0.125)
    report = averaged(tmp_path / "merged", one, two)
    ids, values, own = content(tmp_path / "merged")[4:]
    # 1: 0.25, 2: 0.125 + 0.0625 = 0.1875, 3: 0.125, 9: 0.125; what is left: 0.125 and 0.5, a mean of 0.3125.
    assert ids[0].tolist() == [1, 2]
    assert np.exp(values[0].astype(float)) == pytest.approx([0.25, 0.1875], rel=1e-3)
    assert np.exp(own[0].astype(float)) == pytest.approx(0.125, rel=1e-3)
    assert report["kept"] == pytest.approx(0.4375, rel=1e-3)
    assert report["cut"] == pytest.approx(0.25, rel=1e-3)
    assert report["tails"] == pytest.approx(0.3125, rel=1e-3)
    # Only word 1 is unknown to the second, which has 0.5 left but gives a word at most 0.125: half of that.
    assert report["missed"] == pytest.approx(0.0625, rel=1e-3)

    three = told(world, tmp_path / "three", 0, {1: 0.375}, 0.25)
    four = told(world, tmp_path / "four", 1, {2: 0.375}, 0.25)
    report = averaged(tmp_path / "written", three, four)
    # 1 and 2: 0.1875 each; 9, in no head: 0.25. Left: 0.375 each.
    ids, values, own = content(tmp_path / "written")[4:]
    assert ids[0].tolist() == [9]
    assert values[0, 0] == own[0]
    assert [report[name] for name in ("kept", "cut", "tails", "missed")] == pytest.approx(
        [0.25, 0.375, 0.375, 0.0], abs=1e-3
    )


def test_equal_known_parts_stand_by_id(tmp_path: Path) -> None:
    """Words with the same known part stand in the order of their ids, and the cut between them falls there too."""
    world = World(n_pairs=2)
    one = told(world, tmp_path / "one", 0, {7: 0.25, 4: 0.25}, 0.125)
    two = told(world, tmp_path / "two", 1, {6: 0.25, 3: 0.25}, 0.125)
    averaged(tmp_path / "merged", one, two)
    assert content(tmp_path / "merged")[4][0].tolist() == [3, 4]
