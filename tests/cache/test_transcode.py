"""Transcoding: a cache made without the teacher is the one that the teacher would have made."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from families import World, content, flat, same, write
from faults import problems_of
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.pair_ranges import PairRanges, concatenate, take
from kdcache.cache.plan import Plan, SourceCache
from kdcache.cache.reader import CacheReader
from kdcache.errors import CorruptError, MismatchError, UsageError
from kdcache.labels.soft_labels import from_counts

WORLD = World()


def convert(source: Path, output: Path, **changes: object) -> Path:
    assert transcode(TranscodeConfig(str(source), **changes), output) is not None  # type: ignore[arg-type]
    assert problems_of(output) == []
    return output


def outcome(plan: Plan) -> Plan:
    """What a plan promises, without how it was made."""
    return dataclasses.replace(plan, sources=())


@pytest.mark.parametrize("encoding", ["float16", "compact", "uncompressed"])
@pytest.mark.parametrize("k", [1, 5, 6])
def test_fewer_words_equal_a_dump_with_fewer(k: int, encoding: str, tmp_path: Path) -> None:
    """A cache cut to k words holds, bit for bit, what a dump with k would: ids, values, the written word's own."""
    source = WORLD.write(tmp_path / "source", topk=7, encoding=encoding, skipped=(3, 16))
    made = convert(source, tmp_path / "made", topk=k)
    direct = WORLD.write(tmp_path / "direct", topk=k, encoding=encoding, skipped=(3, 16))
    assert same(made, direct)
    assert not same(made, source)
    assert outcome(CacheReader(made).plan) == CacheReader(direct).plan


def test_the_plan_says_where_it_came_from(tmp_path: Path) -> None:
    """A transcoded cache names its source's content and plan, whose teacher is its own; two in a row name both."""
    source = WORLD.write(tmp_path / "source")
    first = convert(source, tmp_path / "first", topk=4)
    second = convert(first, tmp_path / "second", topk=2)
    readers = [CacheReader(path) for path in (source, first, second)]
    assert [reader.plan.sources for reader in readers] == [
        (),
        (SourceCache(readers[0].manifest.root, readers[0].plan),),
        (SourceCache(readers[1].manifest.root, readers[1].plan),),
    ]
    assert readers[2].plan.teacher == readers[0].plan.teacher
    assert (readers[2].plan.made_by, readers[2].plan.generations) == ("transcode", 3)


@settings(max_examples=6, deadline=None)
@given(n=st.integers(1, 9), m=st.integers(1, 9), skipped=st.sets(st.integers(0, 7)))
def test_other_shards_and_back(n: int, m: int, skipped: set[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Shards of n pairs made into shards of m and back hold the same arrays, whichever pairs were skipped."""
    assume(n != m)
    folder = tmp_path_factory.mktemp("shards")
    source = World(n_pairs=8).write(folder / "source", shard_pairs=n, topk=3, skipped=skipped)
    there = convert(source, folder / "there", shard_pairs=m)
    back = convert(there, folder / "back", shard_pairs=n)
    assert same(there, source)
    assert same(back, source)
    assert CacheReader(there).plan.n_shards == -(-8 // m)


def test_what_encodings_make_of_each_other(tmp_path: Path) -> None:
    """Filters alone change nothing; compact to float16 keeps every value; float16 to compact rounds what was rounded.

    A code made from a float16 is that of the true value, or a neighbour where the true value is within half a float16
    step of the border between two codes.
    """
    world = World(n_pairs=200, vocabulary=40)
    source = world.write(tmp_path / "source", topk=20, shard_pairs=100)
    assert same(convert(source, tmp_path / "plain", encoding="uncompressed"), source)
    compact = world.write(tmp_path / "compact", topk=20, encoding="compact", shard_pairs=100)
    assert same(convert(compact, tmp_path / "wide", encoding="float16"), compact)

    twice = convert(source, tmp_path / "twice", encoding="compact")
    pack = CacheReader(compact).plan.encoding.pack
    differ = 0
    dense, ids = world.dense(0), content(source)[4].astype(int)
    best, own = np.take_along_axis(dense, ids, axis=1), dense[np.arange(len(dense)), world.pairs.target_ids]
    for place, true in ((5, best), (6, own)):
        stored, through, direct = (content(path)[place] for path in (source, twice, compact))
        assert (through == Encoding("uint16", "sqrt8").round(stored)).all()
        one, other = (pack(values).astype(int) for values in (through, direct))
        apart = one != other
        assert np.abs(one - other).max() <= 1
        border = -((((one + other) / 2) * 5 / 255) ** 2)
        half = np.spacing(np.abs(stored)).astype(np.float64) / 2
        assert (np.abs(true - border)[apart] <= half[apart] * (1 + 1e-6)).all()
        differ += int(apart.sum())
    assert differ > 0, "no value was near a border: the test shows nothing"


def test_a_whole_distribution_in_compact_codes_may_pass_1(tmp_path: Path) -> None:
    """All words of a nearly flat teacher in codes have a mass that float16 would refuse; in a chain it is accepted."""
    world = World(vocabulary=75)
    compact = world.write(tmp_path / "compact", topk=75, encoding="compact")
    mass = np.exp(content(compact)[5].astype(float)).sum(axis=1).max()
    plan = CacheReader(compact).plan
    assert mass > 1 + Encoding.named("float16", 75).mass_tolerance(75)
    wide = convert(compact, tmp_path / "wide", encoding="float16")
    assert same(wide, compact)
    assert CacheReader(wide).plan.mass_tolerance > plan.mass_tolerance


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"topk": 7}, "holds 6 words a position, and what is not stored cannot be made"),
        ({}, "nothing would change"),
        ({"topk": 6, "shard_pairs": 5, "encoding": "float16"}, "nothing would change"),
        ({"topk": 0}, "--topk must be at least 1, not 0"),
        ({"shard_pairs": 0}, "--shard-pairs must be at least 1, not 0"),
        ({"encoding": "zip"}, "--encoding must be one of float16, compact, uncompressed, not zip"),
    ],
)
def test_what_cannot_be_made_is_refused(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    """More words than are stored, no change, and values out of range are refused, and no folder is made."""
    source = WORLD.write(tmp_path / "source")
    with pytest.raises(UsageError, match=words):
        transcode(TranscodeConfig(str(source), **changes), tmp_path / "made")  # type: ignore[arg-type]
    assert not (tmp_path / "made").exists()


def test_another_plan_in_the_folder_is_refused(tmp_path: Path) -> None:
    """A folder that was begun with other options, or from another source, is not continued; nothing in it changes."""
    source, other = WORLD.write(tmp_path / "source"), WORLD.write(tmp_path / "other", teacher=1)
    made = convert(source, tmp_path / "made", topk=2)
    before = content(made)
    for config, field in (
        (TranscodeConfig(str(source), topk=3), "topk"),
        (TranscodeConfig(str(source), topk=2, shard_pairs=4), "shard_pairs"),
        (TranscodeConfig(str(other), topk=2), "teacher"),
    ):
        with pytest.raises(MismatchError) as caught:
            transcode(config, made)
        assert caught.value.field == field
    with pytest.raises(MismatchError):
        transcode(TranscodeConfig(str(source), topk=2), source)
    assert all((a == b).all() for a, b in zip(before, content(made), strict=True))


def test_more_than_16_in_a_row_are_refused(tmp_path: Path) -> None:
    """The seventeenth cache in a row is refused before its folder is made."""
    world = World(n_pairs=2)
    path = world.write(tmp_path / "0", shard_pairs=1)
    for number in range(1, 16):
        path = convert(path, tmp_path / str(number), shard_pairs=1 + number % 2)
    with pytest.raises(CorruptError, match="more caches in a row than the 16 allowed"):
        transcode(TranscodeConfig(str(path), topk=1), tmp_path / "16")
    assert not (tmp_path / "16").exists()


def test_ranges_read_each_shard_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of pairs in rising order read every shard once, whatever their length, and hold one shard at a time."""
    source = WORLD.write(tmp_path / "source", shard_pairs=4)
    reads: list[int] = []
    original = CacheReader.shard
    monkeypatch.setattr(CacheReader, "shard", lambda self, index: reads.append(index) or original(self, index))
    for length in (1, 3, 4, 7, 17):
        reads.clear()
        ranges = PairRanges(CacheReader(source))
        parts = [ranges.read(first, min(first + length, 17)) for first in range(0, 17, length)]
        assert reads == [0, 1, 2, 3, 4]
        whole = concatenate(parts)
        assert all((a == b).all() for a, b in zip(flat(whole), content(source), strict=True))


def test_pairs_are_taken_with_their_rows(tmp_path: Path) -> None:
    """Pairs taken from a shard in any order bring exactly the rows of their target positions."""
    arrays = CacheReader(WORLD.write(tmp_path / "source", shard_pairs=17)).shard(0)
    offsets = arrays.pairs.target_offsets
    chosen = [16, 2, 2, 0]
    rows = [row for pair in chosen for row in range(offsets[pair], offsets[pair + 1])]
    found = take(arrays, np.array(chosen))
    assert found.soft.token_ids.tolist() == [arrays.soft.token_ids[row].tolist() for row in rows]
    assert found.soft.log_probs.tolist() == [arrays.soft.log_probs[row].tolist() for row in rows]
    assert found.target_log_prob.tolist() == [arrays.target_log_prob[row] for row in rows]
    assert found.pairs.target_ids.tolist() == [arrays.pairs.target_ids[row] for row in rows]


def test_the_command(tmp_path: Path) -> None:
    """`kdcache transcode` makes the cache, does nothing the second time, and says what the first one said."""
    source = WORLD.write(tmp_path / "source")
    for _ in range(2):
        done = run_here("transcode", source, tmp_path / "made", "--topk", 2, "--encoding", "compact")
        assert done.returncode == 0, done.stderr
        assert CacheReader(tmp_path / "made").manifest.root in done.stdout
    refused = run_here("transcode", source, tmp_path / "more", "--topk", 20)
    assert refused.returncode == 2


def test_normalizers_are_carried(tmp_path: Path) -> None:
    """Normalizers stay bit for bit beside their positions when words are cut and shards moved; codes are refused."""
    plan = dataclasses.replace(WORLD.plan(), temperatures=(2.0, 10.0))
    whole = WORLD.arrays(0, plan)
    source = write(tmp_path / "source", plan, whole)
    made = CacheReader(convert(source, tmp_path / "made", topk=2, shard_pairs=4))
    shards = [made.shard(index).soft.log_normalizers for index in range(made.plan.n_shards)]
    assert (np.concatenate(shards) == whole.soft.log_normalizers).all()
    assert made.plan.temperatures == (2.0, 10.0)
    with pytest.raises(UsageError, match=r"--encoding compact: .* holds normalizers"):
        transcode(TranscodeConfig(str(source), encoding="compact"), tmp_path / "codes")


def test_drawn_words_are_carried(tmp_path: Path) -> None:
    """Drawn words and their counts stay in other shards and encodings; fewer of them are refused, and averages too."""
    plan = dataclasses.replace(WORLD.plan(), draws=6, topk=6)
    whole = WORLD.arrays(0, plan)
    generator = np.random.default_rng(1)
    counts = -np.sort(-generator.multinomial(6, np.full(6, 1 / 6), whole.pairs.n_targets), axis=1)
    # Among equal counts by id: ids are put into order, which no count contradicts.
    ids = np.sort(whole.soft.token_ids, axis=1)
    drawn = dataclasses.replace(whole, soft=from_counts(np.where(counts > 0, ids, 0).astype("u2"), counts, 6))
    source = write(tmp_path / "source", plan, drawn)
    for number, changes in enumerate(({"shard_pairs": 4}, {"encoding": "compact"})):
        made = convert(source, tmp_path / str(number), **changes)
        for place in (4, 5):
            assert (content(made)[place] == content(source)[place]).all()
        assert CacheReader(made).plan.draws == 6
    with pytest.raises(UsageError, match="holds words that were drawn"):
        transcode(TranscodeConfig(str(source), topk=3), tmp_path / "fewer")
    other = WORLD.write(tmp_path / "other", teacher=1)
    with pytest.raises(UsageError, match="samples are not averaged"):
        merge(MergeConfig((str(other), str(source))), tmp_path / "average")
