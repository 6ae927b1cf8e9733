"""Pairs on the page: the written words marked by their surprise, and the distribution behind each of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.inspection.cache_statistics import level
from kdcache.inspection.picked_pairs import PickedPair
from kdcache.inspection.wording import Piece, Pieces, nats, percent, small
from kdcache.text.tokenizer import Tokenizer

# Words of a distribution that are shown; the rest is summed up.
LISTED = 16


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of the written text on the page: its text, the classes of its mark, its position and its probability."""

    text: str
    kind: str
    position: int
    probability: str


@dataclass(frozen=True, slots=True)
class Article:
    """One pair on the page.

    Attributes:
        line: number of the pair in the corpus, from 1.
        mean: mean surprise in nats, as text; `order`: the same as a number that JavaScript can sort by.
        worst: the most surprising piece; `probability`: of that piece, as text.
        best: the piece that the teacher puts first there; `share`: its probability, or its share of the draws.
        source: the source as text.
        number: the number of the pair in `Sentences.data`.
        words: the pieces of each target word.
    """

    line: int
    mean: str
    order: str
    worst: Piece
    probability: str
    best: Piece
    share: str
    source: str
    number: int
    words: list[list[Written]]


class Sentences:
    """Makes articles of pairs, and collects in `data` what the page's script reads about their words."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._pieces = Pieces(tokenizer)
        self._numbers: dict[int, int] = {}
        self._shown: dict[int, int] = {}
        self._positions: list[Any] = []

    @property
    def data(self) -> dict[str, Any]:
        """What the script reads.

        `pieces`: texts and kinds (0 plain, 1 continues a word, 2 special); `pairs`: for each pair and position the
        written piece, its probability, its surprise in nats (null: infinite), and the listed pieces with their
        probabilities, in a flat list. Pieces are given as positions in `pieces`.
        """
        pieces = map(self._pieces.show, self._numbers)
        return {
            "pieces": [[piece.text, 2 if piece.special else int(piece.joined)] for piece in pieces],
            "pairs": self._positions,
        }

    def article(self, pair: PickedPair) -> Article:
        """One pair as the page shows it."""
        worst, ids = pair.worst, pair.target_ids.tolist()
        return Article(
            line=pair.index + 1,
            mean=nats(pair.mean),
            order=f"{min(pair.mean, 1e9):.4f}",
            worst=self._pieces.show(ids[worst]),
            probability=small(math.exp(-float(pair.surprise[worst]))),
            best=self._pieces.show(int(pair.soft.token_ids[worst, 0])),
            share=percent(math.exp(float(pair.soft.log_probs[worst, 0]))),
            source=self._tokenizer.decode(pair.source_ids.tolist()),
            number=self._number(pair),
            words=[[self._written(pair, i) for i in word] for word in self._pieces.words(ids)],
        )

    def _written(self, pair: PickedPair, position: int) -> Written:
        piece = self._pieces.show(int(pair.target_ids[position]))
        p = math.exp(-float(pair.surprise[position]))
        return Written(piece.text, f"s{int(level(p))}" + (" special" if piece.special else ""), position, small(p))

    def _number(self, pair: PickedPair) -> int:
        """The number of a pair in `data`; a pair that the page shows twice stands there once."""
        if pair.index not in self._shown:
            self._shown[pair.index] = len(self._positions)
            self._positions.append([self._distribution(pair, i) for i in range(len(pair.target_ids))])
        return self._shown[pair.index]

    def _distribution(self, pair: PickedPair, position: int) -> list[Any]:
        surprise = float(pair.surprise[position])
        ids, log_probs = (values[position, :LISTED] for values in (pair.soft.token_ids, pair.soft.log_probs))
        listed: list[Any] = []
        for token_id, p in zip(ids.tolist(), np.exp(log_probs.astype(np.float64)).tolist(), strict=True):
            if p > 0:
                listed.extend((self._piece_number(token_id), float(f"{p:.3g}")))
        finite = round(surprise, 3) if math.isfinite(surprise) else None
        written = self._piece_number(int(pair.target_ids[position]))
        return [written, float(f"{math.exp(-surprise):.3g}"), finite, listed]

    def _piece_number(self, token_id: int) -> int:
        return self._numbers.setdefault(token_id, len(self._numbers))
