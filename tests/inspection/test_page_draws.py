"""What is said of a cache of drawn words: nothing that only the best words could tell."""

from __future__ import annotations

import json
from pathlib import Path

import caches
import pytest
from caches import drawn_arrays, drawn_plan
from conftest import run_here
from pages import check_sound

from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.reader import CacheReader
from kdcache.inspection.inspect_page import write_page

DRAWS = 10


@pytest.fixture
def drawn(tmp_path: Path) -> Path:
    plan = drawn_plan(DRAWS, 5)
    writer = CacheWriter(tmp_path / "drawn", plan, caches.tokenizer())
    writer.commit(0, drawn_arrays(plan))
    assert writer.finalize()
    return tmp_path / "drawn"


def test_the_page_of_draws_has_what_draws_tell(drawn: Path, tmp_path: Path) -> None:
    """Of the pictures only that of the written words is there; shares are called shares, and nothing is called mass."""
    write_page(CacheReader(drawn), [], tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    page = check_sound(text)
    assert page.texts["h3"][0] == "How probable the written word is"
    assert len(page.all("svg")) == 1
    assert page.texts["dt"] == ["target positions", "perplexity"]
    assert f"of {DRAWS} draws" in text
    assert f"with their shares of the {DRAWS} draws" in text
    for word in ("mass", "calibration", "entropy", "Entropy", "the teacher says", "first 10 words"):
        assert word not in text


def test_inspect_of_draws_says_no_mass_and_no_rank(drawn: Path) -> None:
    """The summary leaves out mass and rank, in JSON as null; a pair's words are headed as shares of the draws."""
    shown = run_here("inspect", drawn).stdout
    assert "mass" not in shown
    assert "written word is the first" not in shown
    assert "cost of rounding" not in shown
    assert "written word among them" in shown
    found = json.loads(run_here("inspect", drawn, "--json").stdout)
    assert (found["mass"], found["best"]) == (None, None)
    pair = next(row for row in range(5) if CacheReader(drawn).shard(0).pairs.target_lengths[row] > 0)
    assert f"shares of {DRAWS} draws, %" in run_here("inspect", drawn, "--pair", str(pair)).stdout
