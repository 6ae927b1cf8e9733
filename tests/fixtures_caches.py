"""Caches that several tests share: a reference for injected faults, and one for pages to show."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the cache of PLAN, written without any fault."""
    from caches import contents, write_cache
    from faults import PLAN

    folder = tmp_path_factory.mktemp("reference") / "cache"
    assert write_cache(folder, PLAN)
    return contents(folder)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """A folder that does not exist yet."""
    return tmp_path / "cache"


@pytest.fixture(scope="session")
def shown_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pairs in 7 shards, a fifth of them skipped."""
    from caches import make_plan, write_cache

    folder = tmp_path_factory.mktemp("shown") / "cache"
    assert write_cache(folder, make_plan(200, 30))
    return folder
