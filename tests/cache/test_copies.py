"""The folder of local copies of remote shards: bounded, shared, and never trusted."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import caches
import pytest
from caches import make_plan, write_cache
from conftest import run_here
from faults import faulty, python
from remote import Server, copies, serve

from kdcache.cache import copies as copies_module
from kdcache.cache.copies import Copies
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.shard_records import ShardRecord
from kdcache.errors import OutputError, UsageError
from kdcache.files.atomic import locked, sha256, temporary_name
from kdcache.files.locations import StoreConfig, parse_size


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of 60 pairs in 8 shards."""
    folder = tmp_path_factory.mktemp("copies") / "cache"
    assert write_cache(folder, make_plan(n_pairs=60))
    return folder


class Shelf:
    """A folder of copies whose contents are easily told apart: each is one letter many times."""

    def __init__(self, cache: Path, folder: Path, limit: int) -> None:
        self.folder, self.limit, self._record = folder, limit, CacheReader(cache).records[0]
        self.copies = Copies(StoreConfig(str(folder), limit))

    def record(self, data: bytes) -> ShardRecord:
        return dataclasses.replace(self._record, bytes=len(data), sha256=sha256(data))

    def put(self, letters: str, size: int = 100) -> None:
        for letter in letters:
            self.copies.put(self.record(letter.encode() * size), letter.encode() * size)
            time.sleep(0.01)

    def get(self, letter: str, size: int = 100) -> bytes | None:
        time.sleep(0.01)
        return self.copies.get(self.record(letter.encode() * size))

    def letters(self) -> str:
        return "".join(sorted(path.read_text()[0] for path in copies(StoreConfig(str(self.folder)))))


# Room


def test_the_least_recently_used_makes_way(cache: Path, tmp_path: Path) -> None:
    """With room for three, what was stored or read longest ago is removed, several at once for a large one."""
    shelf = Shelf(cache, tmp_path / "s", 350)
    shelf.put("abc")
    assert shelf.get("a") == b"a" * 100
    shelf.put("d")
    assert shelf.letters() == "acd"
    assert shelf.get("b") is None
    shelf.put("e", 250)
    assert shelf.letters() == "de"


def test_only_its_own_files_count(cache: Path, tmp_path: Path) -> None:
    """Files of others in the folder are neither counted nor removed, unless they are parts that kdcache abandoned."""
    folder = tmp_path / "s"
    folder.mkdir()
    for name in ("notes.txt", "0" * 63, ".tmp-other~host~1~aa"):
        (folder / name).write_bytes(bytes(1_000))
    abandoned = temporary_name(folder / ("f" * 64))
    abandoned.write_bytes(bytes(100))
    os.utime(abandoned, (0, 0))
    shelf = Shelf(cache, folder, 250)
    shelf.put("abc")
    assert shelf.letters() == "bc"
    assert len(list(folder.iterdir())) == 3 + 2 + len([".lock"])


def test_a_process_that_stalls_stops_no_other(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another process holds the folder for long, a shard is used without a copy; later ones are copied again."""
    monkeypatch.setattr(copies_module, "LOCK_SECONDS", 0.1)
    shelf = Shelf(cache, tmp_path / "s", 250)
    with locked(shelf.folder):
        shelf.put("a")
        assert shelf.letters() == ""
    shelf.put("b")
    assert shelf.letters() == "b"


# Places


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    """A folder whose place is taken by a file is an error that names it."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        Copies(StoreConfig(str(tmp_path / "taken")))


def test_the_folder_is_for_its_owner(tmp_path: Path) -> None:
    """A copy is as confidential as the corpus: nobody else may look into a folder that kdcache made."""
    Copies(StoreConfig(str(tmp_path / "s")))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_a_folder_that_is_removed_is_an_error(server: Server, tmp_path: Path) -> None:
    """With `rm -rf` of the folder while it is in use one line says so, and running again makes it anew."""
    store = StoreConfig(str(tmp_path / "s"))
    reader = open_cache(server.url, store)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(
        OutputError, match=r"/s: the folder of local copies was removed while it was in use\. Run"
    ) as raised:
        list(reader.read([0, 1]))
    assert "\n" not in str(raised.value)
    open_cache(server.url, store).shard(3)
    assert [path.name for path in copies(store)] == [reader.records[3].sha256]


READ = """
import logging, sys
from pathlib import Path
import caches
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.files.locations import StoreConfig

logging.basicConfig(format="%(message)s")
url, cache, folder, limit, seed = sys.argv[1:]
reader, local = open_cache(url, StoreConfig(folder, int(limit))), CacheReader(Path(cache))
wanted = [local.shard(index) for index in range(8)]
order = [(int(seed) * 3 + 5 * i) % 8 for i in range(40)]
print(sum(caches.equal(one, wanted[index]) for index, one in zip(order, reader.read(order))))
"""


@pytest.mark.parametrize("kind", ["full:30000", "full:0", "fsync:1"])
def test_a_disk_that_refuses_is_one_warning(server: Server, cache: Path, kind: str, tmp_path: Path) -> None:
    """On a disk that is or becomes full, or fails once, all shards are read; one warning names the folder."""
    folder = tmp_path / "s"
    done = python("-W", "error", "-c", READ, server.url, cache, folder, 10**9, 0, **faulty(folder, kind))
    assert (done.returncode, done.stdout.strip()) == (0, "40"), done.stderr
    assert done.stderr.count("Going on without new ones.") == 1
    assert str(folder) in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob(".tmp-*"))


def test_a_copy_that_cannot_be_removed(
    server: Server, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A folder under the name of a copy is neither used nor removed; the shard is fetched, and a warning says why."""
    reader = open_cache(server.url, StoreConfig(str(tmp_path / "s")))
    (tmp_path / "s" / reader.records[2].sha256).mkdir()
    for _ in range(2):
        assert caches.equal(reader.shard(2), CacheReader(cache).shard(2))
    assert sum("Going on without new ones." in said for said in caplog.messages) == 1


def test_where_copies_go_by_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without --cache-folder copies go into the user's folder for caches, and without a home into a temporary one."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert StoreConfig().path == Path("/x/kdcache")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert StoreConfig().path == tmp_path / ".cache" / "kdcache"
    monkeypatch.setenv("HOME", "/nonexistent")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert StoreConfig().path == tmp_path / f"kdcache-{os.getuid()}"
    StoreConfig().path.mkdir()
    if os.getuid() == 0:  # nobody else may give a folder away
        os.chown(StoreConfig().path, 12345, 12345)
        with pytest.raises(UsageError, match="belongs to another user"):
            _ = StoreConfig().path
    assert StoreConfig("here").path == Path("here")


SIZES = [("0", 0), ("17", 17), ("500MB", 500_000_000), ("1.5 GB", 1_500_000_000), ("2t", 2 * 10**12), ("3kB", 3_000)]


@pytest.mark.parametrize(("text", "expected"), SIZES)
def test_sizes(text: str, expected: int) -> None:
    """Sizes have decimal units, in either case, or none."""
    assert parse_size(text, "--cache-limit") == expected


@pytest.mark.parametrize("text", ["", "much", "-1", "5 GiB", "1e9", "GB"])
def test_no_sizes(text: str) -> None:
    """Everything else is refused, naming the option."""
    with pytest.raises(UsageError, match="--cache-limit takes a size such as 500MB or 50GB, not"):
        parse_size(text, "--cache-limit")


# Rows 32 and 33


def test_fault_33_less_than_a_shard(server: Server, cache: Path, tmp_path: Path) -> None:
    """A limit below the largest shard is refused at the start, with both numbers and what to give, before any shard."""
    largest = max(record.bytes for record in CacheReader(cache).records)
    limit = largest - 1
    message = f"--cache-limit {limit:,} bytes is less than the largest shard of the cache, {largest:,} bytes. Give at"
    with pytest.raises(UsageError, match=f"{message} least --cache-limit {largest}"):
        open_cache(server.url, StoreConfig(str(tmp_path / "s"), limit))
    assert not [name for name in server.requests if name.endswith(".h5")]


def test_fault_33_exactly_a_shard(server: Server, cache: Path, tmp_path: Path) -> None:
    """With room for the largest shard only, all of the cache is read, twice, and the folder never exceeds its limit."""
    local = CacheReader(cache)
    limit = max(record.bytes for record in local.records)
    reader = open_cache(server.url, StoreConfig(str(tmp_path / "s"), limit))
    order = list(range(8)) * 2
    for index, arrays in zip(order, reader.read(order), strict=True):
        assert caches.equal(arrays, local.shard(index))
        assert taken(tmp_path / "s") <= limit


def test_fault_33_command(server: Server, tmp_path: Path) -> None:
    """`student-train` with too small a limit ends with exit code 2 and leaves nothing behind."""
    store = ["--cache-folder", tmp_path / "s", "--cache-limit", "1kB"]
    done = run_here("student-train", "--cache", server.url, *store, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "--cache-limit 1,000 bytes is less than the largest shard" in done.stderr
    assert not (tmp_path / "out").exists()


def test_fault_32_one_folder_for_several_processes(server: Server, cache: Path, tmp_path: Path) -> None:
    """Three processes with one small folder get what was committed, and the copies in it never exceed its limit."""
    folder, limit = tmp_path / "s", 3 * max(record.bytes for record in CacheReader(cache).records)
    found: list[str] = []

    def read(seed: int) -> None:
        done = python("-W", "error", "-c", READ, server.url, cache, folder, limit, seed)
        found.append(done.stdout.strip() or done.stderr)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    sizes = []
    while any(thread.is_alive() for thread in threads):
        sizes.append(taken(folder))
        time.sleep(0.002)
    assert found == ["40"] * 3
    assert 0 < max(sizes) <= limit


def taken(folder: Path) -> int:
    """Bytes that lie in a folder, unfinished copies included; 0 if something vanished while they were counted."""
    try:
        seen = [(path, path.stat()) for path in list(folder.glob("*"))]
        if any(path.stat().st_ino != status.st_ino for path, status in seen):
            return 0
    except FileNotFoundError:
        return 0
    return sum(status.st_size for _, status in seen)


# Commands


def test_commands_take_urls(server: Server, cache: Path, tmp_path: Path) -> None:
    """`inspect` and `verify` say of a URL what they say of the folder."""
    store = StoreConfig(str(tmp_path / "s"))
    assert run_here("inspect", server.url, "--json").stdout == run_here("inspect", cache, "--json").stdout
    shown = run_here("inspect", server.url, "--pair", "9", "--json", "--cache-folder", store.path)
    assert json.loads(shown.stdout) == json.loads(run_here("inspect", cache, "--pair", "9", "--json").stdout)
    assert len(copies(store)) == 1
    done = run_here("verify", server.url)
    assert done.stdout.startswith(f"{server.url}: sound. 8 shards")


def test_the_command_verify_uses_no_copies(cache: Path, tmp_path: Path) -> None:
    """`verify` of a URL finds what is wrong there although a good copy lies where copies go by default."""
    store = StoreConfig(str(tmp_path / "home" / "kdcache"))
    with serve(cache) as server:
        reader = open_cache(server.url, store)
        assert len(list(reader.read(range(8)))) == 8
        before = sorted((path.name, path.read_bytes()) for path in store.path.iterdir())
        server.always["shards/00003.h5"] = "404"
        done = run_here("verify", server.url, XDG_CACHE_HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    assert "shards/00003.h5: missing" in done.stderr
    assert sorted((path.name, path.read_bytes()) for path in store.path.iterdir()) == before
