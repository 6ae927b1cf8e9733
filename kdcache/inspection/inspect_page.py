"""The page that `kdcache inspect --html` writes: what the teacher knows, in pictures and in single sentences."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.cache.reader import CacheReader
from kdcache.console.progress import Progress
from kdcache.console.tables import count
from kdcache.errors import UsageError
from kdcache.files.atomic import check_replaceable, replace_file
from kdcache.inspection.cache_statistics import CacheStatistics, Collector
from kdcache.inspection.figures import figures
from kdcache.inspection.page_wording import LEVEL_NAMES, percent
from kdcache.inspection.picked_pairs import MostSurprisingPairs, PickedPair, Sample
from kdcache.inspection.sentences import LISTED, Sentences
from kdcache.pictures.html_page import embedded_json, generator_mark, render_page
from kdcache.text.tokenizer import Tokenizer

WORST_PAIRS = 50
SAMPLED_PAIRS = 60
_FOLDED_AFTER = 10
_COMMAND = "inspect"


@dataclass(frozen=True, slots=True)
class Findings:
    """What the page shows of the shards.

    Attributes:
        statistics: of all target positions.
        by_mean, by_word: pairs whose words surprise the teacher most, on average and by their worst word.
        sample: pairs spread over the cache.
        draws: number of words drawn at each position; 0 if the most probable words are stored.
        averaged: number of caches that this cache is the average of.
    """

    statistics: CacheStatistics
    by_mean: Sequence[PickedPair]
    by_word: Sequence[PickedPair]
    sample: Sequence[PickedPair]
    draws: int
    averaged: int


def write_page(reader: CacheReader, facts: Sequence[tuple[str, str]], output: Path) -> None:
    """Write the page about a cache; `facts` are names and values for its top. Equal caches give equal bytes.

    It opens with the verdict on the labels.

    Raises:
        UsageError: the file's name does not end in .html.
        OutputError: the file exists and kdcache did not write it, or it cannot be written.
        CorruptError: a shard or the tokenizer is damaged.
        CacheError: it cannot be fetched.
    """
    if output.suffix.lower() != ".html":
        raise UsageError(f"--html {output}: the page is HTML; its name must end in .html.")
    check_replaceable(output, generator_mark(_COMMAND), "page")
    tokenizer = reader.tokenizer()
    verdict = reader.teacher_figures().verdict()
    replace_file(output, render(read_findings(reader), tokenizer, facts, verdict).encode("utf-8"))


def read_findings(reader: CacheReader) -> Findings:
    """Read the shards once, one at a time; nothing of a shard is kept but the pairs that the page shows."""
    plan = reader.plan
    collector, worst = Collector(plan.topk), MostSurprisingPairs(WORST_PAIRS)
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
    return Findings(collector.statistics(), worst.by_mean, worst.by_word, sample.pairs, plan.draws, plan.averaged)


def render(
    findings: Findings, tokenizer: Tokenizer, facts: Sequence[tuple[str, str]], verdict: Sequence[str] = ()
) -> str:
    """The text of the page."""
    statistics, sentences = findings.statistics, Sentences(tokenizer)
    worst = [
        (title, [sentences.article(pair) for pair in pairs])
        for title, pairs in (
            ("By the mean over the sentence", findings.by_mean),
            ("By the single word", findings.by_word),
        )
    ]
    values = {
        "title": "What the teacher knows",
        "tiles": _tiles(statistics, findings.draws),
        "verdict": verdict,
        "facts": facts,
        "figures": figures(statistics, findings.draws, findings.averaged) if statistics.n_targets else [],
        "worst": worst,
        "sample": [sentences.article(pair) for pair in findings.sample],
        "folded_after": _FOLDED_AFTER,
        "level_names": LEVEL_NAMES,
        "listed": LISTED,
        "k": len(statistics.ranks) - 1,
        "draws": findings.draws,
        "data": embedded_json(sentences.data),
        "count": count,
    }
    return render_page("kdcache.inspection", _COMMAND, "inspect.html", values, ("inspect.css",), "inspect.js")


def _tiles(statistics: CacheStatistics, draws: int) -> list[tuple[str, str]]:
    """The numbers at the top of the page, each with its name."""
    n = max(1, statistics.n_targets)
    perplexity = math.exp(min(statistics.surprise, 700.0))
    tiles = [
        (f"{statistics.n_targets:,}", "target positions"),
        (percent(float(statistics.mass[-1])), f"mass of the {len(statistics.ranks) - 1} listed words"),
        (percent(float(statistics.ranks[0] / n)), "written word is the first"),
        (percent(float(statistics.ranks[:-1].sum() / n)), "written word is listed"),
        (f"{perplexity:.2f}" if perplexity < 1e6 else f"{perplexity:.1e}", "perplexity"),
        (percent(statistics.calibration.error), "expected calibration error"),
    ]
    # Drawn words hold no mass, have no order and say little about the most probable word.
    return [tiles[0], tiles[4]] if draws else tiles
