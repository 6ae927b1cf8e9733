"""Writer, reader and audit of a whole cache, without faults."""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
from pathlib import Path

import caches
import numpy as np
import pytest
from caches import make_arrays, make_plan, tokenizer, write_cache
from conftest import run_here

from kdcache.cache import shard_records
from kdcache.cache.audit import unexpected_files, verify_shard
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.plan import Plan, SourceCache, read_plan
from kdcache.cache.reader import CacheReader
from kdcache.errors import CorruptError, MismatchError, OutputError
from kdcache.files.strict_json import canonical_json
from kdcache.inspection.cache_summary import summarize
from kdcache.text.vocabulary import from_corpus

pytestmark = pytest.mark.complete_cache

PLAN_FIELDS = [field.name for field in dataclasses.fields(Plan)]


def test_every_pair_is_in_the_cache_once(cache: Path) -> None:
    """Reading all shards in order gives every pair of the plan, with the arrays that were written."""
    reader = CacheReader(cache)
    assert (reader.plan, len(reader.records)) == (make_plan(), 3)
    shards = [reader.shard(index) for index in range(3)]
    assert [shard.pairs.n_pairs for shard in shards] == [8, 8, 4]
    assert all(caches.equal(shard, make_arrays(reader.plan, index)) for index, shard in enumerate(shards))
    assert reader.n_targets == sum(shard.pairs.n_targets for shard in shards)
    assert reader.tokenizer().fingerprint == reader.plan.tokenizer


def test_files_are_those_of_the_layout(cache: Path) -> None:
    """A complete cache holds the files that the format names and no other, lock and temporary files included."""
    shards = [f"shards/0000{i}.{kind}" for i in range(3) for kind in ("h5", "json")]
    texts = ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]
    found = [str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file()]
    assert sorted(found) == sorted(["manifest.json", "plan.json", *shards, *texts])


def test_shards_are_committed_in_any_order(cache: Path, tmp_path: Path) -> None:
    """The order of the commits leaves no trace; the manifest is written with the last of them, not before."""
    plan = make_plan()
    writer = CacheWriter(tmp_path / "other", plan, tokenizer())
    for index in (2, 0):
        writer.commit(index, make_arrays(plan, index))
        assert not writer.finalize()
    assert writer.missing() == [1]
    with pytest.raises(CorruptError, match="incomplete: 2 of 3 shards"):
        CacheReader(tmp_path / "other")
    writer.commit(1, make_arrays(plan, 1))
    assert writer.finalize()
    assert caches.contents(tmp_path / "other") == caches.contents(cache)


def test_committing_again_keeps_the_first_shard(cache: Path) -> None:
    """A shard that is committed stands; committing other values of it returns the record of the first."""
    plan, before = make_plan(), caches.contents(cache)
    record = CacheWriter(cache, plan, tokenizer()).commit(0, caches.label(make_arrays(plan, 0).pairs, plan, 77))
    assert record == CacheReader(cache).records[0]
    assert caches.contents(cache) == before


def test_running_a_complete_dump_again_changes_nothing(cache: Path) -> None:
    """The same command on a complete cache writes nothing and finalizes."""
    before = caches.contents(cache)
    times = {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()}
    assert write_cache(cache, make_plan())
    assert caches.contents(cache) == before
    assert {path: path.stat().st_mtime_ns for path in (cache / "shards").iterdir()} == times


@pytest.mark.parametrize("field", [name for name in PLAN_FIELDS if name not in ("format", "version", "tokenizer")])
def test_another_plan_is_refused_by_its_field(cache: Path, field: str) -> None:
    """A folder keeps its plan: any field that differs is named with both values, and nothing is changed."""
    plan, before = make_plan(), caches.contents(cache)
    old = getattr(plan, field)
    others = {
        "encoding": Encoding("uint32"),
        "draws": plan.topk,
        "temperatures": (2.0,),
        "sources": (SourceCache("b" * 64, plan),),
        "precision": "bfloat16",
    }
    new = others.get(field, "a" * 64 if isinstance(old, str) else old + 1 if isinstance(old, int) else None)
    with pytest.raises(MismatchError) as caught:
        CacheWriter(cache, dataclasses.replace(plan, **{field: new}), tokenizer())
    # A source stands for itself by its root hash.
    stored, given = ([], ["b" * 64]) if field == "sources" else (old, new)
    assert (caught.value.field, caught.value.stored, caught.value.given) == (field, stored, given)
    assert caches.contents(cache) == before


def descendant(plan: Plan, generations: int) -> Plan:
    """A plan at the end of a row of so many caches."""
    for number in range(generations - 1):
        plan = dataclasses.replace(make_plan(), sources=(SourceCache(f"{number:064x}", plan),))
    return plan


def test_the_ancestry_of_a_cache_is_stored_whole(tmp_path: Path) -> None:
    """A plan comes back with its sources, theirs and so on; made_by names the command by their number."""
    parents = (SourceCache("a" * 64, make_plan(topk=8)), SourceCache("b" * 64, descendant(make_plan(), 3)))
    plan = dataclasses.replace(make_plan(), sources=parents)
    CacheWriter(tmp_path / "cache", plan, tokenizer())
    assert read_plan(tmp_path / "cache") == plan
    assert (plan.generations, plan.made_by) == (4, "merge")
    assert [descendant(plan, n).made_by for n in (1, 2)] == ["merge", "transcode"]
    assert make_plan().made_by == "dump-logits"


@pytest.mark.parametrize("generations", [17, 100, 300])
def test_more_generations_than_allowed_are_refused(tmp_path: Path, generations: int) -> None:
    """Sixteen caches in a row are written and read; longer rows are refused, however deep, without a crash."""
    CacheWriter(tmp_path / "good", descendant(make_plan(), 16), tokenizer())
    oldest = canonical_json(dataclasses.asdict(make_plan()))
    inner = oldest
    for _ in range(generations - 1):
        inner = oldest.replace(b'"sources":[]', b'"sources":[{"root":"r","plan":' + inner + b"}]")
    assert read_plan(tmp_path / "good").generations == 16
    (tmp_path / "good" / "plan.json").write_bytes(inner)
    with pytest.raises(CorruptError, match=r"made from more caches in a row than the 16|nested too deeply"):
        read_plan(tmp_path / "good")


def test_a_tokenizer_that_is_not_the_plans_is_refused(tmp_path: Path) -> None:
    """The tokenizer that is stored is the one whose fingerprint the plan holds, also in a cache just begun."""
    with pytest.raises(MismatchError, match="tokenizer differs"):
        CacheWriter(tmp_path / "cache", make_plan(), from_corpus(["another text"]))
    assert not (tmp_path / "cache").exists()


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    """A folder that holds something else is named with what it holds, and left alone."""
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(OutputError, match=r"holds other files \(thesis.tex\) and no cache"):
        CacheWriter(tmp_path, make_plan(), tokenizer())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_inspect_and_verify_commands_agree_with_the_library(cache: Path) -> None:
    """`inspect --json` prints the summary's values, and `verify` accepts the cache with exit code 0."""
    shown = json.loads(run_here("inspect", cache, "--json").stdout)
    assert shown["mass"] == summarize(CacheReader(cache)).mass
    verified = run_here("verify", cache)
    assert (verified.returncode, "sound" in verified.stdout) == (0, True), verified.stderr


def test_verify_names_exactly_the_damaged_shard(cache: Path) -> None:
    """One flipped bit in one shard is reported for that shard and for no other; exit code 1."""
    caches.flip_bit(cache / "shards" / "00001.h5")
    reader = CacheReader(cache)
    found = [verify_shard(reader, index) for index in range(3)]
    assert [len(problems) for problems in found] == [0, 1, 0]
    assert "00001.h5" in found[1][0]
    result = run_here("verify", cache)
    assert result.returncode == 1
    assert "00001.h5" in result.stderr
    assert "00000.h5" not in result.stderr + result.stdout


@pytest.mark.parametrize(
    ("field", "value"), [("mass", 1.0), ("known", 40), ("best", 0), ("surprise", 0.5), ("unknown", 1), ("n_skipped", 8)]
)
def test_verify_compares_the_sums_with_the_values(cache: Path, field: str, value: float) -> None:
    """A record whose statistics are not those of its shard is found, though every hash is right."""
    plan = read_plan(cache)
    records = list(shard_records.read_manifest(cache, plan).shards)
    if field == "n_skipped":
        records[1] = dataclasses.replace(records[1], n_skipped=int(value))
    else:
        records[1] = dataclasses.replace(records[1], sums=dataclasses.replace(records[1].sums, **{field: value}))
    manifest = shard_records.make_manifest(plan, records)
    (cache / "shards" / "00001.json").write_text(json.dumps(dataclasses.asdict(records[1])))
    (cache / "manifest.json").write_text(json.dumps(dataclasses.asdict(manifest)))
    reader = CacheReader(cache)
    found = [verify_shard(reader, index) for index in range(3)]
    assert [len(problems) for problems in found] == [0, 1, 0]
    assert field in found[1][0]


def test_unexpected_files_among_the_shards_are_named(cache: Path) -> None:
    """Files that no record names are reported; what a dump set aside or left behind is not."""
    assert unexpected_files(CacheReader(cache)) == []
    for name in ("00003.h5", "00000.h5.bak", "00000.h5.invalid-ab12", ".tmp-x"):
        (cache / "shards" / name).write_bytes(b"")
    assert [Path(line.split(":")[0]).name for line in unexpected_files(CacheReader(cache))] == [
        "00000.h5.bak",
        "00003.h5",
    ]


def test_a_tokenizer_that_was_changed_is_refused(cache: Path) -> None:
    """The reader compares the tokenizer with the plan's fingerprint."""
    from_corpus(["another text"]).save(cache / "tokenizer", max_length=64, segments=False)
    with pytest.raises(CorruptError, match=r"not the tokenizer that plan\.json names"):
        CacheReader(cache).tokenizer()


def test_a_reader_works_after_fork_and_spawn(cache: Path) -> None:
    """Forked and spawned processes read with a reader that the parent used, and the parent reads on."""
    reader = CacheReader(cache)
    reader.shard(0)
    child = os.fork()
    if child == 0:
        good = caches.equal(reader.shard(1), make_arrays(make_plan(), 1))
        os._exit(0 if good else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(reader_mass, (reader, 2)) == make_arrays(make_plan(), 2).soft.mass().tolist()
    assert caches.equal(reader.shard(2), make_arrays(make_plan(), 2))


def reader_mass(reader: CacheReader, index: int) -> list[float]:
    return reader.shard(index).soft.mass().tolist()


def test_a_reader_keeps_no_file_open(cache: Path) -> None:
    """Reading leaves no handle behind, so that thousands of shards need no limit raised."""
    reader = CacheReader(cache)
    reader.shard(0)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        reader.shard(1)
    assert len(os.listdir("/proc/self/fd")) == before


def test_arrays_survive_the_reader(cache: Path) -> None:
    """The arrays own their memory: they are usable and writable after their shard was closed."""
    arrays = CacheReader(cache).shard(0)
    assert arrays.soft.log_probs.flags.writeable
    assert np.isfinite(arrays.soft.log_probs).all()
