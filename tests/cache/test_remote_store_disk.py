"""What happens to the folder of copies never ends the work that they are meant to speed up."""

from __future__ import annotations

import dataclasses
import logging
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import caches
import pytest
from caches import make_plan, write_cache
from conftest import SUPPORT, run_cli
from faults import environment, faulty
from remote import Server, serve

from kdcache.cache.derived.transcoding import TranscodeConfig, transcode
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.store import Store
from kdcache.files.atomic import sha256, temporary_name
from kdcache.files.locations import StoreConfig


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of 60 pairs in 8 shards."""
    folder = tmp_path_factory.mktemp("store") / "cache"
    assert write_cache(folder, make_plan(n_pairs=60))
    return folder


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    """A server of that cache."""
    with serve(cache) as running:
        yield running


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]


def test_a_folder_that_is_removed_is_made_again(
    server: Server, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With `rm -rf` of the folder between any two shards all are read all the same, and copied into a new folder."""
    local, folder = CacheReader(cache), tmp_path / "s"
    for index, arrays in enumerate(open_cache(server.url, StoreConfig(str(folder))).read(range(8))):
        assert caches.equal(arrays, local.shard(index))
        shutil.rmtree(folder, ignore_errors=True)
    reader = open_cache(server.url, StoreConfig(str(folder)))
    shutil.rmtree(folder)
    reader.shard(3)
    assert [path.name for path in folder.iterdir()] == [reader.records[3].sha256]
    assert folder.stat().st_mode & 0o777 == 0o700
    assert warnings(caplog) == []


@pytest.mark.parametrize(("losses", "kept"), [(1, True), (2, False), (3, False)])
def test_a_folder_that_is_removed_as_soon_as_it_is_made(
    losses: int,
    kept: bool,
    cache: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An `rm -rf` under way also removes the folder that was made again; more of them cost one copy, and no warning."""
    store, record = Store(StoreConfig(str(tmp_path / "s"))), CacheReader(cache).records[3]
    data = (cache / "shards" / "00003.h5").read_bytes()
    made, make = [], Path.mkdir

    def make_and_lose(path: Path, *arguments: object, **options: object) -> None:
        make(path, *arguments, **options)  # type: ignore[arg-type]
        made.append(path)
        if len(made) <= losses:
            path.rmdir()

    shutil.rmtree(tmp_path / "s")
    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    assert store.put(record, data) == kept
    assert store.get(record) == (data if kept else None)
    assert store.put(record, data)
    assert store.get(record) == data
    assert warnings(caplog) == []


def test_a_folder_that_cannot_be_made_again_is_one_warning(
    cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A removed folder whose place cannot hold one any more costs all copies and is warned of once."""
    store, record = Store(StoreConfig(str(tmp_path / "a" / "s"))), CacheReader(cache).records[3]
    shutil.rmtree(tmp_path / "a")
    # Where nothing can be made, for the same reason as where a folder is missing.
    (tmp_path / "a").symlink_to("/proc")
    for _ in range(2):
        assert not store.put(record, b"")
    (warning,) = warnings(caplog)
    assert "copies cannot be written" in warning


READ = """
import logging, sys
from pathlib import Path
import caches
from kdcache.files.locations import StoreConfig
from kdcache.cache.reader import CacheReader, open_cache

logging.basicConfig(format="%(message)s")
url, cache, folder = sys.argv[1:]
reader, local = open_cache(url, StoreConfig(folder)), CacheReader(Path(cache))
print(sum(caches.equal(reader.shard(index), local.shard(index)) for index in range(8)))
"""


@pytest.mark.parametrize("kind", ["full:30000", "full:0", "fsync:1"])
def test_a_disk_that_refuses_is_one_warning(server: Server, cache: Path, kind: str, tmp_path: Path) -> None:
    """On a disk that is or becomes full all shards are read; one warning says that copies are not kept any more.

    An input or output error in the middle costs one copy and is warned of as well.
    """
    folder = tmp_path / "s"
    line = [sys.executable, "-W", "error", "-c", READ, server.url, str(cache), str(folder)]
    set_up = environment(**faulty(folder, kind))
    done = subprocess.run(line, cwd=SUPPORT, env=set_up, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, "8"), done.stderr
    assert done.stderr.count("Going on without new ones.") == 1
    assert str(folder) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob(".tmp-*"))


def record_of(cache: Path, data: bytes) -> object:
    return dataclasses.replace(CacheReader(cache).records[0], bytes=len(data), sha256=sha256(data))


def test_on_a_full_disk_old_copies_make_way(cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Where others have filled a real disk of 1 MB, a copy takes the place of older ones, and nothing is said."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        store = Store(StoreConfig(str(disk / "s")))
        for letter in (b"a", b"b", b"c"):
            assert store.put(record_of(cache, letter * 100_000), letter * 100_000)  # type: ignore[arg-type]
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        assert store.put(record_of(cache, b"d" * 150_000), b"d" * 150_000)  # type: ignore[arg-type]
        assert sorted(path.read_text()[0] for path in (disk / "s").iterdir()) == ["c", "d"]
        assert warnings(caplog) == []
    finally:
        subprocess.run(["umount", disk], check=True)


def test_a_copy_that_cannot_be_removed(
    server: Server, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder under the name of a copy is neither used nor removed; the shard is fetched, and a warning says why."""
    reader = open_cache(server.url, StoreConfig(str(tmp_path / "s")))
    (tmp_path / "s" / reader.records[2].sha256).mkdir()
    for _ in range(2):
        assert caches.equal(reader.shard(2), CacheReader(cache).shard(2))
    assert sum("Going on without new ones." in said for said in warnings(caplog)) == 1


def test_nothing_is_evicted_in_vain(cache: Path, tmp_path: Path) -> None:
    """A copy for which there cannot be room evicts no other; one for which there can evicts as few as suffice."""
    folder = tmp_path / "s"
    store = Store(StoreConfig(str(folder), 1_000))
    kept = [letter * 300 for letter in (b"a", b"b", b"c")]
    assert all(store.put(record_of(cache, data), data) for data in kept)  # type: ignore[arg-type]
    assert not store.put(record_of(cache, b"z" * 1_001), b"z" * 1_001)  # type: ignore[arg-type]
    assert len(list(folder.iterdir())) == 3
    temporary_name(folder / ("f" * 64)).write_bytes(bytes(500))
    assert not store.put(record_of(cache, b"y" * 600), b"y" * 600)  # type: ignore[arg-type]
    assert sum(len(path.name) == 64 for path in folder.iterdir()) == 3


def test_an_incomplete_cache_names_its_own_command(tmp_path: Path) -> None:
    """At a URL too, a cache that `transcode` has not finished is completed with `transcode`."""
    assert write_cache(tmp_path / "cache", make_plan())
    assert transcode(TranscodeConfig(str(tmp_path / "cache"), topk=2), tmp_path / "cut") is not None
    (tmp_path / "cut" / "manifest.json").unlink()
    with serve(tmp_path / "cut") as server:
        done = run_cli("inspect", server.url)
    assert done.returncode == 1
    assert "the cache is incomplete. Complete it with kdcache transcode, then copy it again." in done.stderr
