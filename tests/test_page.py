"""The page of `kdcache inspect --html`: one sound file, whatever the texts hold, and the same for the same cache."""

from __future__ import annotations

import base64
import copy
import dataclasses
import hashlib
import html.parser
import json
import math
import re
from pathlib import Path

import caches
import numpy as np
import pytest
from caches import make_arrays, make_plan, write_cache
from conftest import run_cli

from kdcache.cache.audit import view_pair
from kdcache.cache.picks import PickedPair
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.cache.writer import CacheWriter
from kdcache.errors import CorruptError, OutputError, UsageError
from kdcache.page.markup import embedded_json, escape
from kdcache.page.page import SAMPLED_PAIRS, WORST_PAIRS, Findings, find, render, write_page
from kdcache.page.pieces import Pieces
from kdcache.page.sentences import Sentences
from kdcache.page.svg import whole_ticks
from kdcache.softlabels import TopK
from kdcache.tokens import Tokenizer
from kdcache.vocabulary import from_corpus

FACTS = [("pairs", "20 <b>"), ("teacher", "abc")]
VOID = {"meta", "input", "br", "link", "img"}
HOSTILE = (
    "</script><script>alert(1)</script>",
    '"><img src=https://example.org/x onerror=alert(1)>',
    "<!--",
    "]]>&lt;\u2028\u2029",
    "a'b\"c&amp;",
    "\u202eright\u202c",
    "\x01\x9f\ufffe",
    "javascript:alert(1)",
)


class Page(html.parser.HTMLParser):
    """Reads a page as strictly as it was written: every element is closed where it has to be."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), (tag, names)
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open
        assert self.open.pop() == tag

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.texts.setdefault(self.open[-1], []).append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page: Page) -> dict[str, list[list[object]]]:
    return json.loads(next(text for text in page.texts["script"] if text.startswith("{")))


def check_sound(text: str) -> Page:
    """What holds for every page: well-formed, nothing loaded, no code but its own."""
    page = Page(text)
    loading = {"src", "href", "action", "srcset", "data", "style", "poster", "background", "xlink:href"}
    for tag, attributes in page.elements:
        assert not loading & attributes.keys(), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes), (tag, attributes)
    (policy,) = [one["content"] for one in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policy is not None
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    for name in ("style", "script"):
        (code,) = [one for one in page.texts[name] if not one.startswith("{")]
        digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
        assert f"{name}-src 'sha256-{digest}'" in policy
        assert not re.search(r"https?:|url\(|@import|innerHTML|eval\(", code)
    assert [one.get("type") for one in page.all("script")] == ["application/json", None]
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


def page_of(reader: CacheReader, tokenizer: Tokenizer | None = None) -> str:
    return render(find(reader), Sentences(tokenizer or reader.tokenizer()), FACTS)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pairs in 7 shards, a fifth of them skipped."""
    folder = tmp_path_factory.mktemp("page") / "cache"
    assert write_cache(folder, make_plan(200, 30))
    return folder


def hostile_tokenizer() -> Tokenizer:
    """The tests' tokenizer, some of whose pieces are what an enemy would write."""
    definition = copy.deepcopy(caches.tokenizer().definition)
    vocabulary = definition["model"]["vocab"]
    names = sorted(vocabulary, key=lambda name: vocabulary[name])
    for index, text in enumerate(HOSTILE):
        vocabulary[text] = vocabulary.pop(names[20 + index])
        vocabulary["##" + text] = vocabulary.pop(names[40 + index])
    return Tokenizer(definition, caches.tokenizer().names)


def test_the_page_is_one_sound_file(cache: Path) -> None:
    """The page parses with every element closed, loads nothing, and allows only its own style and script to act."""
    page = check_sound(page_of(CacheReader(cache)))
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


@pytest.mark.parametrize("text", [*HOSTILE, "a&b<c>\u2028\u0000\ud800"])
def test_embedded_json_cannot_leave_its_element(text: str) -> None:
    """JSON comes back as it was, is ASCII, and holds no character that HTML would read."""
    written = embedded_json([text])
    assert json.loads(written) == [text]
    assert written.isascii()
    assert not set("<>&\u2028") & set(written)
    assert not set("<>\"'\x00\ud800") & set(escape(text))


def test_equal_caches_give_equal_bytes(cache: Path, tmp_path: Path) -> None:
    """A copy of a cache at another place gives the same page, byte for byte, and names neither place."""
    assert write_cache(tmp_path / "copy", make_plan(200, 30))
    for folder, name in ((cache, "one.html"), (tmp_path / "copy", "two.html")):
        write_page(CacheReader(folder), FACTS, tmp_path / name)
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()
    assert str(tmp_path) not in (tmp_path / "one.html").read_text()


def test_numbers_on_the_page_are_those_of_the_records(cache: Path) -> None:
    """Mass, shares and perplexity at the top are those that the records of the shards add up to."""
    reader = CacheReader(cache)
    known = find(reader).knowledge
    sums = [record.sums for record in reader.records]
    assert known.n_targets == reader.n_targets
    assert known.mass.mean[-1] * known.n_targets == pytest.approx(sum(one.mass for one in sums))
    assert known.surprise * known.n_targets == pytest.approx(sum(one.surprise for one in sums))
    assert known.ranks[0] == sum(one.best for one in sums)
    assert known.ranks[:-1].sum() == sum(one.known for one in sums)
    values = check_sound(page_of(reader)).texts["dd"]
    assert values[:2] == [f"{known.n_targets:,}", f"{100 * known.mass.mean[-1]:.1f} %"]
    assert f"{math.exp(known.surprise):.2f}" in values


def test_what_the_script_shows_is_what_inspect_pair_prints(cache: Path) -> None:
    """Behind each word of the page lie the written word, its probability and the distribution of that very place."""
    reader = CacheReader(cache)
    page = check_sound(page_of(reader))
    data = data_of(page)
    articles = [int(one["data-line"] or 0) for one in page.all("article")]
    targets = [int(one["data-pair"] or 0) for one in page.all("p") if "data-pair" in one]
    assert len(articles) == len(targets) == 2 * WORST_PAIRS + SAMPLED_PAIRS
    for line, number in zip(articles, targets, strict=True):
        words = view_pair(reader, line - 1).words
        assert len(words) == len(data["pairs"][number])
        for (written, log_prob, best), place in zip(words, data["pairs"][number], strict=True):
            piece, p, surprise, listed = place
            assert shown_name(data, piece) == written
            assert (p, surprise) == (pytest.approx(math.exp(log_prob), rel=6e-3), pytest.approx(-log_prob, abs=1e-3))
            assert [shown_name(data, one) for one in listed[::2]] == [name for name, _ in best]
            assert listed[1::2] == pytest.approx([math.exp(value) for _, value in best], rel=6e-3)


def shown_name(data: dict[str, list[list[object]]], number: int) -> str:
    text, kind = data["pieces"][number]
    return f"##{text}" if kind == 1 else str(text)


def test_words_are_marked_by_their_probability(cache: Path) -> None:
    """Each button has the mark of its own word's probability, and one button a sentence takes the tab key."""
    page = check_sound(page_of(CacheReader(cache)))
    data = data_of(page)
    buttons = iter(page.all("button"))
    for attributes in page.all("p"):
        if "data-pair" not in attributes:
            continue
        for i, (_, p, _, _) in enumerate(data["pairs"][int(attributes["data-pair"] or 0)]):
            button = next(buttons)
            kinds = str(button["class"]).split()
            near = any(abs(p - limit) < 1e-2 * limit for limit in (0.5, 0.1, 0.01, 0.001))
            assert near or kinds[0] == f"s{sum(p < limit for limit in (0.5, 0.1, 0.01, 0.001))}"
            assert button["tabindex"] == ("0" if i == 0 else "-1")
    assert next(buttons, None) is None


@pytest.mark.parametrize("group", range(1, 5))
def test_every_mark_has_a_colour(cache: Path, group: int) -> None:
    """Words of each group have a background of their own that the reset of buttons, which is more exact, keeps."""
    style = "".join(check_sound(page_of(CacheReader(cache))).texts["style"])
    rule = re.search(rf"\.word button\.s{group} {{ background: var\(--m{group}\)", style)
    assert rule is not None
    assert rule.start() > style.index("all: unset")


def test_the_worst_pairs_come_first(cache: Path) -> None:
    """The first list falls by the mean surprise, which each pair states beside its line."""
    page = check_sound(page_of(CacheReader(cache)))
    means = [float(one["data-mean"] or "nan") for one in page.all("article")][:WORST_PAIRS]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]


@pytest.mark.parametrize("topk", [1, 40])
def test_a_cache_of_one_pair(tmp_path: Path, topk: int) -> None:
    """One pair is enough for a page, with one word a position and with forty."""
    plan = make_plan(1, 8, topk)
    assert write_cache(tmp_path / "cache", plan)
    found = find(CacheReader(tmp_path / "cache"))
    assert [len(one) for one in (found.by_mean, found.by_word, found.sample)] == [1, 1, 1]
    page = check_sound(render(found, Sentences(caches.tokenizer()), FACTS))
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
        writer.commit(index, ShardArrays(pairs, arrays.topk.take(none), arrays.target_log_prob[none]))
    assert writer.finalize()
    page = check_sound(page_of(CacheReader(tmp_path / "cache")))
    assert any("Every pair of this cache was skipped" in text for text in page.texts["p"])
    assert page.all("svg") == []


def test_words_of_probability_0_are_shown() -> None:
    """A written word that the teacher rules out is infinitely surprising; what only fills up a row is not listed."""
    plan = make_plan(1, 1)
    arrays = make_arrays(plan, 0)
    n = arrays.pairs.n_targets
    values = arrays.topk.log_probs.copy()
    values[:, 2:] = -np.inf
    pair = PickedPair(
        0,
        arrays.pairs.source_ids,
        arrays.pairs.target_ids,
        TopK(arrays.topk.token_ids, values),
        np.full(n, np.inf),
    )
    sentences = Sentences(caches.tokenizer())
    written = sentences.article(pair)
    assert "mean −log p ∞" in written
    assert "inf" not in written
    assert [(p, surprise, len(listed)) for _, p, surprise, listed in sentences.data["pairs"][0]] == [(0, None, 4)] * n
    embedded_json(sentences.data)


def test_pieces_are_joined_to_words() -> None:
    """Continuations stand with the word that they go on with, without their mark; special tokens stand alone."""
    tokenizer = from_corpus(["abab cd ab", "abcd x"] * 3, size=60)
    pieces = Pieces(tokenizer)
    ids = [*tokenizer.encode(["abcdab x ##"])[0], tokenizer.special.end]
    words = pieces.words(ids)
    assert [i for word in words for i in word] == list(range(len(ids)))
    assert ["".join(pieces.show(ids[i]).text for i in word) for word in words][:2] == ["abcdab", "x"]
    assert pieces.show(tokenizer.special.end) == dataclasses.replace(
        pieces.show(tokenizer.special.end), special=True, joined=False
    )
    assert pieces.show(10**6).text == "<1000000>"


def test_only_its_own_pages_are_replaced(cache: Path, tmp_path: Path) -> None:
    """A page is written anew over a page of kdcache, and over nothing else; nothing is left half-written."""
    page = tmp_path / "cache.html"
    write_page(CacheReader(cache), FACTS, page)
    before = page.read_bytes()
    write_page(CacheReader(cache), [("pairs", "other")], page)
    assert page.read_bytes() != before
    mine = tmp_path / "mine.html"
    mine.write_text("<!DOCTYPE html><title>mine</title>")
    with pytest.raises(OutputError, match="exists, and is no page that kdcache drew"):
        write_page(CacheReader(cache), FACTS, mine)
    with pytest.raises(OutputError, match="its folder does not exist"):
        write_page(CacheReader(cache), FACTS, tmp_path / "none" / "a.html")
    with pytest.raises(UsageError, match=r"its name must end in \.html"):
        write_page(CacheReader(cache), FACTS, tmp_path / "a.htm")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache.html", "mine.html"]


def test_a_damaged_shard_gives_no_page(tmp_path: Path) -> None:
    """A flipped byte in the last shard ends in an error, and no page appears."""
    assert write_cache(tmp_path / "cache", make_plan())
    shard = tmp_path / "cache" / "shards" / "00002.h5"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    with pytest.raises(CorruptError):
        write_page(CacheReader(tmp_path / "cache"), FACTS, tmp_path / "a.html")
    assert not (tmp_path / "a.html").exists()


def test_the_command_writes_the_page_and_prints_the_facts(cache: Path, tmp_path: Path) -> None:
    """`inspect --html` prints what `inspect` prints, and its page shows the same facts."""
    plain = run_cli("inspect", cache)
    done = run_cli("inspect", cache, "--html", tmp_path / "a.html")
    assert done.returncode == 0, done.stderr
    assert done.stdout == plain.stdout
    page = check_sound((tmp_path / "a.html").read_text())
    for line in plain.stdout.splitlines():
        name, value = re.split(r"  +", line, maxsplit=1)
        assert name in page.texts["dt"]
        assert value in page.texts["dd"]
    both = run_cli("inspect", cache, "--pair", 1, "--html", tmp_path / "b.html")
    assert both.returncode == 2
    assert "Give either --pair N or --html FILE, not both." in both.stderr


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(1, 1, [1]), (1, 8, list(range(1, 9))), (1, 36, [1, 5, 10, 15, 20, 25, 30, 35]), (1, 64, [1, *range(10, 61, 10)])],
)
def test_whole_ticks(low: int, high: int, expected: list[int]) -> None:
    """Axes that count begin at their first number and go on in round ones."""
    assert whole_ticks(low, high) == expected


def test_findings_hold_no_shard(cache: Path) -> None:
    """Whatever the size of the cache, at most 160 pairs are kept."""
    found: Findings = find(CacheReader(cache))
    assert [len(one) for one in (found.by_mean, found.by_word, found.sample)] == [
        WORST_PAIRS,
        WORST_PAIRS,
        SAMPLED_PAIRS,
    ]
