"""The page as a whole: what `kdcache inspect --html` writes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.reader import CacheReader
from kdcache.console.progress import Progress
from kdcache.errors import UsageError
from kdcache.files.atomic import replace_file
from kdcache.inspection.cache_statistics import Collector, Knowledge
from kdcache.inspection.figures import figures
from kdcache.inspection.number_words import percent
from kdcache.inspection.picks import PickedPair, Sample, Worst
from kdcache.inspection.sentences import LISTED, Sentences, article_list, legend
from kdcache.pictures.markup import document, embedded_json, escape, generator, resource, section, tag
from kdcache.pictures.plots import refuse_strangers

WORST_PAIRS = 50
SAMPLED_PAIRS = 60
_FOLDED_AFTER = 10
_COMMAND = "inspect"
_TITLE = "What the teacher knows"


@dataclass(frozen=True, slots=True)
class Findings:
    """All that the page shows of the shards.

    Attributes:
        knowledge: statistics of all target positions.
        by_mean, by_word: pairs at whose words the teacher is most surprised, on average and at worst.
        sample: pairs spread over the cache.
        draws: words drawn at each position in place of the best ones; 0 is the best ones.
        averaged: how many caches this is the average of.
    """

    knowledge: Knowledge
    by_mean: Sequence[PickedPair]
    by_word: Sequence[PickedPair]
    sample: Sequence[PickedPair]
    draws: int
    averaged: int


def write_page(reader: CacheReader, facts: Sequence[tuple[str, str]], output: Path) -> None:
    """Write the page about a cache; `facts` are names and values for its top. Equal caches give equal bytes.

    Raises:
        UsageError: the file's name does not end in .html.
        OutputError: the file is another one's, or cannot be written.
        CorruptError: a shard or the tokenizer is damaged.
        CacheError: it cannot be fetched.
    """
    if output.suffix.lower() != ".html":
        raise UsageError(f"--html {output}: the page is HTML; its name must end in .html.")
    refuse_strangers(output, generator(_COMMAND), "page")
    sentences = Sentences(reader.tokenizer(), reader.plan.draws)
    replace_file(output, render(find(reader), sentences, facts).encode("utf-8"))


def find(reader: CacheReader) -> Findings:
    """Read the shards once, one at a time; nothing of a shard is kept but the pairs that are shown."""
    plan = reader.plan
    collector, worst = Collector(plan.topk), Worst(WORST_PAIRS)
    sizes = (stop - first for first, stop in map(plan.bounds, range(len(reader.records))))
    usable = [size - record.n_skipped for size, record in zip(sizes, reader.records, strict=True)]
    sample = Sample(usable, SAMPLED_PAIRS)
    with Progress("reading", len(reader.records), "shards") as progress:
        for index in range(len(reader.records)):
            arrays, first = reader.shard(index), plan.bounds(index)[0]
            collector.add(arrays)
            worst.add(arrays, first)
            sample.add(arrays, index, first)
            progress.advance(1)
    return Findings(collector.knowledge(), worst.by_mean, worst.by_word, sample.pairs, plan.draws, plan.averaged)


def render(found: Findings, sentences: Sentences, facts: Sequence[tuple[str, str]]) -> str:
    """The page's text."""
    body = _body(found, sentences, facts)
    data = tag("script", {"type": "application/json", "id": "data"}, embedded_json(sentences.data))
    style, script = (resource("kdcache.inspection", name) for name in ("inspect.css", "inspect.js"))
    return document(_TITLE, _COMMAND, style, f"{body}\n{data}", script)


def _body(found: Findings, sentences: Sentences, facts: Sequence[tuple[str, str]]) -> str:
    known = found.knowledge
    top = tag("header", {}, tag("h1", {}, _TITLE) + _tiles(known, found.draws)) + section("The cache", _facts(facts))
    if known.n_targets == 0:
        return tag("main", {}, top + tag("p", {}, "Every pair of this cache was skipped; there is nothing to show."))
    pictures = tag("div", {"class": "figures"}, figures(known, found.draws, found.averaged))
    return tag(
        "main",
        {},
        top
        + section("Pictures", pictures)
        + section("Where teacher and text disagree most", _worst(found, sentences))
        + section("A sample of sentences", _sample(found, sentences)),
    ) + tag("div", {"id": "panel", "role": "tooltip", "hidden": ""})


def _tiles(known: Knowledge, draws: int) -> str:
    n = max(1, known.n_targets)
    perplexity = math.exp(min(known.surprise, 700.0))
    items = [
        (f"{known.n_targets:,}", "target positions"),
        (percent(float(known.mass.mean[-1])), f"mass of the {len(known.ranks) - 1} listed words"),
        (percent(float(known.ranks[0] / n)), "written word is the first"),
        (percent(float(known.ranks[:-1].sum() / n)), "written word is listed"),
        (f"{perplexity:.2f}" if perplexity < 1e6 else f"{perplexity:.1e}", "perplexity"),
        (percent(known.calibration.error), "expected calibration error"),
    ]
    if draws:
        # Draws are all that is stored: they hold no mass, have no order and say little about the best word.
        items = [items[0], items[4]]
    tiles = (tag("div", {}, tag("dd", {}, escape(value)) + tag("dt", {}, escape(name))) for value, name in items)
    return tag("dl", {"class": "tiles"}, "".join(tiles))


def _facts(facts: Sequence[tuple[str, str]]) -> str:
    items = (tag("div", {}, tag("dt", {}, escape(name)) + tag("dd", {}, escape(value))) for name, value in facts)
    return tag("dl", {"class": "facts-list"}, "".join(items))


def _worst(found: Findings, sentences: Sentences) -> str:
    intro = (
        "Pairs whose words surprise the teacher most, often because source and target do not belong together, the "
        "language is another, or a word is misspelt. Lines count from 1, as in the corpus. A surprise is −log p of the "
        "written word, in nats. Point at a word, or tap it, to see what the teacher expected there; with the keyboard, "
        "the tab key goes from sentence to sentence and the arrows from word to word."
    )
    parts = [tag("p", {}, intro), legend()]
    for title, pairs in (("By the mean over the sentence", found.by_mean), ("By the single word", found.by_word)):
        lines = " ".join(str(pair.index + 1) for pair in pairs)
        listed = tag("details", {}, tag("summary", {}, "Line numbers only") + tag("p", {"class": "lines"}, lines))
        parts.append(tag("h3", {}, f"{title}: {len(pairs)} pairs"))
        parts.append(article_list(sentences, pairs, _FOLDED_AFTER) + listed)
    return "".join(parts)


def _sample(found: Findings, sentences: Sentences) -> str:
    pairs = found.sample
    words = f"the teacher's first {min(LISTED, len(found.knowledge.ranks) - 1)} words"
    if found.draws:
        words = f"the words that were drawn most often, {LISTED} at most, with their shares of the {found.draws} draws"
    intro = (
        f"{len(pairs)} pairs, one drawn from each of as many equal runs of the cache. Behind every word are "
        f"{words}; ## marks a piece that goes on with the word before it. Texts are "
        "shown as the tokenizer keeps them."
    )
    search = (
        '<div class="tools"><label>Search <input type="search" id="search" autocomplete="off"></label>'
        '<label>Order <select id="order"><option value="line">as in the corpus</option>'
        '<option value="mean">most surprising first</option></select></label>'
        '<output id="found" aria-live="polite"></output></div>'
    )
    articles = tag("div", {"id": "sample", "class": "pairs"}, "".join(sentences.article(pair) for pair in pairs))
    return tag("p", {}, intro) + legend() + search + articles
