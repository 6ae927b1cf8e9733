"""Caches at a URL: what arrives is what was committed, whatever server, network and local copies do."""

from __future__ import annotations

import dataclasses
import json
import logging
import pickle
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import caches
import pytest
import streams
from caches import make_plan, write_cache
from faults import python, within
from remote import Server, serve

from kdcache.cache import fetch
from kdcache.cache.ahead import THREAD_NAME
from kdcache.cache.audit import strangers, summarize, verify_shard, view_pair
from kdcache.cache.config import StoreConfig
from kdcache.cache.fetch import ATTEMPTS, Fetcher
from kdcache.cache.reader import CacheReader, open_cache, open_source
from kdcache.errors import CacheError, CorruptError, UsageError

SHARDS = [f"shards/0000{number}.h5" for number in range(3)]
SMALL = ["plan.json", "manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts follow each other at once."""
    monkeypatch.setattr(fetch, "FIRST_WAIT_SECONDS", 0.001)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A complete cache of 20 pairs in 3 shards."""
    assert write_cache(tmp_path / "cache", make_plan())
    return tmp_path / "cache"


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    """A server of that cache."""
    with serve(cache) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> StoreConfig:
    """A store of its own."""
    return StoreConfig(str(tmp_path / "store"))


def fetchers() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]


def same(reader: CacheReader, local: Path) -> bool:
    """Whether every shard, in an order of its own, and the tokenizer are those of the cache in `local`."""
    other = CacheReader(local)
    order = [2, 0, 1]
    found = list(reader.read(order))
    return reader.manifest == other.manifest and all(
        caches.equal(one, other.shard(index)) for index, one in zip(order, found, strict=True)
    )


def copies(store: StoreConfig) -> list[Path]:
    return sorted(store.path.iterdir())


# Undisturbed


def test_a_remote_cache_reads_as_the_local_one(server: Server, cache: Path, store: StoreConfig) -> None:
    """All that is read from a URL equals what is read from the folder, and each shard is fetched once."""
    reader = open_cache(server.url, store)
    assert same(reader, cache)
    assert reader.tokenizer().fingerprint == CacheReader(cache).tokenizer().fingerprint
    assert view_pair(reader, 17) == view_pair(CacheReader(cache), 17)
    assert summarize(CacheReader(open_source(server.url))) == summarize(CacheReader(cache))
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


def test_verify_looks_at_what_is_there(server: Server, cache: Path, store: StoreConfig) -> None:
    """Verification finds what is wrong at the URL although a good copy is at hand, and lists nothing it cannot see."""
    assert same(open_cache(server.url, store), cache)
    reader = open_cache(server.url)
    assert strangers(reader) == []
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


# Row 32


@pytest.mark.parametrize("fault", ["truncated", "short", "empty", "flipped", "longer", "reset", "503", "429"])
def test_fault_32_disturbed_downloads(
    server: Server, cache: Path, store: StoreConfig, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A shard whose downloads fail four times, in whatever way, is fetched a fifth time and equals the local one."""
    server.faults[SHARDS[1]] = [fault] * (ATTEMPTS - 1)
    assert same(open_cache(server.url, store), cache)
    assert [server.requests[name] for name in SHARDS] == [1, ATTEMPTS, 1]
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"{server.url}/{SHARDS[1]}: attempt {n} of {ATTEMPTS} failed: " in line for n, line in enumerate(said, 1)]
    assert len(said) == ATTEMPTS - 1


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("fault", ["truncated", "short", "empty", "reset", "500"])
def test_fault_32_disturbed_small_files(server: Server, cache: Path, name: str, fault: str) -> None:
    """Plan, manifest and tokenizer are fetched again too."""
    server.faults[name] = [fault, fault]
    reader = open_cache(server.url)
    assert reader.manifest == CacheReader(cache).manifest
    assert reader.tokenizer().size == CacheReader(cache).tokenizer().size
    assert server.requests[name] == 3


def test_fault_32_changed_manifest(server: Server, cache: Path) -> None:
    """A manifest that changed on its way, and is JSON all the same, is fetched again; so it is not believed."""
    good = (cache / "manifest.json").read_bytes()
    root = CacheReader(cache).manifest.root.encode()
    bad = good.replace(root, root[::-1])
    asked = []

    def change(name: str) -> None:
        if name == "manifest.json":
            asked.append(name)
            (cache / name).write_bytes(bad if len(asked) < 3 else good)

    server.before = change
    assert open_cache(server.url).manifest.root.encode() == root
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("fault", "kind", "cause"),
    [
        ("truncated", CacheError, "Payload"),
        ("short", CorruptError, "its record commits"),
        ("flipped", CorruptError, "its SHA-256 is not the committed one"),
        ("longer", CacheError, "more than the [0-9,]+ bytes that may be there"),
        ("503", CacheError, "HTTP status 503"),
    ],
)
def test_fault_32_download_that_never_works(
    server: Server, store: StoreConfig, fault: str, kind: type[CacheError], cause: str
) -> None:
    """After five attempts an error names URL, cause and remedy; nothing was kept, and no thread is left."""
    reader = open_cache(server.url, store)
    server.always[SHARDS[1]] = fault
    name = rf"{server.url}/shards/00001\.h5: not fetched in {ATTEMPTS} attempts; the last one: .*{cause}.* Check the"
    with pytest.raises(kind, match=name) as caught:
        list(reader.read([0, 1, 2]))
    assert type(caught.value) is kind
    assert server.requests[SHARDS[1]] == ATTEMPTS
    assert reader.records[1].sha256 not in [path.name for path in copies(store)]
    assert fetchers() == []


@pytest.mark.parametrize(
    ("fault", "message"), [("404", "missing"), ("403", "access is refused"), ("400", "HTTP status 400")]
)
def test_fault_32_what_waiting_does_not_mend(server: Server, fault: str, message: str) -> None:
    """What is missing or forbidden is an error at once."""
    reader = open_cache(server.url)
    server.always[SHARDS[1]] = fault
    with pytest.raises(CacheError, match=rf"00001\.h5: .*{message}"):
        reader.shard(1)
    assert server.requests[SHARDS[1]] == 1


def test_fault_32_no_cache_there(server: Server, cache: Path) -> None:
    """A URL without a plan is no cache, one without a manifest is an incomplete one, and no server is an error."""
    with pytest.raises(CorruptError, match=r"elsewhere/plan\.json: there is none, so .*elsewhere is not a cache"):
        open_cache(f"{server.url}/elsewhere")
    (cache / "manifest.json").unlink()
    with pytest.raises(CorruptError, match="missing: the cache is incomplete"):
        open_cache(server.url)
    server.shutdown()
    server.server_close()
    with pytest.raises(CacheError, match=r"plan\.json: not fetched in 5 attempts; the last one: Client"):
        open_cache(server.url)


def test_fault_32_waits_double(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the five attempts lie 0.5, 1, 2 and 4 seconds."""
    monkeypatch.undo()
    server.always["plan.json"] = "503"
    waits: list[float] = []
    with pytest.raises(CacheError):
        Fetcher(server.url).fetch("plan.json", 100, bytes, waits.append)
    assert waits == [0.5, 1, 2, 4]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 4
    path.write_bytes(data)


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def swap(path: Path) -> None:
    """The content of another shard, which is a good one, under this name."""
    other = next(one for one in path.parent.iterdir() if one.name != path.name)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [truncate, flip, link, swap])
def test_fault_32_damaged_copies(
    server: Server, cache: Path, store: StoreConfig, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A local copy that is not what its name says is removed, with a warning, and fetched again."""
    assert same(open_cache(server.url, store), cache)
    reader = open_cache(server.url, store)
    copy = store.path / reader.records[1].sha256
    damage(copy)
    assert same(reader, cache)
    assert [server.requests[name] for name in SHARDS] == [1, 2, 1]
    (said,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert str(copy) in said
    assert "The local copy is removed and fetched again." in said
    assert not copy.is_symlink()
    assert copy.read_bytes() == (cache / SHARDS[1]).read_bytes()


def test_fault_32_copies_that_vanish(server: Server, cache: Path, store: StoreConfig) -> None:
    """A copy that somebody removed is fetched again."""
    reader = open_cache(server.url, store)
    assert same(reader, cache)
    for path in copies(store):
        path.unlink()
    assert same(reader, cache)
    assert [server.requests[name] for name in SHARDS] == [2, 2, 2]


def test_fault_32_leaving_while_a_server_is_silent(server: Server, store: StoreConfig) -> None:
    """Whoever gives up waiting is let go at once, also by a server that stopped in the middle of a shard."""

    class EnoughError(Exception):
        pass

    def give_up() -> None:
        raise EnoughError

    reader = open_cache(server.url, store)
    server.always[SHARDS[1]] = "silent"
    shards = reader.read([0, 1, 2], give_up)
    with within(10), pytest.raises(EnoughError):
        list(shards)
    server.released.set()


def test_fault_32_silence_ends(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that stops in the middle of a shard is left after a while and asked again."""
    monkeypatch.setattr(fetch, "SILENCE_SECONDS", 0.2)
    reader = open_cache(server.url)
    server.faults[SHARDS[1]] = ["silent"]
    with within(30):
        assert same(reader, cache)
    assert server.requests[SHARDS[1]] == 2


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
    texts = [reader.source.place, reader.source.place_of(reader.records[0])]
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
    assert len(texts) > 20
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
    from kdcache.vocabulary import from_corpus

    reader = open_cache(server.url)
    from_corpus(["other text"] * 3, size=60).save(cache / "tokenizer", max_length=64, segments=True)
    with pytest.raises(CorruptError, match=r"/cache/tokenizer: not the tokenizer that plan\.json names"):
        reader.tokenizer()


def test_size_is_that_of_the_records_as_written(cache: Path) -> None:
    """The records' sizes that are computed for a URL are those that lie in the folder."""
    from kdcache.records import readable_json

    for record in CacheReader(cache).records:
        written = cache / "shards" / f"0000{record.index}.json"
        assert written.read_bytes() == readable_json(dataclasses.asdict(record))
