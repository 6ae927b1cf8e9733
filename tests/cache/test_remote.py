"""Caches at a URL: what arrives is what was committed, fetched ahead of use, and secrets stay where they are."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import sys
import threading
from pathlib import Path

import pytest
import streams
from faults import python
from remote import SHARDS, Server, copies, fetchers, same

from kdcache.cache.audit import unexpected_files, verify_shard
from kdcache.cache.reader import CacheReader, open_cache, open_files
from kdcache.errors import CacheError, CorruptError, UsageError
from kdcache.files.locations import StoreConfig
from kdcache.inspection.cache_summary import summarize, view_pair

pytestmark = [pytest.mark.usefixtures("impatient"), pytest.mark.complete_cache]


def test_a_remote_cache_reads_as_the_local_one(server: Server, cache: Path, store: StoreConfig) -> None:
    """All that is read from a URL equals what is read from the folder, and each shard is fetched once."""
    reader = open_cache(server.url, store)
    assert same(reader, cache)
    assert reader.tokenizer().fingerprint == CacheReader(cache).tokenizer().fingerprint
    assert view_pair(reader, 17) == view_pair(CacheReader(cache), 17)
    assert summarize(CacheReader(open_files(server.url))) == summarize(CacheReader(cache))
    assert [server.requests[name] for name in SHARDS] == [1, 1, 1]
    assert [path.name for path in copies(store)] == sorted(record.sha256 for record in reader.records)
    assert fetchers() == []


def test_any_file_system_of_fsspec(cache: Path, store: StoreConfig) -> None:
    """A cache in another of fsspec's file systems is read in the same way."""
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(cache), "/there", recursive=True)
    try:
        assert same(open_cache("memory://there/", store), cache)
        memory.rm("/there/shards/00001.h5")
        with pytest.raises(CorruptError, match=r"memory://there/shards/00001\.h5: missing"):
            open_cache("memory://there").shard(1)
    finally:
        memory.rm("/there", recursive=True)


def test_verify_looks_at_what_is_there(server: Server) -> None:
    """Verification of a URL finds what is wrong there, and lists nothing that it cannot see."""
    reader = open_cache(server.url)
    assert unexpected_files(reader) == []
    assert [verify_shard(reader, index) for index in range(3)] == [[], [], []]
    server.always[SHARDS[1]] = "flipped"
    (problem,) = verify_shard(reader, 1)
    assert "SHA-256 is not the committed one" in problem


def test_a_reader_travels(server: Server, cache: Path, store: StoreConfig) -> None:
    """A pickled reader makes its own connections and reads the same."""
    for reader in (open_cache(server.url, store), open_cache(server.url)):
        assert same(pickle.loads(pickle.dumps(reader)), cache)  # noqa: S301 (ours)


@pytest.mark.parametrize("ways", [["fork 1"], pytest.param([], marks=pytest.mark.full, id="all")])
def test_fault_31_remote_streams(server: Server, cache: Path, store: StoreConfig, ways: list[str]) -> None:
    """Processes of every kind read the same stream from a URL as from the folder, with one store among them."""
    done = python(streams.__file__, server.url, store.path, *ways)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert len(found) == 2 + (len(ways) or len(streams.METHODS) * len(streams.COUNTS))
    assert {one for answers in found.values() for one in answers} == {streams.digest(CacheReader(cache))}


# Ahead of use


def test_shards_are_fetched_ahead(server: Server, cache: Path, store: StoreConfig) -> None:
    """While the first shard is used the others are fetched, without anybody asking for them; then the threads end."""
    arrived = threading.Semaphore(0)
    server.before = lambda name: arrived.release() if name in SHARDS else None
    shards = open_cache(server.url, store).read([0, 1, 2])
    next(shards)
    for _ in SHARDS:
        assert arrived.acquire(timeout=30)
    assert fetchers() != []
    shards.close()
    assert fetchers() == []


# Secrets


SECRET = "s3cr3t"  # noqa: S105


def test_secrets_of_a_url_are_not_shown(server: Server, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A URL's query reaches the server with each file, and neither it nor a password reaches messages or warnings."""
    caplog.set_level(logging.INFO)
    server.sign = f"sig={SECRET}&x=%2F"
    url = f"{server.url.replace('//', f'//me:{SECRET}@')}?{server.sign}"
    reader = open_cache(url)
    assert same(reader, cache)
    texts = [reader.files.place, reader.files.place_of(reader.records[0].path)]
    assert texts[1].endswith("/cache/shards/00000.h5?…")
    for fault in ("truncated", "flipped", "503", "400", "403", "404"):
        server.always[SHARDS[0]] = fault
        with pytest.raises(CacheError) as caught:
            reader.shard(0)
        texts.append(str(caught.value))
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    server.shutdown()
    server.server_close()
    with pytest.raises(CacheError) as caught:
        reader.shard(0)
    texts += [str(caught.value), *(record.getMessage() for record in caplog.records)]
    assert len(texts) > 12
    assert not [text for text in texts if SECRET in text]


# What is not installed


def test_a_local_cache_needs_no_fsspec(cache: Path) -> None:
    """Reading a cache from a folder loads neither fsspec nor a client for the web."""
    code = (
        "import sys; from kdcache.cache.reader import open_cache; open_cache(sys.argv[1]).shard(0); "
        "print(*{'fsspec', 'aiohttp', 'kdcache.cache.remote'} & set(sys.modules))"
    )
    done = python("-c", code, cache)
    assert (done.returncode, done.stdout.strip()) == (0, "")


@pytest.mark.parametrize("package", ["fsspec", "aiohttp"])
def test_without_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the packages that a URL needs the error says how to install them."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UsageError, match=r"https://host/c\?…: .*pip install 'kdcache\[remote\]'"):
        open_cache(f"https://host/c?{SECRET}")


@pytest.mark.parametrize(("url", "message"), [("nonsense://a/b", "nonsense"), ("file:///tmp/c", "its plain path")])
def test_urls_that_nothing_can_open(url: str, message: str) -> None:
    """A URL of an unknown kind is refused, and so is one of this machine's own files."""
    with pytest.raises(UsageError, match=message):
        open_cache(url)


def test_a_tokenizer_of_another_cache(server: Server, cache: Path) -> None:
    """A tokenizer that is not the plan's is refused although it is a good one."""
    from kdcache.text.vocabulary import from_corpus

    reader = open_cache(server.url)
    from_corpus(["other text"] * 3, size=60).save(cache / "tokenizer", max_length=64, segments=True)
    with pytest.raises(CorruptError, match=r"/cache/tokenizer: not the tokenizer that plan\.json names"):
        reader.tokenizer()


def test_size_is_that_of_the_records_as_written(cache: Path) -> None:
    """The records' sizes that are computed for a URL are those that lie in the folder."""
    from kdcache.files.strict_json import readable_json

    for record in CacheReader(cache).records:
        written = cache / "shards" / f"0000{record.index}.json"
        assert written.read_bytes() == readable_json(dataclasses.asdict(record))
