"""Merging: what is stored is the part of the average that the sources know, and nothing else."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from caches import contents
from conftest import run_cli
from families import Floats, World, content, flat, same, write
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.audit import summarize, verify_shard
from kdcache.cache.average import Whereabouts, average
from kdcache.cache.merge import MergeConfig
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.cache.transcode import TranscodeConfig
from kdcache.derive import merge, transcode
from kdcache.errors import CorruptError, MismatchError, UsageError
from kdcache.records import canonical_json

WORLD = World()


def averaged(output: Path, *sources: Path, topk: int | None = None) -> dict[str, float]:
    """Merge, see that the result is sound, and return where the mass is."""
    result = merge(MergeConfig(tuple(map(str, sources)), topk), output)
    assert result is not None
    reader = CacheReader(output)
    assert [problem for index in range(reader.plan.n_shards) for problem in verify_shard(reader, index)] == []
    return result["mass"] | {"skipped": result["skipped_in_some"]}


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


def true_average(world: World, teachers: int) -> Floats:
    """The average of the dense distributions, probabilities [ΣN, V]."""
    average: Floats = np.mean([np.exp(world.dense(m)) for m in range(teachers)], axis=0)
    return average


def exact_sources(world: World, ks: list[int]) -> list[ShardArrays]:
    """What the teachers say about all pairs, not rounded."""
    found = []
    for m, k in enumerate(ks):
        arrays, dense = world.arrays(m, world.plan(m, topk=k)), world.dense(m)
        best = np.take_along_axis(dense, arrays.topk.token_ids.astype(int), axis=1)
        own = dense[np.arange(len(dense)), arrays.pairs.target_ids]
        topk = dataclasses.replace(arrays.topk, log_probs=best)  # type: ignore[arg-type]
        found.append(dataclasses.replace(arrays, topk=topk, target_log_prob=own))  # type: ignore[arg-type]
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


def forged(world: World, folder: Path, teacher: int, rows: list[tuple[list[int], list[float], float]]) -> Path:
    """A cache whose every position has the same head and the same written word 9: ids, probabilities, own."""
    ids, probs, own = rows[0]
    plan = world.plan(teacher, topk=len(ids), shard_pairs=4)
    arrays = world.arrays(teacher, plan)
    pairs = dataclasses.replace(arrays.pairs, target_ids=np.full_like(arrays.pairs.target_ids, 9))
    n = pairs.n_targets
    best = np.tile(np.log(probs).astype(np.float16), (n, 1))
    topk = dataclasses.replace(arrays.topk, token_ids=np.tile(np.array(ids, "u2"), (n, 1)), log_probs=best)
    own_values = np.full(n, np.log(own)).astype(np.float16)
    return write(folder, plan, dataclasses.replace(arrays, pairs=pairs, topk=topk, target_log_prob=own_values))


def test_computed_by_hand(tmp_path: Path) -> None:
    """Two heads of two words, the written word in neither: it is fully known, and passes words that are half known."""
    world = World(n_pairs=3)
    one = forged(world, tmp_path / "one", 0, [([1, 2], [0.5, 0.25], 0.125)])
    two = forged(world, tmp_path / "two", 1, [([3, 2], [0.25, 0.125], 0.125)])
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

    three = forged(world, tmp_path / "three", 0, [([1], [0.375], 0.25)])
    four = forged(world, tmp_path / "four", 1, [([2], [0.375], 0.25)])
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
    one = forged(world, tmp_path / "one", 0, [([7, 4], [0.25, 0.25], 0.125)])
    two = forged(world, tmp_path / "two", 1, [([6, 3], [0.25, 0.25], 0.125)])
    averaged(tmp_path / "merged", one, two)
    assert content(tmp_path / "merged")[4][0].tolist() == [3, 4]


def test_the_order_of_the_sources_does_not_matter(tmp_path: Path) -> None:
    """Whatever the order in which three caches are given, plan, records, shards and manifest are the same bytes."""
    sources = [WORLD.write(tmp_path / str(m), m, topk=4 + m, shard_pairs=9 + m) for m in range(3)]
    found = []
    for number, order in enumerate(itertools.permutations(sources)):
        averaged(tmp_path / f"merged{number}", *order)
        made = contents(tmp_path / f"merged{number}")
        found.append({name: data for name, data in made.items() if name not in ("run.json", "kdcache.log")})
    assert all(one == found[0] for one in found[1:])
    # And a folder that was begun in one order is continued in another.
    averaged(tmp_path / "merged0", *reversed(sources))


def test_a_cache_averaged_with_its_equal_is_itself(tmp_path: Path) -> None:
    """Two caches of the same values in other shards have an average of the same values, bit for bit."""
    source = WORLD.write(tmp_path / "source", skipped=(2,))
    assert transcode(TranscodeConfig(str(source), shard_pairs=4), tmp_path / "again") is not None
    averaged(tmp_path / "merged", source, tmp_path / "again")
    assert same(tmp_path / "merged", source)
    assert CacheReader(tmp_path / "merged").plan.teacher == CacheReader(source).plan.teacher


def test_the_plan_of_an_average(tmp_path: Path) -> None:
    """Teacher, passes, precision, positions, maskings, shards and encoding of the plan are as the format says."""
    plans = [
        dataclasses.replace(WORLD.plan(0, topk=5, shard_pairs=7), passes=5, temperatures=(2.0,), maskings=2, seed=4),
        dataclasses.replace(WORLD.plan(1, topk=4, encoding="compact"), precision="bfloat16", positions=40),
    ]
    sources = []
    for m, plan in enumerate(plans):
        bare = dataclasses.replace(plan, temperatures=())
        sources.append(write(tmp_path / str(m), bare, WORLD.arrays(m, bare)))
    averaged(tmp_path / "merged", *sources)
    plan = CacheReader(tmp_path / "merged").plan
    teachers = sorted(one.teacher for one in plans)
    assert plan.teacher == hashlib.sha256(canonical_json(teachers)).hexdigest()
    assert (plan.passes, plan.precision, plan.positions, plan.maskings) == (7, "bfloat16", 40, 3)
    assert (plan.shard_pairs, plan.topk, plan.encoding.log_probs) == (5, 4, "float16")
    assert (plan.draws, plan.seed, plan.temperatures, plan.made_by) == (0, 0, (), "merge")
    assert {source.root for source in plan.sources} == {CacheReader(one).manifest.root for one in sources}


def test_a_pair_that_one_source_skipped_is_skipped(tmp_path: Path) -> None:
    """A pair without values in one source has none in the average, is counted, and its neighbours keep their places."""
    one = WORLD.write(tmp_path / "one", 0, skipped=(1, 16))
    two = WORLD.write(tmp_path / "two", 1, skipped=(4, 16), shard_pairs=2)
    report = averaged(tmp_path / "merged", one, two)
    assert report["skipped"] == 2
    assert summarize(CacheReader(tmp_path / "merged")).skipped == 3
    whole = [WORLD.write(tmp_path / f"whole{m}", m, skipped=(1, 4, 16)) for m in range(2)]
    averaged(tmp_path / "expected", *whole)
    assert same(tmp_path / "merged", tmp_path / "expected")


def test_all_pairs_of_a_shard_skipped(tmp_path: Path) -> None:
    """A shard of which no pair is left has no positions; the others are what they are."""
    one = WORLD.write(tmp_path / "one", 0, skipped=(0, 1, 2))
    two = WORLD.write(tmp_path / "two", 1, skipped=(3, 4))
    averaged(tmp_path / "merged", one, two)
    assert CacheReader(tmp_path / "merged").records[0].n_targets == 0
    assert CacheReader(tmp_path / "merged").records[1].n_targets > 0


def other(plan: Plan, **changes: object) -> Plan:
    return dataclasses.replace(plan, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["corpus", "n_pairs", "tokenizer", "vocabulary"])
def test_sources_of_different_things_are_refused(field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caches of another text, number of pairs, tokenizer or vocabulary are refused, and the field is named."""
    one = WORLD.write(tmp_path / "one", 0)
    if field == "vocabulary":
        two = World(vocabulary=31).write(tmp_path / "two", 1)
    elif field == "n_pairs":
        two = World(n_pairs=18).write(tmp_path / "two", 1)
    else:
        plan = other(WORLD.plan(1), **{field: "0" * 64})
        if field == "tokenizer":
            from kdcache.tokens import Tokenizer

            monkeypatch.setattr(Tokenizer, "fingerprint", "0" * 64)
        two = write(tmp_path / "two", plan, WORLD.arrays(1, plan))
        monkeypatch.undo()
    with pytest.raises(MismatchError) as caught:
        merge(MergeConfig((str(one), str(two))), tmp_path / "merged")
    assert caught.value.field == field
    assert str(two) in str(caught.value)
    assert str(one) in str(caught.value)
    assert not (tmp_path / "merged").exists()


def test_other_words_behind_the_same_fingerprints_are_refused(tmp_path: Path) -> None:
    """Sources that claim the same text but hold other words are refused with the line; that shard is not committed."""
    one = WORLD.write(tmp_path / "one", 0)
    plan = WORLD.plan(1)
    arrays = WORLD.arrays(1, plan)
    ids = arrays.pairs.source_ids.copy()
    ids[arrays.pairs.source_offsets[11] + 1] = 29 if ids[arrays.pairs.source_offsets[11] + 1] != 29 else 28
    two = write(
        tmp_path / "two", plan, dataclasses.replace(arrays, pairs=dataclasses.replace(arrays.pairs, source_ids=ids))
    )
    with pytest.raises(CorruptError, match="the words of line 12 are not those of"):
        merge(MergeConfig((str(one), str(two))), tmp_path / "merged")
    assert not (tmp_path / "merged" / "shards" / "00002.json").exists()
    assert not (tmp_path / "merged" / "manifest.json").exists()


def test_what_cannot_be_averaged_is_refused(tmp_path: Path) -> None:
    """One cache alone, the same one twice, more words than any holds, and draws are refused; no folder is made."""
    one, two = (WORLD.write(tmp_path / str(m), m, topk=3 + m) for m in range(2))
    for config, words in (
        (MergeConfig((str(one),)), "At least two caches"),
        (MergeConfig((str(one), str(two), str(one))), "the same cache as"),
        (MergeConfig((str(one), str(two)), topk=5), "no source holds more than 4 words"),
        (MergeConfig((str(one), str(two)), topk=0), "--topk must be at least 1, not 0"),
    ):
        with pytest.raises(UsageError, match=words):
            merge(config, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_sums_do_not_depend_on_the_order() -> None:
    """Masses of several runs of positions add up to the same numbers in any order."""
    parts = [Whereabouts(1, 0.1 * n, 1e-17, 1e16 * (-1) ** n, 0.3, n) for n in range(5)]
    totals = {Whereabouts.total(order) for order in itertools.permutations(parts)}
    assert len(totals) == 1
    assert Whereabouts().shares() == {"kept": 0, "cut": 0, "tails": 0, "missed": 0}


def test_the_command_and_its_record(tmp_path: Path) -> None:
    """`kdcache merge` prints where the mass is, `run.json` has it, and a second run says the same without writing."""
    one, two = (WORLD.write(tmp_path / str(m), m, skipped=(m,)) for m in range(2))
    texts = []
    for _ in range(2):
        done = run_cli("merge", tmp_path / "merged", one, two, "--topk", 3)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
        result = json.loads((tmp_path / "merged" / "run.json").read_text())["result"]
        assert f"{100 * result['mass']['tails']:.2f} %" in done.stdout
        assert "2 pairs, left out here" in done.stdout
    assert texts[0] == texts[1]
    refused = run_cli("merge", tmp_path / "merged", one)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "At least two" in refused.stderr
