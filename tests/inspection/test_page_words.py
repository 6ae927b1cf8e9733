"""What the page of `kdcache inspect --html` says: its numbers, its words, and the marks on them."""

from __future__ import annotations

import dataclasses
import math
import re
from pathlib import Path

import caches
import numpy as np
import pytest
from caches import make_arrays, make_plan
from pages import check_sound, data_of, page_of

from kdcache.cache.reader import CacheReader
from kdcache.inspection.cache_summary import view_pair
from kdcache.inspection.inspect_page import SAMPLED_PAIRS, WORST_PAIRS, read_findings
from kdcache.inspection.page_wording import Pieces
from kdcache.inspection.picked_pairs import PickedPair
from kdcache.inspection.sentences import Sentences
from kdcache.labels.soft_labels import SoftLabels
from kdcache.pictures.html_page import embedded_json
from kdcache.text.vocabulary import from_corpus


def test_numbers_on_the_page_are_those_of_the_records(shown_cache: Path) -> None:
    """Mass, shares and perplexity at the top are those that the records of the shards add up to."""
    reader = CacheReader(shown_cache)
    known = read_findings(reader).statistics
    sums = [record.sums for record in reader.records]
    assert known.n_targets == reader.n_targets
    assert known.mass[-1] * known.n_targets == pytest.approx(sum(one.mass for one in sums))
    assert known.surprise * known.n_targets == pytest.approx(sum(one.surprise for one in sums))
    assert known.ranks[0] == sum(one.best for one in sums)
    assert known.ranks[:-1].sum() == sum(one.known for one in sums)
    values = check_sound(page_of(reader)).texts["dd"]
    assert values[:2] == [f"{known.n_targets:,}", f"{100 * known.mass[-1]:.1f} %"]
    assert f"{math.exp(known.surprise):.2f}" in values


def test_what_the_script_shows_is_what_inspect_pair_prints(shown_cache: Path) -> None:
    """Behind each word of the page lie the written word, its probability and the distribution of that very place."""
    reader = CacheReader(shown_cache)
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


def test_words_are_marked_by_their_probability(shown_cache: Path) -> None:
    """Each button has the mark of its own word's probability, and one button a sentence takes the tab key."""
    page = check_sound(page_of(CacheReader(shown_cache)))
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
def test_every_mark_has_a_colour(shown_cache: Path, group: int) -> None:
    """Words of each group have a background of their own that the reset of buttons, which is more exact, keeps."""
    style = "".join(check_sound(page_of(CacheReader(shown_cache))).texts["style"])
    rule = re.search(rf"\.word button\.s{group} {{ background: var\(--m{group}\)", style)
    assert rule is not None
    assert rule.start() > style.index("all: unset")


def test_the_worst_pairs_come_first(shown_cache: Path) -> None:
    """The first list falls by the mean surprise, which each pair states beside its line."""
    page = check_sound(page_of(CacheReader(shown_cache)))
    means = [float(one["data-mean"] or "nan") for one in page.all("article")][:WORST_PAIRS]
    assert means == sorted(means, reverse=True)
    assert means[0] > means[-1]


def test_words_of_probability_0_are_shown() -> None:
    """A written word that the teacher rules out is infinitely surprising; what only fills up a row is not listed."""
    plan = make_plan(1, 1)
    arrays = make_arrays(plan, 0)
    n = arrays.pairs.n_targets
    values = arrays.soft.log_probs.copy()
    values[:, 2:] = -np.inf
    pair = PickedPair(
        0,
        arrays.pairs.source_ids,
        arrays.pairs.target_ids,
        SoftLabels(arrays.soft.token_ids, values),
        np.full(n, np.inf),
    )
    sentences = Sentences(caches.tokenizer())
    written = sentences.article(pair)
    assert written["mean"] == "∞"
    assert "inf" not in f"{written}"
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
