"""The folder of local copies of remote shards: bounded, shared, and never in the way."""

from __future__ import annotations

import dataclasses
import json
import os
import threading
import time
from pathlib import Path

import caches
import pytest
from caches import make_plan, write_cache
from conftest import run_cli
from faults import python
from remote import Server, serve

from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.shard_records import ShardRecord
from kdcache.cache.store import Store
from kdcache.errors import OutputError, UsageError
from kdcache.files.atomic import sha256, temporary_name
from kdcache.files.locations import StoreConfig, parse_size
from kdcache.process.prefetch import Ahead


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of 60 pairs in 8 shards."""
    folder = tmp_path_factory.mktemp("store") / "cache"
    assert write_cache(folder, make_plan(n_pairs=60))
    return folder


def record_of(cache: Path, data: bytes) -> ShardRecord:
    return dataclasses.replace(CacheReader(cache).records[0], bytes=len(data), sha256=sha256(data))


class Shelf:
    """A store and its folder, with contents that are easily told apart."""

    def __init__(self, cache: Path, folder: Path, limit: int) -> None:
        self.folder, self.cache = folder, cache
        self.store = Store(StoreConfig(str(folder), limit))

    def put(self, letter: str, size: int = 100) -> bool:
        data = letter.encode() * size
        kept = self.store.put(record_of(self.cache, data), data)
        time.sleep(0.01)
        return kept

    def get(self, letter: str, size: int = 100) -> bytes | None:
        time.sleep(0.01)
        return self.store.get(record_of(self.cache, letter.encode() * size))

    def letters(self) -> str:
        return "".join(sorted(path.read_text()[0] for path in self.folder.iterdir() if len(path.name) == 64))


# Room


def test_the_least_recently_used_makes_way(cache: Path, tmp_path: Path) -> None:
    """With room for three, what was stored or read longest ago is evicted, several at once for a large one."""
    shelf = Shelf(cache, tmp_path / "s", 350)
    assert all(shelf.put(letter) for letter in "abc")
    assert shelf.get("a") == b"a" * 100
    assert shelf.put("d")
    assert shelf.letters() == "acd"
    assert shelf.get("b") is None
    assert shelf.put("e", 250)
    assert shelf.letters() == "de"


def test_only_its_own_files_count(cache: Path, tmp_path: Path) -> None:
    """Files of others in the folder are neither counted nor removed."""
    folder = tmp_path / "s"
    folder.mkdir()
    for name in ("notes.txt", "0" * 63, ".tmp-other~host~1~aa"):
        (folder / name).write_bytes(bytes(1_000))
    shelf = Shelf(cache, folder, 250)
    assert all(shelf.put(letter) for letter in "abc")
    assert shelf.letters() == "bc"
    assert len(list(folder.iterdir())) == 5


def test_what_others_are_writing_counts(cache: Path, tmp_path: Path) -> None:
    """What another process has begun to write takes room; if that leaves too little, nothing is kept or broken."""
    shelf = Shelf(cache, tmp_path / "s", 250)
    assert all(shelf.put(letter) for letter in "ab")
    other = temporary_name(shelf.folder / ("f" * 64))
    other.write_bytes(bytes(100))
    assert shelf.put("c")
    assert shelf.letters() == "c"
    other.write_bytes(bytes(200))
    # What is there would not make room enough, so that it is left: evicting it would help nobody.
    assert not shelf.put("d")
    assert shelf.letters() == "c"
    assert len(list(shelf.folder.iterdir())) == 2
    other.unlink()
    assert shelf.put("d")


def test_abandoned_parts_are_removed(cache: Path, tmp_path: Path) -> None:
    """What a process left half written is removed when the store is opened again."""
    shelf = Shelf(cache, tmp_path / "s", 250)
    left = temporary_name(shelf.folder / ("f" * 64))
    left.write_bytes(bytes(100))
    os.utime(left, (0, 0))
    Shelf(cache, tmp_path / "s", 250)
    assert list(shelf.folder.iterdir()) == []


def test_a_folder_that_cannot_be_made(cache: Path, tmp_path: Path) -> None:
    """A store whose place is taken by a file is an error that names it."""
    (tmp_path / "taken").write_text("")
    with pytest.raises(OutputError, match="taken"):
        Store(StoreConfig(str(tmp_path / "taken")))


def test_the_folder_is_for_its_owner(tmp_path: Path) -> None:
    """A copy is as confidential as the corpus: nobody else may look into a folder that kdcache made."""
    Store(StoreConfig(str(tmp_path / "s")))
    assert (tmp_path / "s").stat().st_mode & 0o777 == 0o700


def test_where_copies_go_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --cache-folder copies go into the user's folder for caches."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/x")
    assert StoreConfig().path == Path("/x/kdcache")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "/home/me")
    assert StoreConfig().path == Path("/home/me/.cache/kdcache")
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


# Row 33


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
    done = run_cli("student-train", "--cache", server.url, *store, "--output", tmp_path / "out")
    assert done.returncode == 2
    assert "--cache-limit 1,000 bytes is less than the largest shard" in done.stderr
    assert not (tmp_path / "out").exists()


READ = """
import sys
import caches
from kdcache.files.locations import StoreConfig
from kdcache.cache.reader import open_cache
from pathlib import Path
from kdcache.cache.reader import CacheReader

url, cache, folder, limit, seed = sys.argv[1:]
reader, local = open_cache(url, StoreConfig(folder, int(limit))), CacheReader(Path(cache))
wanted = [local.shard(index) for index in range(8)]
order = [(int(seed) * 3 + 5 * i) % 8 for i in range(40)]
print(sum(caches.equal(one, wanted[index]) for index, one in zip(order, reader.read(order))))
"""


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
    """Bytes that really lie in a folder, unfinished copies included; 0 if something vanished while they were counted.

    A file that has its length but not yet its content takes no room: what is counted are the blocks.
    """
    try:
        seen = [(path, path.stat()) for path in list(folder.glob("*"))]
        if any(path.stat().st_ino != status.st_ino for path, status in seen):
            return 0
    except FileNotFoundError:
        return 0
    return sum(min(status.st_size, 512 * status.st_blocks) for _, status in seen)


# Ahead


def test_results_come_in_order_and_no_further_ahead() -> None:
    """Results come in the order of the items, although later ones are ready first, from `depth` items at a time."""
    begun: list[int] = []

    def work(item: int, _pause: object) -> int:
        begun.append(item)
        time.sleep(0.05 if item % 4 == 0 else 0)
        return item * item

    with Ahead(work, range(20), 3) as ahead:
        time.sleep(0.3)
        assert sorted(begun) == [0, 1, 2]
        assert [ahead.take(lambda: None) for _ in range(20)] == [item * item for item in range(20)]
    assert sorted(begun) == list(range(20))


def test_errors_come_in_their_place() -> None:
    """What the work raised for an item reaches whoever takes that item, and those before it are not lost."""
    with Ahead(lambda item, _pause: 12 // item, [3, 2, 0, 1], 4) as ahead:
        assert [ahead.take(lambda: None) for _ in range(2)] == [4, 6]
        with pytest.raises(ZeroDivisionError):
            ahead.take(lambda: None)


def test_leaving_wakes_those_that_pause() -> None:
    """Leaving the block ends pauses of any length at once, and all threads."""
    before = threading.active_count()
    start = time.monotonic()
    with Ahead(lambda _item, pause: pause(1_000), range(9), 4):
        assert threading.active_count() == before + 4
    assert threading.active_count() == before
    assert time.monotonic() - start < 10


# Commands


def test_commands_take_urls(server: Server, cache: Path, tmp_path: Path) -> None:
    """`inspect` and `verify` say of a URL what they say of the folder."""
    store = ["--cache-folder", tmp_path / "s"]
    assert run_cli("inspect", server.url, "--json").stdout == run_cli("inspect", cache, "--json").stdout
    shown = run_cli("inspect", server.url, "--pair", "9", "--json", *store)
    assert json.loads(shown.stdout) == json.loads(run_cli("inspect", cache, "--pair", "9", "--json").stdout)
    assert len(list((tmp_path / "s").iterdir())) == 1
    done = run_cli("verify", server.url)
    assert done.stdout.startswith(f"{server.url}: sound. 8 shards")


def test_the_command_verify_uses_no_copies(cache: Path, tmp_path: Path) -> None:
    """`verify` of a URL finds what is wrong there although a good copy lies where copies go by default."""
    store = StoreConfig(str(tmp_path / "home" / "kdcache"))
    with serve(cache) as server:
        reader = open_cache(server.url, store)
        assert len(list(reader.read(range(8)))) == 8
        before = sorted((path.name, path.read_bytes()) for path in store.path.iterdir())
        assert len(before) == 8
        server.always["shards/00003.h5"] = "404"
        done = run_cli("verify", server.url, XDG_CACHE_HOME=str(tmp_path / "home"))
    assert done.returncode == 1
    assert "shards/00003.h5: missing" in done.stderr
    assert sorted((path.name, path.read_bytes()) for path in store.path.iterdir()) == before
