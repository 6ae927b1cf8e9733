"""Pairs on the page: the written words marked by their surprise, and the distribution behind each of them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from kdcache.inspection.cache_statistics import level
from kdcache.inspection.number_words import LEVEL_NAMES, nats, percent, small
from kdcache.inspection.picks import PickedPair
from kdcache.inspection.pieces import Pieces, Shown
from kdcache.pictures.markup import escape, tag
from kdcache.text.tokenizer import Tokenizer

# Words of a distribution that are shown; the rest is summed up.
LISTED = 16


class Sentences:
    """Pairs as HTML; what they say about their words is collected in `data`, for the page's script.

    Args:
        tokenizer: of the cache.
        draws: words drawn at each position; 0 is the best ones.
    """

    def __init__(self, tokenizer: Tokenizer, draws: int = 0) -> None:
        self._tokenizer = tokenizer
        self._draws = draws
        self._pieces = Pieces(tokenizer)
        self._numbers: dict[int, int] = {}
        self._shown: dict[int, int] = {}
        self._positions: list[Any] = []

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads.

        `pieces`: texts and kinds (0 plain, 1 goes on with a word, 2 special); `pairs`: for each pair and position the
        written piece, its probability, its surprise in nats (null: infinite), and the listed pieces with their
        probabilities, in a flat list. Pieces are numbers of `pieces`.
        """
        shown = [self._pieces.show(token_id) for token_id in self._numbers]
        return {"pieces": [[one.text, _kind(one)] for one in shown], "pairs": self._positions}

    def article(self, pair: PickedPair) -> str:
        """One pair: line number, surprise, source, and the target word by word."""
        worst = pair.worst
        facts = (
            tag("span", {"class": "line"}, f"line {pair.index + 1:,}")
            + tag("span", {}, f"mean −log p {nats(pair.mean)}")
            + tag("span", {}, f"most surprising {self._bdi(int(pair.target_ids[worst]))}, {self._against(pair, worst)}")
        )
        source = self._tokenizer.decode(pair.source_ids.tolist())
        body = (
            tag("p", {"class": "facts"}, facts)
            + tag("p", {"class": "source", "dir": "auto"}, escape(source))
            + self._target(pair)
        )
        attributes = {
            "class": "pair",
            "data-line": pair.index + 1,
            # The script sorts by it; JavaScript reads no `inf`.
            "data-mean": f"{min(pair.mean, 1e9):.4f}",
        }
        return tag("article", attributes, body)

    def _against(self, pair: PickedPair, position: int) -> str:
        p = math.exp(-float(pair.surprise[position]))
        best = int(pair.soft.token_ids[position, 0])
        share = math.exp(float(pair.soft.log_probs[position, 0]))
        if self._draws:
            return f"p {small(p)}; drawn most often {self._bdi(best)}, {percent(share)} of {self._draws} draws"
        return f"p {small(p)}, where the teacher says {self._bdi(best)}, {percent(share)}"

    def _bdi(self, token_id: int) -> str:
        shown = self._pieces.show(token_id)
        mark = tag("span", {"class": "mark"}, "##") if shown.joined else ""
        return tag("bdi", {"class": "piece"}, mark + escape(shown.text))

    def _target(self, pair: PickedPair) -> str:
        number = self._number(pair)
        ids = pair.target_ids.tolist()
        words = []
        for word in self._pieces.words(ids):
            buttons = "".join(self._button(ids[i], float(pair.surprise[i]), i) for i in word)
            words.append(tag("span", {"class": "word"}, buttons))
        # The space lets a line break between words, and keeps them apart where no style sheet is read.
        return tag("p", {"class": "target", "dir": "auto", "data-pair": number}, " ".join(words))

    def _button(self, token_id: int, surprise: float, position: int) -> str:
        shown = self._pieces.show(token_id)
        p = math.exp(-surprise)
        kind = f"s{int(level(p))}" + (" special" if shown.special else "")
        # One stop of the tab key a sentence; arrows go from word to word.
        stop = "0" if position == 0 else "-1"
        attributes = {"type": "button", "class": kind, "tabindex": stop, "title": f"p {small(p)}"}
        return tag("button", attributes, escape(shown.text))

    def _number(self, pair: PickedPair) -> int:
        """The number of a pair among those that the script knows; a pair that is shown twice is written once."""
        if pair.index not in self._shown:
            self._shown[pair.index] = len(self._positions)
            self._positions.append([self._position(pair, i) for i in range(len(pair.target_ids))])
        return self._shown[pair.index]

    def _position(self, pair: PickedPair, position: int) -> list[Any]:
        surprise = float(pair.surprise[position])
        ids, p = (values[position, :LISTED] for values in (pair.soft.token_ids, pair.soft.log_probs))
        listed: list[Any] = []
        for token_id, share in zip(ids.tolist(), np.exp(p.astype(np.float64)).tolist(), strict=True):
            if share > 0:
                listed.extend((self._piece(token_id), float(f"{share:.3g}")))
        known = round(surprise, 3) if math.isfinite(surprise) else None
        written = self._piece(int(pair.target_ids[position]))
        return [written, float(f"{math.exp(-surprise):.3g}"), known, listed]

    def _piece(self, token_id: int) -> int:
        return self._numbers.setdefault(token_id, len(self._numbers))


def _kind(shown: Shown) -> int:
    return 2 if shown.special else int(shown.joined)


def legend() -> str:
    """What the marks mean."""
    marks = "".join(tag("span", {"class": f"key s{i}"}, name) for i, name in enumerate(LEVEL_NAMES))
    return tag("p", {"class": "legend"}, "Probability of the written word: " + marks)


def article_list(sentences: Sentences, pairs: Sequence[PickedPair], first: int) -> str:
    """The pairs one below the other; those after the first `first` are folded away."""
    shown = [sentences.article(pair) for pair in pairs]
    more = ""
    if len(shown) > first:
        folded = tag("div", {"class": "pairs"}, "".join(shown[first:]))
        more = tag("details", {}, tag("summary", {}, f"{len(shown) - first} more") + folded)
    return tag("div", {"class": "pairs"}, "".join(shown[:first])) + more
