"""What the tests of caches share: folders, one for pages to show, a server of one, a store of local copies."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from remote import Server

    from kdcache.files.locations import StoreConfig


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the cache of PLAN, written without any fault."""
    from caches import contents, write_cache
    from faults import PLAN

    folder = tmp_path_factory.mktemp("reference") / "cache"
    assert write_cache(folder, PLAN)
    return contents(folder)


@pytest.fixture(scope="session")
def cache_of_20_pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete cache of 20 pairs in shards of 8, 8 and 4, which is only copied."""
    from caches import make_plan, write_cache

    folder = tmp_path_factory.mktemp("complete") / "cache"
    assert write_cache(folder, make_plan())
    return folder


@pytest.fixture
def cache(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A folder that does not exist yet; where marked so, a copy of the complete cache of 20 pairs."""
    if request.node.get_closest_marker("complete_cache") is not None:
        shutil.copytree(request.getfixturevalue("cache_of_20_pairs"), tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def shown_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pairs in 7 shards, a fifth of them skipped."""
    from caches import make_plan, write_cache

    folder = tmp_path_factory.mktemp("shown") / "cache"
    assert write_cache(folder, make_plan(200, 30))
    return folder


@pytest.fixture
def server(cache: Path) -> Iterator[Server]:
    """A server of the folder that `cache` is where it is asked for."""
    from remote import serve

    with serve(cache) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> StoreConfig:
    """A store of its own."""
    from kdcache.files.locations import StoreConfig

    return StoreConfig(str(tmp_path / "store"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attempts to fetch a file follow each other at once."""
    from kdcache.cache import remote as remote_files

    monkeypatch.setattr(remote_files, "FIRST_WAIT_SECONDS", 0.001)
