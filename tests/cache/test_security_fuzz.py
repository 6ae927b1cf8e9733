"""Row 49 of the fault matrix: mutated plans, records, manifests and shards give an error of ours, never a crash."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
from faults import python

from kdcache.cache.audit import unexpected_files, verify_shard
from kdcache.cache.reader import CacheReader
from kdcache.errors import KDCacheError
from kdcache.files.atomic import sha256
from kdcache.files.strict_json import canonical_json
from kdcache.inspection.cache_summary import summarize, view_pair

pytestmark = pytest.mark.complete_cache


def is_sound(folder: Path) -> bool:
    """Do everything that opens a cache; whether no problem was found. Only errors of ours are taken for an answer."""
    try:
        reader = CacheReader(folder)
        summarize(reader)
        problems = unexpected_files(reader)
        for index in range(len(reader.records)):
            problems += verify_shard(reader, index)
            view_pair(reader, index * reader.plan.shard_pairs)
    except KDCacheError:
        return False
    return not problems


STRANGE = [
    None, True, -1, 0, 1, 2**31, 2**63, 10**400, -(10**30), 0.5, -0.0, 1e308, -1e308, "", "x", "../../etc/passwd", "\0",
    "0" * 64, [], {}, [[]], {"": 0}, [None] * 3,
]  # fmt: skip


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The places in parsed JSON, inner ones included."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, one in inner for place in leaves(one, (*path, key)))]


def mutated(value: Any, generator: random.Random) -> Any:
    """Parsed JSON with one place replaced, removed or doubled."""
    value = json.loads(json.dumps(value))
    *path, last = generator.choice(leaves(value)[1:])
    holder = value
    for key in path:
        holder = holder[key]
    match generator.randrange(4):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, list):
            holder.append(holder[last])
        case _:
            holder[last] = generator.choice(STRANGE)
    return value


FILES = ["plan.json", "manifest.json", "shards/00001.json", "tokenizer/tokenizer_config.json"]


@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", FILES)
def test_fault_49_mutated_json(cache: Path, name: str, count: int) -> None:
    """JSON with strange values in any place gives an error of ours or still works; nothing else comes out."""
    assert is_sound(cache)
    generator, path = random.Random(name), cache / name
    good = json.loads(path.read_text())
    sound = 0
    for _ in range(count):
        path.write_text(json.dumps(mutated(good, generator)))
        sound += is_sound(cache)
    # What the configuration of the tokenizer says beyond the special tokens is not kdcache's.
    assert sound < count / 2 or "config" in name


@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.full)])
def test_fault_49_mutated_manifest_with_a_right_hash(cache: Path, count: int) -> None:
    """The same where the root hash fits the strange values, so that the checks behind it are reached."""
    generator, path = random.Random(49), cache / "manifest.json"
    manifest = json.loads(path.read_text())
    for _ in range(count):
        shards = mutated(manifest["shards"], generator)
        path.write_text(json.dumps({**manifest, "shards": shards, "root": sha256(canonical_json(shards))}))
        assert not is_sound(cache) or shards == manifest["shards"]


@pytest.mark.parametrize("field", ["mass", "surprise", "rounding"])
def test_fault_49_strange_number_in_a_record(cache: Path, field: str) -> None:
    """Every strange value in the place of a sum is refused, integers that no float can hold included."""
    path = cache / "manifest.json"
    manifest = json.loads(path.read_text())
    for value in STRANGE:
        shards = json.loads(json.dumps(manifest["shards"]))
        shards[1]["sums"][field] = value
        path.write_text(json.dumps({**manifest, "shards": shards, "root": sha256(canonical_json(shards))}))
        assert not is_sound(cache), value


@pytest.mark.parametrize("count", [50, pytest.param(1_000, marks=pytest.mark.full)])
@pytest.mark.parametrize("name", [*FILES[:3], "tokenizer/tokenizer.json"])
def test_fault_49_mutated_bytes_of_json(cache: Path, name: str, count: int) -> None:
    """Single bytes of a JSON file changed to others give an error of ours or still works."""
    generator, path = random.Random(name), cache / name
    good = path.read_bytes()
    for _ in range(count):
        data = bytearray(good)
        data[generator.randrange(len(data))] = generator.randrange(256)
        path.write_bytes(data)
        is_sound(cache)


@pytest.mark.parametrize(
    ("seed", "count"), [(1, 300), *(pytest.param(seed, 4_000, marks=pytest.mark.full) for seed in range(2, 12))]
)
def test_fault_49_mutated_shard(seed: int, count: int) -> None:
    """Mutated shards, also with HDF5's checksums put right, are refused or unchanged; no process dies or hangs."""
    result = python("fuzz_shards.py", seed, count)
    assert result.returncode == 0, result.stderr
    parts, refused = map(int, result.stdout.split())
    assert parts > 8
    assert count / 2 < refused < count
