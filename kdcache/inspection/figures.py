"""The pictures on the page about a cache, each with a caption and its numbers as a table."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from kdcache.inspection.cache_statistics import CALIBRATION_EDGES, LEVELS, ByPosition, CacheStatistics, Calibration
from kdcache.inspection.page_wording import LEVEL_NAMES, percent
from kdcache.pictures import svg
from kdcache.pictures.axes import ticks, whole_ticks

# Positions that fewer than this share of the sentences reach would be drawn as noise.
_REACHED = 0.001
# Beyond this number of words, the dots of a curve would touch each other.
_DOTS_MAX = 16
_UPPER = svg.Sheet(bottom=92)
_LOWER = svg.Sheet(top=196)
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_PERCENT = ("0", "20", "40", "60", "80", "100")


@dataclass(frozen=True, slots=True)
class Figure:
    """A picture on the page.

    Attributes:
        title, caption: text above and below.
        picture: the SVG.
        rows: its numbers as a table; the first row is the header.
    """

    title: str
    picture: Markup
    caption: str
    rows: list[tuple[str, ...]]


def figures(statistics: CacheStatistics, draws: int, averaged: int) -> list[Figure]:
    """All pictures about a cache with at least one target position.

    If words were drawn, only the picture of the written words' probabilities is exact, since these are stored.
    """
    if draws:
        return [_levels(statistics)]
    k = len(statistics.ranks) - 1
    return [
        _mass(statistics, averaged),
        _ranks(statistics),
        _levels(statistics),
        _reliability(statistics.calibration),
        _entropy(statistics.from_start, k, averaged, "start", "1 is the first piece of the sentence"),
        _entropy(statistics.from_end, k, averaged, "end", "1 is the end token"),
    ]


def _mass(statistics: CacheStatistics, averaged: int) -> Figure:
    mean = statistics.mass.tolist()
    low, middle, high = statistics.mass_quartiles.tolist()
    k = len(mean)
    area = svg.Frame((0.5, k + 0.5), (0, 1))
    marks = whole_ticks(1, k)
    xs = [float(i) for i in range(1, k + 1)]
    parts = [
        svg.y_axis(area, "mass, %", _FIFTHS, _PERCENT),
        svg.band(area, xs, low, high, "band"),
        svg.curve(area, list(zip(xs, middle, strict=True)), "curve second"),
        svg.curve(area, list(zip(xs, mean, strict=True)), "curve"),
    ]
    if k <= _DOTS_MAX:
        parts += [svg.dot(area, x, y, f"k = {x:.0f}: {percent(y)} on average") for x, y in zip(xs, mean, strict=True)]
    parts.append(svg.x_axis(area, "number of words k", marks, list(map(str, marks))))
    rows = [(f"{i}", *map(percent, row)) for i, row in enumerate(zip(mean, low, middle, high, strict=True), 1)]
    title = "What the first k words hold"
    what = "Probability that the k most probable words hold together"
    if averaged > 1:
        what = f"What {averaged} caches know of the probability of the k words stored, together, which may be more"
    return Figure(
        title,
        svg.picture(title, f"On average {percent(mean[-1])} at k = {k}.", parts),
        f"{what}: mean (line), median (dashed), and the middle half of all {statistics.n_targets:,} target positions "
        "(band). What is missing to 100 % is the tail that the cache does not list.",
        [("k", "mean", "lower quartile", "median", "upper quartile"), *rows],
    )


def _ranks(statistics: CacheStatistics) -> Figure:
    k = len(statistics.ranks) - 1
    shares = (statistics.ranks / max(1, statistics.n_targets)).tolist()
    names = [*(f"{i}" for i in range(1, k + 1)), "not listed"]
    # The last bar is no rank and stands a little apart; names that would run into its name are left out.
    middles = [*map(float, range(1, k + 1)), k + 1.5]
    marks = [rank for rank in whole_ticks(1, k) if k + 1.5 - rank > 0.08 * k]
    area, axis = _share_axis(k + 2.1, shares)
    parts = [axis]
    for x, share, name in zip(middles, shares, names, strict=True):
        kind = "bar other" if name == names[-1] else "bar"
        parts.append(svg.bar(area, (x - 0.38, x + 0.38), share, f"{name}: {percent(share, 2)}", kind))
        if k < _DOTS_MAX:
            parts.append(_value_above(area, x, share))
    parts.append(svg.x_axis(area, "rank of the written word", [*marks, k + 1.5], [*map(str, marks), "none"]))
    title = "Where the written word stands"
    return Figure(
        title,
        svg.picture(title, f"First at {percent(shares[0])}, not listed at {percent(shares[-1])} of positions.", parts),
        f"How often the word of the text is the teacher's 1st, 2nd, … guess, or none of its {k} (none).",
        _share_rows("rank", names, statistics.ranks.tolist(), shares),
    )


def _levels(statistics: CacheStatistics) -> Figure:
    shares = (statistics.levels / max(1, statistics.n_targets)).tolist()
    area, axis = _share_axis(len(shares) + 0.6, shares)
    between = (f"{100 * low:g}–{100 * high:g}" for high, low in itertools.pairwise(LEVELS))
    names = [f"≥ {100 * LEVELS[0]:g}", *between, f"< {100 * LEVELS[-1]:g}"]
    parts = [axis]
    for i, share in enumerate(shares):
        parts.append(svg.bar(area, (i + 0.62, i + 1.38), share, f"{LEVEL_NAMES[i]}: {percent(share, 2)}", f"bar l{i}"))
        parts.append(_value_above(area, i + 1, share))
    parts.append(svg.x_axis(area, "probability of the written word, %", range(1, len(shares) + 1), names))
    title = "How probable the written word is"
    return Figure(
        title,
        svg.picture(title, f"Below {100 * LEVELS[-1]:g} % at {percent(shares[-1])} of positions.", parts),
        "Probability that the teacher gives to the word of the text. The colours are those of the marks in the "
        "sentences below.",
        _share_rows("probability", LEVEL_NAMES, statistics.levels.tolist(), shares),
    )


def _share_axis(right: float, shares: Sequence[float]) -> tuple[svg.Frame, Markup]:
    """The drawing area of a bar chart of shares, and its axis in percent."""
    levels = ticks(0, max(shares), 5)
    area = svg.Frame((0.4, right), (0, levels[-1]))
    return area, svg.y_axis(area, "positions, %", levels, [f"{100 * value:.4g}" for value in levels])


def _value_above(area: svg.Frame, x: float, share: float) -> Markup:
    return svg.text(area.across(x), area.down(share) - 4, f"{100 * share:.1f}", "middle", "value")


def _share_rows(
    head: str, names: Sequence[str], counts: Sequence[int], shares: Sequence[float]
) -> list[tuple[str, ...]]:
    triples = zip(names, counts, shares, strict=True)
    return [(head, "positions", "share"), *((name, f"{n:,}", percent(share, 2)) for name, n, share in triples)]


def _reliability(calibration: Calibration) -> Figure:
    filled = np.flatnonzero(calibration.counts).tolist()
    shares = (calibration.counts / max(1, int(calibration.counts.sum()))).tolist()
    area, below = svg.Frame((0, 1), (0, 1), _UPPER), svg.Frame((0, 1), (0, max(shares)), _LOWER)
    points = [(float(calibration.confidence[i]), float(calibration.accuracy[i])) for i in filled]
    names = [f"{percent(low, 0)} to {percent(high, 0)}" for low, high in itertools.pairwise(CALIBRATION_EDGES)]
    parts = [
        svg.y_axis(area, "right, %", _FIFTHS, _PERCENT),
        svg.segment(area, (0, 0), (1, 1), "diagonal"),
        *(svg.segment(area, (x, x), (x, y), "gap") for x, y in points),
        svg.curve(area, points, "curve"),
    ]
    for i, (x, y) in zip(filled, points, strict=True):
        hint = f"{names[i]}: says {percent(x)}, right {percent(y)}; {calibration.counts[i]:,} positions"
        parts.append(svg.dot(area, x, y, hint))
    parts.append(svg.y_axis(below, "", (0, max(shares)), ("0", f"{100 * max(shares):.0f}")))
    for i in filled:
        edges = (float(CALIBRATION_EDGES[i]), float(CALIBRATION_EDGES[i + 1]))
        parts.append(svg.bar(below, edges, shares[i], f"{names[i]}: {percent(shares[i])}", "bar pale"))
    parts.append(svg.x_axis(below, "probability of the teacher's first word, %", _FIFTHS, _PERCENT))
    pairs = zip(filled, points, strict=True)
    rows = [(names[i], f"{calibration.counts[i]:,}", percent(x), percent(y)) for i, (x, y) in pairs]
    error = percent(calibration.error, 2)
    title = "Whether it is right as often as it says"
    return Figure(
        title,
        svg.picture(title, f"Expected calibration error {error}.", parts),
        f"Positions in {len(shares)} intervals of the probability of the teacher's first word, against how often that "
        "is the written word; a calibrated teacher lies on the dashed line, an overconfident one below it. Bars: share "
        f"of positions, %. Expected calibration error: {error}, the mean distance from the dashed "
        "line, weighted by positions (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 5).",
        [("says", "positions", "mean probability", "right"), *rows],
    )


def _entropy(positions: ByPosition, k: int, averaged: int, side: str, first: str) -> Figure:
    reached = np.flatnonzero(positions.counts >= max(1.0, _REACHED * float(positions.counts[0])))
    n = int(reached[-1]) + 1
    values, counts = positions.entropy[:n].tolist(), positions.counts[:n].tolist()
    levels = ticks(0, max(values), 5)
    x = (0.5, n + 0.5)
    area, below = svg.Frame(x, (0, levels[-1]), _UPPER), svg.Frame(x, (0, max(counts)), _LOWER)
    marks = whole_ticks(1, n)
    points = [(float(i), value) for i, value in enumerate(values, 1)]
    parts = [
        svg.y_axis(area, "entropy, nats", levels),
        svg.curve(area, points, "curve"),
        *(svg.dot(area, x, y, f"{x:.0f}: {y:.2f} nats", 2.5) for x, y in points),
        svg.y_axis(below, "", (0, max(counts)), ("0", _short(max(counts)))),
    ]
    for i, count in enumerate(counts, 1):
        parts.append(svg.bar(below, (i - 0.4, i + 0.4), count, f"{i}: {count:,} positions", "bar pale"))
    parts.append(svg.x_axis(below, f"position from the {side}", marks, list(map(str, marks))))
    bound = "never more than the entropy over the whole vocabulary"
    if averaged > 1:
        bound = "no bound of the entropy over the whole vocabulary, since the bucket has parts of the listed words too"
    title = f"Entropy from the {side} of the sentence"
    rows = [(f"{i}", f"{value:.3f}", f"{counts[i - 1]:,}") for i, value in enumerate(values, 1)]
    return Figure(
        title,
        svg.picture(title, f"Mean entropy by position; {values[0]:.2f} nats at position 1.", parts),
        f"Mean entropy over the {k} listed words and one bucket for all others, in nats: at most log {k + 1} = "
        f"{math.log(k + 1):.2f}, and {bound}. Position {first}. "
        "Bars: how many sentences reach the position; those that fewer than one in a thousand reach are left out.",
        [("position", "mean entropy, nats", "sentences"), *rows],
    )


def _short(count: int) -> str:
    """A count in few characters: `950`, `29k`, `1.2M`."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.2g}{unit}" if count < 100 * size else f"{count / size:.0f}{unit}"
    return str(count)
