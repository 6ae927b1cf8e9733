"""Files made by an enemy: rows 47 to 50 of the fault matrix, as far as caches go."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import stat
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import caches
import h5py
import numpy as np
import pytest
from caches import forge, make_arrays, make_plan, write_cache
from faults import faulty, python, within, without

from kdcache.cache import schema, shard_records
from kdcache.cache.audit import verify_shard
from kdcache.cache.plan import read_plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import decode_shard, encode_shard
from kdcache.errors import CorruptError, KDCacheError

pytestmark = pytest.mark.complete_cache

Filters = dict[str, Any]
SAME: Filters = {"shuffle": True, "compression": "gzip", "compression_opts": 1, "fletcher32": True}
SHARD = Path("shards/00001.h5")


def external_storage(secret: Path) -> Callable[[h5py.File, h5py.Dataset], object]:
    def put(new: h5py.File, old: h5py.Dataset) -> None:
        space = h5py.h5s.create_simple(old.shape)
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_external(str(secret).encode(), 0, old.nbytes)
        h5py.h5d.create(new.id, b"target_ids", h5py.h5t.py_create(old.dtype), space, properties)

    return put


def virtual(secret: Path, maximum: int | None) -> Callable[[h5py.File, h5py.Dataset], object]:
    def put(new: h5py.File, old: h5py.Dataset) -> None:
        source = h5py.VirtualSource(str(secret), "x", shape=old.shape, dtype=old.dtype, maxshape=(maximum,))
        target = h5py.VirtualLayout(old.shape, old.dtype, maxshape=(maximum,))
        part = slice(None) if maximum else slice(0, h5py.h5s.UNLIMITED)
        target[part] = source[part]
        new.create_virtual_dataset("target_ids", target)

    return put


def hostile(data: bytes, secret: Path) -> dict[str, bytes]:
    """Shards whose target_ids lie elsewhere: the right values in another file or behind another name."""
    size = len(make_arrays(make_plan(), 1).pairs.target_ids)
    puts: dict[str, Callable[[h5py.File, h5py.Dataset], object]] = {
        "soft link": lambda new, old: new.__setitem__("target_ids", h5py.SoftLink("/source_ids")),
        "external link": lambda new, old: new.__setitem__("target_ids", h5py.ExternalLink(str(secret), "x")),
        "external storage": external_storage(secret),
        "virtual dataset": virtual(secret, size),
        "growing virtual dataset": virtual(secret, None),
    }
    return {name: without(data, "target_ids", put) for name, put in puts.items()}


READ = """
import sys
from pathlib import Path
import h5py
from kdcache.cache.shard import decode_shard, encode_shard
from kdcache.errors import CorruptError
import caches

for path in map(Path, sys.argv[2:]):
    if sys.argv[1] == "plain":
        with h5py.File(path) as file:
            print(file["target_ids"][:1])
        continue
    try:
        decode_shard(path.read_bytes(), caches.make_plan(), 1, path.name)
        print(path.name, "was read")
    except CorruptError as error:
        print(error)
"""


def read_in_a_process(mode: str, paths: list[Path], **more: str) -> str:
    result = python("-c", READ, mode, *paths, **more)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_fault_47_storage_elsewhere(cache: Path, tmp_path: Path) -> None:
    """Links, external storage and virtual datasets are refused by name, and the other file is never opened."""
    data = (cache / SHARD).read_bytes()
    secret, log = tmp_path / "secret.h5", tmp_path / "opened"
    with h5py.File(secret, "w") as file:
        file["x"] = make_arrays(make_plan(), 1).pairs.target_ids
    paths = []
    for name, bad in hostile(data, secret).items():
        paths.append(tmp_path / f"{name}.h5")
        paths[-1].write_bytes(bad)
    watched = faulty(secret, "none", FAULT_LOG=str(log))
    lines = read_in_a_process("kdcache", paths, **watched).splitlines()
    assert [line.split(":")[0] for line in lines] == [path.name for path in paths]
    wanted = ["SoftLink", "ExternalLink", *["lies in other files"] * 3]
    assert [word in line for word, line in zip(wanted, lines, strict=True)] == [True] * 5, lines
    assert not log.exists()
    # The watch works: h5py alone opens the file.
    read_in_a_process("plain", paths[1:2], **watched)
    assert str(secret) in log.read_text()


def with_an_attribute(new: h5py.File, old: h5py.Dataset) -> None:
    new.copy(old, "target_ids")
    new["target_ids"].attrs["x"] = 1


def test_fault_47_unknown_filter_type_and_group(cache: Path) -> None:
    """Other filters, other types, groups in the place of datasets, and more or fewer datasets are refused."""
    data = (cache / SHARD).read_bytes()
    puts: dict[str, Callable[[h5py.File, h5py.Dataset], object]] = {
        "filters": lambda new, old: new.create_dataset("target_ids", data=old[()], chunks=old.shape, compression="lzf"),
        "not chunked": lambda new, old: new.create_dataset("target_ids", data=old[()], track_times=False),
        "expected uint16": lambda new, old: new.create_dataset("target_ids", data=old[()].astype(">u2"), **SAME),
        r"parts that shards do not have \(\[12": with_an_attribute,
        "not a dataset": lambda new, old: new.create_group("target_ids"),
        "expected \\['source_ids'": lambda new, old: None,
        "has the shape": lambda new, old: new.create_dataset("target_ids", data=h5py.Empty("<u2")),
    }
    for message, put in puts.items():
        forge(cache, 1, without(data, "target_ids", put))
        with pytest.raises(CorruptError, match=message):
            CacheReader(cache).shard(1)


def test_fault_47_attributes_in_a_heap(cache: Path) -> None:
    """Attributes that HDF5 keeps in a heap of its own, where a filter could inflate them, are refused unread."""

    def put(new: h5py.File, old: h5py.Dataset) -> None:
        for number in range(20):
            new.attrs[f"more{number}"] = number
        new.create_dataset("target_ids", data=old[()], track_times=False, chunks=old.shape, **SAME)

    forge(cache, 1, without((cache / SHARD).read_bytes(), "target_ids", put))
    with pytest.raises(CorruptError, match="the root group is stored with parts that shards do not have"):
        CacheReader(cache).shard(1)


def bomb(size: int) -> bytes:
    """A zlib stream of about size / 1000 bytes that inflates to `size` zeros."""
    block = 1 << 20
    stream = zlib.compressobj(9)
    head = stream.compress(bytes(block)) + stream.flush(zlib.Z_FULL_FLUSH)
    again = stream.compress(bytes(block)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + again * (size // block - 1) + stream.flush()


LIMITED = """
import resource, sys
from pathlib import Path
import caches
from kdcache.cache.shard import decode_shard, encode_shard
from kdcache.errors import CorruptError

data, plan = Path(sys.argv[1]).read_bytes(), caches.make_plan()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20),) * 2)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    decode_shard(data, plan, 1, "here")
except CorruptError as error:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, error)
"""


def refused_within_memory(path: Path, message: str) -> None:
    """The shard is refused with this message by a process that may take 256 MiB more, and takes at most 64."""
    result = python("-c", LIMITED, path)
    assert result.returncode == 0, result.stderr
    kibibytes, _, said = result.stdout.partition(" ")
    assert re.search(message, said), result.stdout
    assert int(kibibytes) < 64 << 10


def test_fault_48_chunk_that_inflates_to_gigabytes(cache: Path, tmp_path: Path) -> None:
    """A chunk of 4 MB that inflates to 4 GiB is refused after as many bytes as it may have."""
    stored = bomb(4 << 30)

    def put(new: h5py.File, old: h5py.Dataset) -> None:
        dataset = new.create_dataset("topk_ids", old.shape, old.dtype, chunks=old.chunks, track_times=False, **SAME)
        dataset.id.write_direct_chunk((0, 0), stored + bytes(4))

    (tmp_path / "bomb.h5").write_bytes(without((cache / SHARD).read_bytes(), "topk_ids", put))
    refused_within_memory(tmp_path / "bomb.h5", "topk_ids has a chunk that does not inflate to")


@pytest.mark.parametrize("rows", [10**6, 1 << 40, 1 << 60])
def test_fault_48_huge_shape(cache: Path, tmp_path: Path, rows: int) -> None:
    """A shape that plan or file size do not allow is refused before memory is taken for it."""

    def put(new: h5py.File, old: h5py.Dataset) -> None:
        new.create_dataset("target_ids", (rows,), old.dtype, chunks=(16_384,), track_times=False, **SAME)

    (tmp_path / "huge.h5").write_bytes(without((cache / SHARD).read_bytes(), "target_ids", put))
    refused_within_memory(tmp_path / "huge.h5", "the plan allows 512 of each")


def test_fault_48_small_file_that_the_plan_allows_to_be_huge() -> None:
    """Also where the plan allows billions of tokens, arrays that are out of all proportion to the file are refused."""
    plan = dataclasses.replace(make_plan(10**9, 10**9), positions=1_000)
    with pytest.raises(CorruptError, match=r"8,000 bytes cannot be a shard whose arrays take 3\d,"):
        schema.check_counts(plan, 0, 10**9, 10**9, 8_000, "here")
    small = make_plan()
    with pytest.raises(CorruptError, match="cannot be a shard"):
        schema.check_counts(small, 0, 100, 100, 1 << 40, "here")
    schema.check_counts(small, 0, 100, 100, 8_000, "here")


def test_fault_48_honest_repetition_is_written_and_read() -> None:
    """A teacher that says the same everywhere compresses two hundred times better, and is still no bomb."""
    plan = make_plan(20_000, 20_000, 8, 100)
    arrays = caches.large_arrays(plan, 5)
    rows = np.zeros(arrays.pairs.n_targets, np.int64)
    pairs = dataclasses.replace(arrays.pairs, target_ids=arrays.pairs.target_ids[rows])
    same = dataclasses.replace(
        arrays, pairs=pairs, soft=arrays.soft.take(rows), target_log_prob=arrays.target_log_prob[rows]
    )
    data = encode_shard(same, plan, 0)
    assert len(data) < 4_000_000 / 16
    assert caches.equal(decode_shard(data, plan, 0, "here"), same)


@pytest.mark.parametrize("file", ["../00001.h5", "/etc/passwd", "00001.h5/../00000.h5", "sub/00001.h5", "", "."])
def test_fault_50_path_in_a_record(cache: Path, file: str) -> None:
    """A record may name only the file that belongs to its shard: nothing outside the folder is ever opened."""
    plan = read_plan(cache)
    records = list(shard_records.read_manifest(cache, plan).shards)
    records[1] = dataclasses.replace(records[1], file=file)
    (cache / "manifest.json").write_bytes(caches.manifest_bytes(plan, records))
    with pytest.raises(CorruptError, match="this is not the record of shard 1"):
        CacheReader(cache)
    (cache / "shards" / "00001.json").write_text(json.dumps(dataclasses.asdict(records[1])))
    with pytest.raises(CorruptError, match="this is not the record of shard 1"):
        write_cache(cache, plan)


LINKS = {"nothing": "nowhere", "circle": "", "folder": ".", "device": "/dev/zero"}


@pytest.mark.parametrize("target", LINKS)
@pytest.mark.parametrize("name", ["plan.json", "manifest.json", "shards/00001.json", str(SHARD)])
def test_fault_50_link_to_no_regular_file(cache: Path, name: str, target: str) -> None:
    """A link to nothing, to itself, to a folder or to a device is refused at once, in the place of any file."""
    path = cache / name
    path.unlink()
    path.symlink_to(LINKS[target] or path.name)
    with within(30):
        if name.startswith("shards"):
            found = verify_shard(CacheReader(cache), 1)
            assert f"{path}: " in found[0]
        else:
            with pytest.raises(CorruptError, match=name):
                CacheReader(cache)
        if name == "manifest.json":
            assert write_cache(cache, make_plan())
            return
        with pytest.raises(KDCacheError, match=str(cache)):
            write_cache(cache, make_plan())


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_fault_50_no_regular_file_as_a_shard(cache: Path, kind: str) -> None:
    """A pipe, a folder or a device in the place of a shard is refused at once; nothing waits for it."""
    path = cache / SHARD
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        try:
            os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))
        except PermissionError:  # only root may make a device, here one that gives zeros without end
            path.symlink_to("/dev/zero")
    message = r"00001\.h5: (not a regular file|cannot be read: Is a directory|a link)"
    with within(30), pytest.raises(CorruptError, match=message):
        CacheReader(cache).shard(1)
