"""The fault matrix of the cache, rows 23 to 25 and 28: shards that change after they were committed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import caches
import h5py
import numpy as np
import pytest
from caches import forge, make_arrays, make_plan, write_cache
from faults import python, without

from kdcache.cache.hdf5 import GZIP_LEVEL
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import decode_shard, encode_shard
from kdcache.errors import CorruptError

pytestmark = pytest.mark.complete_cache

SHARD = Path("shards/00001.h5")

# In a process of its own, since HDF5 might crash. Prints how many flips were caught, harmless and silent.
FLIPS = """
import random, sys
import caches
from pathlib import Path
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import decode_shard
from kdcache.errors import CorruptError

folder, count, checked = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "checked"
reader = CacheReader(folder)
path, record = folder / "shards" / "00001.h5", reader.records[1]
data, generator = path.read_bytes(), random.Random(23)
wanted = caches.make_arrays(reader.plan, 1)
caught = harmless = silent = 0
for bit in generator.sample(range(8 * len(data)), count):
    flipped = bytearray(data)
    flipped[bit // 8] ^= 1 << bit % 8
    try:
        if checked:
            path.write_bytes(flipped)
            reader.shard(1)
            silent += 1
        elif caches.equal(decode_shard(bytes(flipped), reader.plan, 1, "here"), wanted):
            harmless += 1
        else:
            silent += 1
    except CorruptError:
        caught += 1
path.write_bytes(data)
print(caught, harmless, silent)
"""


def flips(folder: Path, count: int, mode: str) -> list[int]:
    cache = folder / "large"
    assert write_cache(cache, make_plan(n_pairs=300, shard_pairs=150))
    result = python("-c", FLIPS, cache, count, mode)
    assert result.returncode == 0, result.stderr
    return [int(number) for number in result.stdout.split()]


COUNTS = [300, pytest.param(3_000, marks=pytest.mark.full)]


@pytest.mark.parametrize("count", COUNTS)
def test_fault_23_bit_flips(tmp_path: Path, count: int) -> None:
    """Every single flipped bit of a shard is caught by its SHA-256."""
    assert flips(tmp_path, count, "checked") == [count, 0, 0]


@pytest.mark.parametrize("count", COUNTS)
def test_fault_23_bit_flips_without_sha256(tmp_path: Path, count: int) -> None:
    """With the SHA-256 out of the way, no flipped bit changes a value in silence: it is refused or changes nothing."""
    caught, harmless, silent = flips(tmp_path, count, "unchecked")
    assert (caught + harmless, silent) == (count, 0)
    # Free space inside the file and the checksums for other readers are not read; all the rest is.
    assert caught > harmless


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "truncated": lambda data: data[:-1],
    "cut in half": lambda data: data[: len(data) // 2],
    "emptied": lambda data: b"",
    "appended": lambda data: data + b"\0",
    "zeroed page": lambda data: data[:4096] + bytes(4096) + data[8192:],
}


@pytest.mark.parametrize("change", CHANGES)
def test_fault_24_changed_file(cache: Path, change: str) -> None:
    """A shard that was truncated, extended or lost a page is an error that names it, by hash and also by content."""
    path = cache / SHARD
    data = CHANGES[change](path.read_bytes())
    path.write_bytes(data)
    reader = CacheReader(cache)
    with pytest.raises(CorruptError, match=r"00001\.h5"):
        reader.shard(1)
    assert caches.equal(reader.shard(0), make_arrays(reader.plan, 0))
    with pytest.raises(CorruptError, match="here"):
        decode_shard(data, reader.plan, 1, "here")


def test_fault_25_swapped_shards(cache: Path) -> None:
    """Two valid shards in each other's place are refused, also if somebody made the records agree."""
    one, two = cache / "shards" / "00000.h5", cache / SHARD
    first, second = one.read_bytes(), two.read_bytes()
    one.write_bytes(second)
    two.write_bytes(first)
    for index in range(2):
        with pytest.raises(CorruptError, match=f"0000{index}.h5"):
            CacheReader(cache).shard(index)
    forge(cache, 0, second)
    forge(cache, 1, first)
    for index in range(2):
        with pytest.raises(CorruptError, match=f"0000{index}.h5: attribute shard is .*, expected {index}"):
            CacheReader(cache).shard(index)


def test_fault_25_shard_of_another_run(cache: Path) -> None:
    """A shard of another run with the same shapes is refused, also if somebody made the records agree."""
    other = make_plan(n_pairs=21)
    pairs = make_arrays(make_plan(), 1).pairs
    data = encode_shard(caches.label(pairs, other, 1), other, 1)
    (cache / SHARD).write_bytes(data)
    with pytest.raises(CorruptError, match=r"00001\.h5"):
        CacheReader(cache).shard(1)
    forge(cache, 1, data)
    with pytest.raises(CorruptError, match=r"00001\.h5: attribute plan is"):
        CacheReader(cache).shard(1)


def rewritten(cache: Path, change: Callable[[h5py.DatasetID, h5py.File], None]) -> bytes:
    """The second shard with its topk_ids written chunk by chunk by `change`."""

    def put(new: h5py.File, ids: h5py.Dataset) -> None:
        same = {"shuffle": True, "compression": "gzip", "compression_opts": GZIP_LEVEL, "fletcher32": True}
        dataset = new.create_dataset("topk_ids", ids.shape, ids.dtype, chunks=ids.chunks, track_times=False, **same)
        change(dataset.id, ids.file)

    return without((cache / SHARD).read_bytes(), "topk_ids", put)


def refuse(cache: Path, data: bytes, message: str) -> None:
    """The bytes are refused although record and manifest commit them; so are they without a record."""
    forge(cache, 1, data)
    with pytest.raises(CorruptError, match=message):
        CacheReader(cache).shard(1)


def test_fault_28_rewriting_alone_is_harmless(cache: Path) -> None:
    """The helper of this row rewrites a shard without breaking it: what the next tests see is the fault alone."""
    data = rewritten(
        cache, lambda new, old: new.write_direct_chunk((0, 0), old["topk_ids"].id.read_direct_chunk((0, 0))[1])
    )
    forge(cache, 1, data)
    assert caches.equal(CacheReader(cache).shard(1), make_arrays(make_plan(), 1))


def test_fault_28_missing_chunk(cache: Path) -> None:
    """A chunk that was never written, which HDF5 reads as zeros, is refused."""
    data = rewritten(cache, lambda new, old: None)
    with h5py.File(h5py.h5f.open_file_image(data)) as file:
        assert not np.asarray(file["topk_ids"]).any()
    refuse(cache, data, "topk_ids lacks chunks, which would read as zeros")


def test_fault_28_one_of_several_chunks_is_missing() -> None:
    """A chunk missing in the middle or at the end of many is refused."""
    plan = make_plan(200_000, 200_000, 2, 8_000)
    good = encode_shard(caches.large_arrays(plan, 1), plan, 0)
    for left_out in (0, 1, 3):

        def put(new: h5py.File, old: h5py.Dataset, missing: int = 50_000 * left_out) -> None:
            copy = new.create_dataset("topk_ids", old.shape, old.dtype, dcpl=old.id.get_create_plist())
            for info in [old.id.get_chunk_info(i) for i in range(old.id.get_num_chunks())]:
                if info.chunk_offset[0] != missing:
                    copy.id.write_direct_chunk(info.chunk_offset, old.id.read_direct_chunk(info.chunk_offset)[1])

        data = without(good, "topk_ids", put)
        with pytest.raises(CorruptError, match="topk_ids lacks chunks"):
            decode_shard(data, plan, 0, "here")


def test_fault_28_chunk_without_its_end(cache: Path) -> None:
    """A chunk that gives all its bytes but lacks zlib's checksum behind them is refused."""

    def change(new: h5py.DatasetID, old: h5py.File) -> None:
        stored = old["topk_ids"].id.read_direct_chunk((0, 0))[1]
        new.write_direct_chunk((0, 0), stored[:-8] + bytes(4))

    refuse(cache, rewritten(cache, change), "topk_ids has a chunk that does not inflate")


@pytest.mark.parametrize("mask", [1, 2, 4, 7])
def test_fault_28_filter_mask(cache: Path, mask: int) -> None:
    """A chunk that says that it skips the checksum or another filter is refused."""
    plain = make_arrays(make_plan(), 1).soft.token_ids.tobytes()

    def change(new: h5py.DatasetID, old: h5py.File) -> None:
        stored = old["topk_ids"].id.read_direct_chunk((0, 0))[1]
        new.write_direct_chunk((0, 0), plain if mask == 7 else stored[:-4] if mask == 4 else stored, mask)

    data = rewritten(cache, change)
    if mask in (4, 7):
        with h5py.File(h5py.h5f.open_file_image(data)) as file:
            assert np.array_equal(file["topk_ids"], make_arrays(make_plan(), 1).soft.token_ids)
    refuse(cache, data, "topk_ids has chunks that skip a filter")
