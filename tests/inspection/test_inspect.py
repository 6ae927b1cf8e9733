"""`kdcache inspect` as its user calls it: what it fetches, what room it asks for, and caches that lack parts."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from conftest import run_here
from remote import Server

from kdcache.cache.reader import CacheReader

pytestmark = pytest.mark.complete_cache

ONCE = ("plan.json", "manifest.json")


def shards_of(server: Server) -> dict[str, int]:
    return {name: count for name, count in server.requests.items() if name.endswith(".h5")}


def test_a_cache_is_opened_once(server: Server, cache: Path, tmp_path: Path) -> None:
    """Plan and manifest of a remote cache are fetched once, with a page as without, and only a page takes shards."""
    expected = run_here("inspect", cache, "--html", tmp_path / "local.html")
    store = ("--cache-folder", tmp_path / "store")
    plain = run_here("inspect", server.url, *store)
    assert (plain.returncode, plain.stdout) == (0, expected.stdout), plain.stderr
    assert [server.requests[name] for name in ONCE] == [1, 1]
    assert shards_of(server) == {}
    assert not (tmp_path / "store").exists()
    server.requests.clear()
    page = run_here("inspect", server.url, *store, "--html", tmp_path / "remote.html")
    assert (page.returncode, page.stdout) == (0, expected.stdout), page.stderr
    assert [server.requests[name] for name in ONCE] == [1, 1]
    assert shards_of(server) == {f"shards/0000{index}.h5": 1 for index in range(3)}
    assert (tmp_path / "remote.html").read_bytes() == (tmp_path / "local.html").read_bytes()


def test_fault_33_inspect(server: Server, cache: Path, tmp_path: Path) -> None:
    """With less room than a shard `--html` ends with exit code 2 before it writes; without a page none is needed."""
    largest = max(record.bytes for record in CacheReader(cache).records)
    store = ("--cache-folder", tmp_path / "store", "--cache-limit", f"{largest - 1}")
    done = run_here("inspect", server.url, *store, "--html", tmp_path / "page.html")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"is less than the largest shard of the cache, {largest:,} bytes" in done.stderr
    assert [path for path in tmp_path.rglob("*") if path.is_file() and cache not in path.parents] == []
    assert shards_of(server) == {}
    assert run_here("inspect", server.url, *store).returncode == 0
    exactly = (*store[:-1], f"{largest}")
    assert run_here("inspect", server.url, *exactly, "--html", tmp_path / "page.html").returncode == 0


def test_fault_26_folders_that_are_gone(cache: Path, tmp_path: Path) -> None:
    """A cache that lost its tokenizer or all its shards is described, and `verify` says what is missing."""
    for name, missing in (("tokenizer", "tokenizer"), ("shards", "00002")):
        folder = Path(shutil.copytree(cache, tmp_path / name))
        shutil.rmtree(folder / name)
        assert run_here("inspect", folder).returncode == 0
        done = run_here("verify", folder)
        assert done.returncode == 1
        assert done.stderr.startswith("kdcache: ")
        assert missing in done.stderr
