"""The page of `kdcache inspect --html`: one sound file, whatever the texts hold, and the same for the same cache."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import caches
import numpy as np
import pytest
from caches import make_arrays, make_plan, write_cache
from conftest import run_here
from pages import FACTS, HOSTILE, check_sound, data_of, page_of

from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.errors import CorruptError, OutputError, UsageError
from kdcache.inspection.inspect_page import SAMPLED_PAIRS, WORST_PAIRS, Findings, read_findings, render, write_page
from kdcache.text.tokenizer import Tokenizer


def hostile_tokenizer() -> Tokenizer:
    """The tests' tokenizer, some of whose pieces are what an enemy would write."""
    definition = copy.deepcopy(caches.tokenizer().definition)
    vocabulary = definition["model"]["vocab"]
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    for index, text in enumerate(HOSTILE):
        vocabulary[text] = vocabulary.pop(names[20 + index])
        vocabulary["##" + text] = vocabulary.pop(names[40 + index])
    return Tokenizer(definition, caches.tokenizer().names)


def test_the_page_is_one_sound_file(shown_cache: Path) -> None:
    """The page parses with every element closed, loads nothing, and allows only its own style and script to act."""
    page = check_sound(page_of(CacheReader(shown_cache)))
    assert len(page.all("svg")) == 6
    assert page.texts["h1"] == ["What the teacher knows"]
    assert "20 <b>" in page.texts["dd"]


def test_hostile_pieces_stay_text(tmp_path: Path) -> None:
    """Markup, quotes, the end of a script, line separators and control characters in pieces are shown, not obeyed."""
    plan, tokenizer = make_plan(60, 25), hostile_tokenizer()
    assert write_cache(tmp_path / "cache", plan)
    text = page_of(CacheReader(tmp_path / "cache"), tokenizer)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe]", text)
    page = check_sound(text)
    assert {tag for tag, _ in page.elements} <= {
        *("html", "head", "meta", "title", "style", "body", "main", "header", "section", "h1", "h2", "h3", "p", "dl"),
        *("div", "dt", "dd", "figure", "figcaption", "details", "summary", "table", "thead", "tbody", "tr", "th", "td"),
        *("svg", "line", "text", "polyline", "polygon", "circle", "rect", "article", "span", "bdi", "button", "label"),
        *("input", "select", "option", "output", "script"),
    }
    shown = "".join(page.texts["button"] + page.texts["bdi"])
    pieces = [piece for piece, _ in data_of(page)["pieces"]]
    for hostile in HOSTILE[:6]:
        assert hostile in shown
        assert hostile in pieces


def test_the_command_names_what_it_shows(small_cache: Path, small_teacher: Path, tmp_path: Path) -> None:
    """The page of `inspect --html` names cache, teacher and text, as far as the cache's record says; no folders."""
    assert run_here("inspect", small_cache, "--html", tmp_path / "page.html", "-q").returncode == 0
    found = check_sound((tmp_path / "page.html").read_text(encoding="utf-8"))
    named = dict(zip(found.texts["dt"], found.texts["dd"], strict=True))
    assert (named["name of the cache"], named["name of the teacher"]) == ("cache", "teacher")
    assert named["text"] == "train.src + train.tgt"


def test_equal_caches_give_equal_bytes(shown_cache: Path, tmp_path: Path) -> None:
    """A copy of a cache at another place gives the same page, byte for byte, and names neither place."""
    assert write_cache(tmp_path / "copy", make_plan(200, 30))
    for folder, name in ((shown_cache, "one.html"), (tmp_path / "copy", "two.html")):
        write_page(CacheReader(folder), FACTS, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one.html").read_text()


@pytest.mark.parametrize("topk", [1, 40])
def test_a_cache_of_one_pair(tmp_path: Path, topk: int) -> None:
    """One pair is enough for a page, with one word a position and with forty."""
    plan = make_plan(1, 8, topk)
    assert write_cache(tmp_path / "cache", plan)
    found = read_findings(CacheReader(tmp_path / "cache"))
    assert [len(one) for one in (found.by_mean, found.by_word, found.sample)] == [1, 1, 1]
    page = check_sound(render(found, caches.tokenizer(), FACTS))
    assert len(page.all("article")) == 3
    assert all(len(place[3]) // 2 == min(topk, 16) for place in data_of(page)["pairs"][0])


def test_a_cache_without_usable_pairs(tmp_path: Path) -> None:
    """Where every pair was skipped the page says so instead of dividing by nothing."""
    plan = make_plan(4, 2)
    writer = CacheWriter(tmp_path / "cache", plan, caches.tokenizer())
    for index in range(2):
        arrays = make_arrays(plan, index)
        pairs = arrays.pairs.without(np.ones(2, np.bool_))
        none = np.array([], np.int64)
        writer.commit(index, ShardArrays(pairs, arrays.soft.take(none), arrays.target_log_prob[none]))
    assert writer.finalize()
    page = check_sound(page_of(CacheReader(tmp_path / "cache")))
    assert any("Every pair of this cache was skipped" in text for text in page.texts["p"])
    assert page.all("svg") == []


def test_only_its_own_pages_are_replaced(shown_cache: Path, tmp_path: Path) -> None:
    """A page is written anew over a page of kdcache, and over nothing else; nothing is left half-written."""
    page = tmp_path / "cache.html"
    write_page(CacheReader(shown_cache), FACTS, page)
    before = page.read_bytes()
    write_page(CacheReader(shown_cache), [("pairs", "other")], page)
    assert page.read_bytes() != before
    mine = tmp_path / "mine.html"
    mine.write_text("<!DOCTYPE html><title>mine</title>")
    with pytest.raises(OutputError, match="exists, and is no page that kdcache drew"):
        write_page(CacheReader(shown_cache), FACTS, mine)
    with pytest.raises(OutputError, match="its folder does not exist"):
        write_page(CacheReader(shown_cache), FACTS, tmp_path / "none" / "a.html")
    with pytest.raises(UsageError, match=r"its name must end in \.html"):
        write_page(CacheReader(shown_cache), FACTS, tmp_path / "a.htm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.html", "mine.html"]


@pytest.mark.complete_cache
def test_a_damaged_shard_gives_no_page(cache: Path, tmp_path: Path) -> None:
    """A flipped byte in the last shard ends in an error, and no page appears."""
    caches.flip_bit(cache / "shards" / "00002.h5")
    with pytest.raises(CorruptError):
        write_page(CacheReader(cache), FACTS, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_the_command_writes_the_page_and_prints_the_facts(shown_cache: Path, tmp_path: Path) -> None:
    """`inspect --html` prints what `inspect` prints, and its page shows the same facts."""
    plain = run_here("inspect", shown_cache)
    done = run_here("inspect", shown_cache, "--html", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    page = check_sound((tmp_path / "a.html").read_text())
    verdict, facts = plain.stdout.split("\n\n")
    assert " ".join(verdict.split()) in " ".join(page.texts["p"])
    for line in facts.splitlines():
        name, value = re.split(r"  +", line, maxsplit=1)
        assert name in page.texts["dt"]
        assert value in page.texts["dd"]
    both = run_here("inspect", shown_cache, "--pair", 1, "--html", tmp_path / "b.html")
    assert both.returncode == 2
    assert "Give either --pair N or --html FILE, not both." in both.stderr


def test_findings_hold_no_shard(shown_cache: Path) -> None:
    """Whatever the size of the cache, at most 160 pairs are kept."""
    found: Findings = read_findings(CacheReader(shown_cache))
    assert [len(one) for one in (found.by_mean, found.by_word, found.sample)] == [
        WORST_PAIRS,
        WORST_PAIRS,
        SAMPLED_PAIRS,
    ]
