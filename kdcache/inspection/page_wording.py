"""Numbers and pieces of a vocabulary in the words of the page about a cache."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.inspection.cache_statistics import LEVELS
from kdcache.text.tokenizer import Tokenizer

_SMALLEST_SHOWN = 1e-5
# How other kinds of tokenizer mark the beginning of a word: byte-level BPE, and Unigram.
_WORD_MARKS = ("Ġ", "▁")

# What the page calls the groups of `kdcache.inspection.cache_statistics.LEVELS`.
LEVEL_NAMES = (
    f"at least {100 * LEVELS[0]:g} %",
    *(f"{100 * low:g} to {100 * high:g} %" for high, low in itertools.pairwise(LEVELS)),
    f"below {100 * LEVELS[-1]:g} %",
)


def percent(share: float, digits: int = 1) -> str:
    """A share from 0 to 1 in percent."""
    return f"{100 * share:.{digits}f} %"


def nats(value: float) -> str:
    """A surprise in nats."""
    return f"{value:.2f}" if math.isfinite(value) else "∞"


def small(p: float) -> str:
    """A probability that may be very small, with the sign that leads it: `= 0.30 %` or `< 0.001 %`."""
    if 0 < p < _SMALLEST_SHOWN:
        return f"< {100 * _SMALLEST_SHOWN:g} %"
    return f"= {percent(p, 1 if p >= 0.1 else 2 if p >= 0.01 else 3)}"


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of the vocabulary as the page shows it.

    Attributes:
        text: the piece without the mark that joins it to its neighbour.
        joined: whether it continues the word of the piece before it.
        special: whether it is a special token.
    """

    text: str
    joined: bool
    special: bool


class Pieces:
    """The pieces of one tokenizer."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        model = tokenizer.definition["model"]
        self._prefix = str(model.get("continuing_subword_prefix") or "##") if tokenizer.kind == "WordPiece" else ""
        special = tokenizer.special
        self._special = {special.pad, special.unk, special.mask, special.start, special.end}
        self._known: dict[int, Piece] = {}

    def show(self, token_id: int) -> Piece:
        """The piece with this id."""
        if token_id not in self._known:
            self._known[token_id] = self._read(token_id)
        return self._known[token_id]

    def _read(self, token_id: int) -> Piece:
        name = self._tokenizer.piece(token_id)
        if token_id in self._special:
            return Piece(name, joined=False, special=True)
        if self._tokenizer.kind == "WordPiece":
            joined = name.startswith(self._prefix) and len(name) > len(self._prefix)
            return Piece(name.removeprefix(self._prefix) if joined else name, joined, special=False)
        text = str(self._tokenizer.backend.decode([token_id], skip_special_tokens=False)).strip()
        # A piece of a few bytes need not be a character yet.
        whole = text and "\ufffd" not in text
        joined = self._tokenizer.kind != "WordLevel" and not name.startswith(_WORD_MARKS)
        return Piece(text if whole else name.lstrip("".join(_WORD_MARKS)) or name, joined, special=False)

    def words(self, token_ids: Sequence[int]) -> list[list[int]]:
        """The positions of each word's pieces, from 0, in order."""
        words: list[list[int]] = []
        for position, token_id in enumerate(token_ids):
            if self.show(token_id).joined and words:
                words[-1].append(position)
            else:
                words.append([position])
        return words
