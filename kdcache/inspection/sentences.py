"""Pairs on the page: the written words marked by their surprise, and the distribution behind each of them."""

import math
from typing import Any

import numpy as np

from kdcache.inspection.cache_statistics import level
from kdcache.inspection.page_wording import Pieces, nats, percent, small
from kdcache.inspection.picked_pairs import PickedPair
from kdcache.text.tokenizer import Tokenizer

# Words of a distribution that are shown; the rest is summed up.
LISTED = 16


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

    def article(self, pair: PickedPair) -> dict[str, Any]:
        """One pair as the template shows it.

        `words` has the pieces of each target word: text, classes of the mark, position, and probability. `mean` is the
        mean surprise as text, `order` the same as a number for JavaScript, which reads no `inf`; `worst` is the most
        surprising piece with its `probability`, `best` the piece that the teacher puts first there with its `share`.
        """
        worst, ids = pair.worst, pair.target_ids.tolist()
        return {
            "line": pair.index + 1,
            "mean": nats(pair.mean),
            "order": f"{min(pair.mean, 1e9):.4f}",
            "worst": self._pieces.show(ids[worst]),
            "probability": small(math.exp(-float(pair.surprise[worst]))),
            "best": self._pieces.show(int(pair.soft.token_ids[worst, 0])),
            "share": percent(math.exp(float(pair.soft.log_probs[worst, 0]))),
            "source": self._tokenizer.decode(pair.source_ids.tolist()),
            "number": self._number(pair),
            "words": [[self._written(pair, i) for i in word] for word in self._pieces.words(ids)],
        }

    def _written(self, pair: PickedPair, position: int) -> tuple[str, str, int, str]:
        piece = self._pieces.show(int(pair.target_ids[position]))
        p = math.exp(-float(pair.surprise[position]))
        return piece.text, f"s{int(level(p))}" + (" special" if piece.special else ""), position, small(p)

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
