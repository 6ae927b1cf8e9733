"""The pictures of what a teacher knows, each with a caption and its numbers as a table."""

from __future__ import annotations

import itertools
import math

import numpy as np

from kdcache.inspection.cache_statistics import CALIBRATION_EDGES, LEVELS, ByPosition, Calibration, Knowledge
from kdcache.inspection.number_words import LEVEL_NAMES, percent
from kdcache.pictures import svg
from kdcache.pictures.markup import escape, table, tag
from kdcache.pictures.plots import ticks

# Places that fewer than this share of the sentences reach would be drawn as noise.
_REACHED = 0.001
_NAMED_BARS = 16
_UPPER = svg.Sheet(bottom=92)
_LOWER = svg.Sheet(top=196)
_FIFTHS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
_PERCENT = ("0", "20", "40", "60", "80", "100")


def figures(known: Knowledge, draws: int, averaged: int) -> str:
    """All pictures; `known` has at least one target position. Where words were drawn, one of them."""
    if draws:
        # The written word's probability is stored beside the draws, and exact.
        return _levels(known)
    k = len(known.ranks) - 1
    return "".join(
        (
            _mass(known, averaged),
            _ranks(known),
            _levels(known),
            _reliability(known.calibration),
            _entropy(known.from_start, k, averaged, "start", "1 is the first piece of the sentence"),
            _entropy(known.from_end, k, averaged, "end", "1 is the end token"),
        )
    )


def _figure(title: str, drawn: str, caption: str, numbers: str) -> str:
    hidden = tag("details", {}, tag("summary", {}, "Numbers") + numbers)
    return tag("figure", {}, f"<h3>{escape(title)}</h3>{drawn}<figcaption>{escape(caption)}</figcaption>{hidden}")


def _mass(known: Knowledge, averaged: int) -> str:
    k = len(known.ranks) - 1
    low, middle, high = known.mass.quartiles
    area = svg.frame((0.5, k + 0.5), (0, 1))
    marks = svg.whole_ticks(1, k)
    xs = [float(i) for i in range(1, k + 1)]
    points = list(zip(xs, known.mass.mean.tolist(), strict=True))
    parts = [
        svg.y_axis(area, "mass, %", _FIFTHS, _PERCENT),
        svg.band(area, xs, low.tolist(), high.tolist(), "band"),
        svg.curve(area, list(zip(xs, middle.tolist(), strict=True)), "curve second"),
        svg.curve(area, points, "curve"),
        *(svg.dot(area, x, y, f"k = {x:.0f}: {percent(y)} on average") for x, y in points if k <= _NAMED_BARS),
        svg.x_axis(area, "number of words k", marks, [str(one) for one in marks]),
    ]
    rows = [
        (f"{i + 1}", *(percent(float(values[i])) for values in (known.mass.mean, low, middle, high))) for i in range(k)
    ]
    title = "What the first k words hold"
    what = "Probability that the k most probable words hold together"
    if averaged > 1:
        what = f"What {averaged} caches know of the probability of the k words stored, together, which may be more"
    return _figure(
        title,
        svg.picture(title, f"On average {percent(points[-1][1])} at k = {k}.", parts),
        f"{what}: mean (line), median (dashed), and the middle half of all {known.n_targets:,} target positions (band)."
        " What is missing to 100 % is the tail that the cache does not list.",
        table(("k", "mean", "lower quartile", "median", "upper quartile"), rows),
    )


def _ranks(known: Knowledge) -> str:
    k = len(known.ranks) - 1
    shares = (known.ranks / max(1, known.n_targets)).tolist()
    names = [*(f"{i}" for i in range(1, k + 1)), "not listed"]
    # The last bar is no rank and stands a little apart.
    middles = [*(float(i) for i in range(1, k + 1)), k + 1.5]
    # Names that would run into that of the last bar are left out.
    marks = [one for one in svg.whole_ticks(1, k) if k + 1.5 - one > 0.08 * k]
    levels = ticks(0, max(shares), 5)
    area = svg.frame((0.4, k + 2.1), (0, levels[-1]))
    parts = [svg.y_axis(area, "positions, %", levels, [f"{100 * one:.4g}" for one in levels])]
    for x, share, name in zip(middles, shares, names, strict=True):
        kind = "bar" if name != "not listed" else "bar other"
        parts.append(svg.bar(area, (x - 0.38, x + 0.38), share, f"{name}: {percent(share, 2)}", kind))
        if k < _NAMED_BARS:
            place = (area.across.at(x), area.down.at(share) - 4)
            parts.append(svg.text(*place, f"{100 * share:.1f}", "middle", "value"))
    parts.append(
        svg.x_axis(area, "rank of the written word", [*marks, k + 1.5], [*(f"{one}" for one in marks), "none"])
    )
    rows = [
        (name, f"{count:,}", percent(share, 2))
        for name, count, share in zip(names, known.ranks.tolist(), shares, strict=True)
    ]
    title = "Where the written word stands"
    return _figure(
        title,
        svg.picture(title, f"First at {percent(shares[0])}, not listed at {percent(shares[-1])} of positions.", parts),
        f"How often the word of the text is the teacher's 1st, 2nd, … guess, or none of its {k} (none).",
        table(("rank", "positions", "share"), rows),
    )


def _levels(known: Knowledge) -> str:
    shares = (known.levels / max(1, known.n_targets)).tolist()
    levels = ticks(0, max(shares), 5)
    area = svg.frame((0.4, len(shares) + 0.6), (0, levels[-1]))
    between = (f"{100 * low:g}–{100 * high:g}" for high, low in itertools.pairwise(LEVELS))
    names = [f"≥ {100 * LEVELS[0]:g}", *between, f"< {100 * LEVELS[-1]:g}"]
    parts = [svg.y_axis(area, "positions, %", levels, [f"{100 * one:.4g}" for one in levels])]
    for i, share in enumerate(shares):
        parts.append(svg.bar(area, (i + 0.62, i + 1.38), share, f"{LEVEL_NAMES[i]}: {percent(share, 2)}", f"bar l{i}"))
        place = (area.across.at(i + 1), area.down.at(share) - 4)
        parts.append(svg.text(*place, f"{100 * share:.1f}", "middle", "value"))
    parts.append(svg.x_axis(area, "probability of the written word, %", range(1, len(shares) + 1), names))
    title = "How probable the written word is"
    return _figure(
        title,
        svg.picture(title, f"Below {100 * LEVELS[-1]:g} % at {percent(shares[-1])} of positions.", parts),
        "Probability that the teacher gives to the word of the text. The colours are those of the marks in the "
        "sentences below.",
        table(
            ("probability", "positions", "share"),
            [
                (name, f"{count:,}", percent(share, 2))
                for name, count, share in zip(LEVEL_NAMES, known.levels.tolist(), shares, strict=True)
            ],
        ),
    )


def _reliability(found: Calibration) -> str:
    area = svg.frame((0, 1), (0, 1), _UPPER)
    filled = np.flatnonzero(found.counts).tolist()
    total = int(found.counts.sum())
    shares = (found.counts / max(1, total)).tolist()
    below = svg.frame((0, 1), (0, max(shares)), _LOWER)
    points = [(float(found.confidence[i]), float(found.accuracy[i])) for i in filled]
    names = [
        f"{percent(CALIBRATION_EDGES[i], 0)} to {percent(CALIBRATION_EDGES[i + 1], 0)}" for i in range(len(shares))
    ]
    parts = [
        svg.y_axis(area, "right, %", _FIFTHS, _PERCENT),
        svg.segment(area, (0, 0), (1, 1), "diagonal"),
        *(svg.segment(area, (x, x), (x, y), "gap") for x, y in points),
        svg.curve(area, points, "curve"),
        *(
            svg.dot(area, x, y, f"{names[i]}: says {percent(x)}, right {percent(y)}; {found.counts[i]:,} positions")
            for i, (x, y) in zip(filled, points, strict=True)
        ),
        svg.y_axis(below, "", (0, max(shares)), ("0", f"{100 * max(shares):.0f}")),
        *(
            svg.bar(
                below, tuple(CALIBRATION_EDGES[i : i + 2]), shares[i], f"{names[i]}: {percent(shares[i])}", "bar pale"
            )
            for i in filled
        ),
        svg.x_axis(below, "probability of the teacher's first word, %", _FIFTHS, _PERCENT),
    ]
    rows = [
        (names[i], f"{found.counts[i]:,}", percent(float(found.confidence[i])), percent(float(found.accuracy[i])))
        for i in filled
    ]
    title = "Whether it is right as often as it says"
    return _figure(
        title,
        svg.picture(title, f"Expected calibration error {percent(found.error, 2)}.", parts),
        f"Positions in {len(shares)} intervals of the probability of the teacher's first word, against how often that "
        "is the written word; a calibrated teacher lies on the dashed line, an overconfident one below it. Bars: share "
        f"of positions, %. Expected calibration error: {percent(found.error, 2)}, the mean distance from the dashed "
        "line, weighted by positions (Guo et al., On Calibration of Modern Neural Networks, ICML 2017, equation 5).",
        table(("says", "positions", "mean probability", "right"), rows),
    )


def _entropy(found: ByPosition, k: int, averaged: int, side: str, first: str) -> str:
    reached = np.flatnonzero(found.counts >= max(1.0, _REACHED * float(found.counts[0])))
    shown = int(reached[-1]) + 1
    values, counts = found.entropy[:shown].tolist(), found.counts[:shown].tolist()
    levels = ticks(0, max(values), 5)
    x = (0.5, shown + 0.5)
    area, below = svg.frame(x, (0, levels[-1]), _UPPER), svg.frame(x, (0, max(counts)), _LOWER)
    marks = svg.whole_ticks(1, shown)
    points = [(float(i), value) for i, value in enumerate(values, 1)]
    parts = [
        svg.y_axis(area, "entropy, nats", levels),
        svg.curve(area, points, "curve"),
        *(svg.dot(area, x, y, f"{x:.0f}: {y:.2f} nats", 2.5) for x, y in points),
        svg.y_axis(below, "", (0, max(counts)), ("0", _short(max(counts)))),
        *(
            svg.bar(below, (i - 0.4, i + 0.4), count, f"{i}: {count:,} positions", "bar pale")
            for i, count in enumerate(counts, 1)
        ),
        svg.x_axis(below, f"position from the {side}", marks, [str(one) for one in marks]),
    ]
    title = f"Entropy from the {side} of the sentence"
    bound = "never more than the entropy over the whole vocabulary"
    if averaged > 1:
        bound = "no bound of the entropy over the whole vocabulary, since the bucket has parts of the listed words too"
    return _figure(
        title,
        svg.picture(title, f"Mean entropy by position; {values[0]:.2f} nats at position 1.", parts),
        f"Mean entropy over the {k} listed words and one bucket for all others, in nats: at most log {k + 1} = "
        f"{math.log(k + 1):.2f}, and {bound}. Position {first}. "
        "Bars: how many sentences reach the position; those that fewer than one in a thousand reach are left out.",
        table(
            ("position", "mean entropy, nats", "sentences"),
            [(f"{i}", f"{values[i - 1]:.3f}", f"{counts[i - 1]:,}") for i in range(1, shown + 1)],
        ),
    )


def _short(count: int) -> str:
    """A count in few characters: `950`, `29k`, `1.2M`."""
    for unit, size in (("M", 1_000_000), ("k", 1_000)):
        if count >= size:
            return f"{count / size:.2g}{unit}" if count < 100 * size else f"{count / size:.0f}{unit}"
    return str(count)
