"""Merging: the plan of an average, pairs that a source skipped, what is refused, and the command."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from pathlib import Path

import pytest
from caches import contents
from conftest import run_here
from families import World, averaged, same, write

from kdcache.cache.derived.average import MassBalance
from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.errors import CorruptError, MismatchError, UsageError
from kdcache.files.strict_json import canonical_json
from kdcache.inspection.cache_summary import summarize

WORLD = World()


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
    averaged(tmp_path / "merged", source, WORLD.write(tmp_path / "again", skipped=(2,), shard_pairs=4))
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
        sources.append(write(tmp_path / str(m), plan, WORLD.arrays(m, plan)))
    averaged(tmp_path / "merged", *sources)
    plan = CacheReader(tmp_path / "merged").plan
    teachers = sorted(one.teacher for one in plans)
    assert plan.teacher == hashlib.sha256(canonical_json(teachers)).hexdigest()
    assert (plan.passes, plan.precision, plan.positions, plan.maskings) == (7, "bfloat16", 40, 3)
    assert (plan.shard_pairs, plan.topk, plan.encoding.log_probs) == (5, 4, "float16")
    assert (plan.draws, plan.seed, plan.temperatures, plan.made_by) == (0, 0, (), "merge")
    assert CacheReader(tmp_path / "merged").shard(0).soft.log_normalizers is None
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
            from kdcache.text.tokenizer import Tokenizer

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


def test_one_dump_counts_once(tmp_path: Path) -> None:
    """A cache and what was made from it, through any number of steps, would be one teacher with two votes: refused."""
    one, two = (WORLD.write(tmp_path / str(m), m) for m in range(2))
    transcode(TranscodeConfig(str(one), topk=4), tmp_path / "cut")
    transcode(TranscodeConfig(str(tmp_path / "cut"), topk=3), tmp_path / "again")
    for sources in ((one, "again"), ("cut", two, "again"), ("again", one)):
        with pytest.raises(UsageError, match="or made from the same one"):
            merge(MergeConfig(tuple(str(tmp_path / source) for source in sources)), tmp_path / "merged")
    averaged(tmp_path / "merged", tmp_path / "again", two)


def test_an_output_that_is_named_first_is_refused(tmp_path: Path) -> None:
    """The error says which name is the output's; nothing is written into the cache that stands there."""
    one, two = (WORLD.write(tmp_path / str(m), m) for m in range(2))
    before = contents(one)
    with pytest.raises(UsageError, match=r"out: no such folder. The output comes last: .* it is .*0, which holds"):
        merge(MergeConfig((str(tmp_path / "out"), str(two))), one)
    assert contents(one) == before


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
    parts = [MassBalance(1, 0.1 * n, 1e-17, 1e16 * (-1) ** n, 0.3, n) for n in range(5)]
    totals = {MassBalance.total(order) for order in itertools.permutations(parts)}
    assert len(totals) == 1
    assert MassBalance().shares() == {"kept": 0, "cut": 0, "tails": 0, "missed": 0}


def test_the_command_and_its_record(tmp_path: Path) -> None:
    """`kdcache merge` prints where the mass is, `run.json` has it, and a second run says the same without writing."""
    one, two = (WORLD.write(tmp_path / str(m), m, skipped=(m,)) for m in range(2))
    texts = []
    for _ in range(2):
        done = run_here("merge", one, two, tmp_path / "merged", "--topk", 3)
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
        result = json.loads((tmp_path / "merged" / "run.json").read_text())["result"]
        assert f"{100 * result['mass']['tails']:.2f} %" in done.stdout
        assert "2 pairs, left out here" in done.stdout
    assert texts[0] == texts[1]
    refused = run_here("merge", one, tmp_path / "merged")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "At least two" in refused.stderr
