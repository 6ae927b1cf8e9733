"""The fault matrix of the cache, rows 26 and 27: what is missing, superfluous or wrong around the shards."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import caches
import pytest
from caches import make_plan, write_cache
from conftest import run_here

from kdcache.cache import shard_records
from kdcache.cache.audit import unexpected_files, verify_shard
from kdcache.cache.plan import read_plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import CorruptError

pytestmark = pytest.mark.complete_cache

SHARD = Path("shards/00001.h5")


def test_fault_26_missing_shard(cache: Path) -> None:
    """A missing shard is named by the reader, by verify and by the writer."""
    (cache / SHARD).unlink()
    reader = CacheReader(cache)
    with pytest.raises(CorruptError, match=r"00001\.h5: missing"):
        reader.shard(1)
    assert [len(verify_shard(reader, index)) for index in range(3)] == [0, 1, 0]
    with pytest.raises(CorruptError, match=r"00001\.h5: not the .* bytes that 00001\.json commits"):
        write_cache(cache, make_plan())


def test_fault_26_missing_record(cache: Path) -> None:
    """A missing record is named by verify; the same dump writes it again."""
    before = caches.contents(cache)
    (cache / "shards" / "00001.json").unlink()
    result = run_here("verify", cache)
    assert (result.returncode, "00001.json" in result.stderr) == (1, True)
    assert write_cache(cache, make_plan())
    assert caches.contents(cache) == before


def test_fault_26_extra_shard_and_record(cache: Path) -> None:
    """A shard or record beyond the plan is reported; a manifest with one record more or less is refused."""
    for suffix in ("h5", "json"):
        (cache / "shards" / f"00003.{suffix}").write_bytes((cache / "shards" / f"00001.{suffix}").read_bytes())
    assert [Path(line.split(":")[0]).name for line in unexpected_files(CacheReader(cache))] == [
        "00003.h5",
        "00003.json",
    ]
    plan = read_plan(cache)
    records = shard_records.read_manifest(cache, plan).shards
    for changed in (records[:2], (*records, records[0]), (records[1], records[0], records[2])):
        (cache / "manifest.json").write_bytes(caches.manifest_bytes(plan, changed))
        with pytest.raises(CorruptError, match=r"manifest\.json"):
            CacheReader(cache)


def test_fault_26_manifest_with_another_root(cache: Path) -> None:
    """A manifest of which one record was changed does not fit its root hash."""
    manifest = json.loads((cache / "manifest.json").read_text())
    manifest["shards"][1]["sums"]["unknown"] += 1
    (cache / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(CorruptError, match="do not add up to its root hash"):
        CacheReader(cache)


def change_record(cache: Path, change: Callable[[ShardRecord], ShardRecord]) -> None:
    """Let the manifest commit another record of shard 1, with a root hash that fits."""
    plan = read_plan(cache)
    records = list(shard_records.read_manifest(cache, plan).shards)
    records[1] = change(records[1])
    (cache / "manifest.json").write_bytes(caches.manifest_bytes(plan, records))


@pytest.mark.parametrize("field", ["n_targets", "n_source_tokens"])
def test_fault_26_record_of_another_size(cache: Path, field: str) -> None:
    """A record that commits the right bytes with another number of tokens is refused before they are read."""
    change_record(cache, lambda one: dataclasses.replace(one, **{field: getattr(one, field) + 1}))
    with pytest.raises(CorruptError, match="source and target tokens, its record says"):
        CacheReader(cache).shard(1)


IMPOSSIBLE = {"known": 10**6, "best": 10**6, "unknown": -1, "mass": 1e9, "surprise": 1e308}


@pytest.mark.parametrize("field", ["n_skipped", *IMPOSSIBLE])
def test_fault_26_impossible_sums(cache: Path, field: str) -> None:
    """A record whose statistics no shard can have is refused when the cache is opened."""

    def change(one: ShardRecord) -> ShardRecord:
        if field == "n_skipped":
            return dataclasses.replace(one, n_skipped=9)
        return dataclasses.replace(one, sums=dataclasses.replace(one.sums, **{field: IMPOSSIBLE[field]}))

    change_record(cache, change)
    with pytest.raises(CorruptError, match="target positions cannot have"):
        CacheReader(cache)


def test_fault_26_other_record(cache: Path) -> None:
    """A record that is sound but not the manifest's is named by verify."""
    record = json.loads((cache / "shards" / "00001.json").read_text())
    record["n_skipped"] += 1
    (cache / "shards" / "00001.json").write_text(json.dumps(record))
    assert ["differs from the manifest's" in line for line in verify_shard(CacheReader(cache), 1)] == [True]


BAD_JSON = {
    "empty": b"",
    "not JSON": b"\x89HDF\r\n",
    "cut": None,
    "duplicate keys": None,
    "deeply nested": b"[" * 200_000 + b"]" * 200_000,
    "a list": b"[]",
    "another object": b'{"format": "kdcache", "version": 1}',
}


def repeated_key(data: bytes) -> bytes:
    """The same object with its first field once more, of the same value: nothing else is wrong with it."""
    name, value = next(iter(json.loads(data).items()))
    return b"{" + json.dumps(name).encode() + b": " + json.dumps(value).encode() + b"," + data.lstrip()[1:]


@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "shards/00001.json"])
@pytest.mark.parametrize("content", BAD_JSON)
def test_fault_27_bad_json(cache: Path, name: str, content: str) -> None:
    """A plan, manifest or record that is empty, not JSON, repeats keys or nests too deeply is an error naming it."""
    path = cache / name
    good = path.read_bytes()
    made = {"cut": good[:-20], "duplicate keys": repeated_key(good)}
    path.write_bytes(BAD_JSON[content] or made.get(content, b""))
    with pytest.raises(CorruptError, match=path.name):
        shard_records.read_record(cache, CacheReader(cache).plan, 1)
    if name != "shards/00001.json":
        result = run_here("inspect", cache) if content == "empty" else None
        assert result is None or result.returncode == 1


@pytest.mark.parametrize("name", ["plan.json", "manifest.json"])
def test_fault_27_huge_json(cache: Path, name: str) -> None:
    """A plan or manifest of many gigabytes is refused by its size, before a byte of it is read."""
    with open(cache / name, "ab") as file:
        file.truncate(1 << 40)
    with pytest.raises(CorruptError, match=rf"{name}: 1,099,511,627,776 bytes of JSON"):
        CacheReader(cache)


def test_fault_27_absurd_numbers(cache: Path) -> None:
    """A plan with absurdly many pairs is refused at once: nothing loops over its shards."""
    plan = json.loads((cache / "plan.json").read_text())
    (cache / "plan.json").write_text(json.dumps({**plan, "n_pairs": 10**300, "shard_pairs": 1}))
    (cache / "manifest.json").unlink()
    with pytest.raises(CorruptError, match="incomplete: 3 of 1,000"):
        CacheReader(cache)
