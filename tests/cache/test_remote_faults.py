"""Caches at a URL whose server, network or local copies misbehave: fetched again, or an error that says why."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from caches import flip_bit
from faults import within
from remote import SHARDS, Server, copies, fetchers, same

from kdcache.cache import remote as remote_files
from kdcache.cache.reader import CacheReader, open_cache
from kdcache.cache.remote import ATTEMPTS, RemoteFiles
from kdcache.errors import CacheError, CorruptError
from kdcache.files.locations import StoreConfig

pytestmark = [pytest.mark.usefixtures("impatient"), pytest.mark.complete_cache]


SMALL = ["plan.json", "manifest.json", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"]


@pytest.mark.parametrize("fault", ["truncated", "short", "empty", "flipped", "longer", "reset", "503", "429"])
def test_fault_32_disturbed_downloads(
    server: Server, cache: Path, store: StoreConfig, fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A shard whose downloads fail twice, in whatever way, is fetched a third time and equals the local one."""
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
    """After three attempts an error names URL, cause and remedy; nothing was kept, and no thread is left."""
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
    with pytest.raises(CacheError, match=r"plan\.json: not fetched in 3 attempts; the last one: Client"):
        open_cache(server.url)


def test_fault_32_waits_double(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the three attempts lie 0.5 seconds and one."""
    monkeypatch.undo()
    server.always["plan.json"] = "503"
    waits: list[float] = []
    with pytest.raises(CacheError):
        RemoteFiles(server.url).fetch("plan.json", 100, bytes, waits.append)
    assert waits == [0.5, 1]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to(path.with_name("elsewhere"))


def swap(path: Path) -> None:
    """The content of another shard, which is a good one, under this name."""
    other = next(one for one in path.parent.iterdir() if one.name != path.name)
    path.write_bytes(other.read_bytes())


@pytest.mark.parametrize("damage", [truncate, flip_bit, link, swap])
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
    monkeypatch.setattr(remote_files, "SILENCE_SECONDS", 0.2)
    reader = open_cache(server.url)
    server.faults[SHARDS[1]] = ["silent"]
    with within(30):
        assert same(reader, cache)
    assert server.requests[SHARDS[1]] == 2
