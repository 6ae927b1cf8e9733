"""Pieces of a vocabulary as people read them, and the words that they make up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.text.tokenizer import Tokenizer

# How other kinds of tokenizer mark the beginning of a word: byte-level BPE, and Unigram.
_WORD_MARKS = ("Ġ", "▁")


@dataclass(frozen=True, slots=True)
class Shown:
    """A piece as it is shown.

    Attributes:
        text: without the mark that joins it to its neighbour.
        joined: whether it goes on with the word of the piece before it.
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
        self._known: dict[int, Shown] = {}

    def show(self, token_id: int) -> Shown:
        """How the piece with this id is shown."""
        if token_id not in self._known:
            self._known[token_id] = self._look(token_id)
        return self._known[token_id]

    def _look(self, token_id: int) -> Shown:
        piece = self._tokenizer.piece(token_id)
        if token_id in self._special:
            return Shown(piece, joined=False, special=True)
        if self._tokenizer.kind == "WordPiece":
            joined = piece.startswith(self._prefix) and len(piece) > len(self._prefix)
            return Shown(piece.removeprefix(self._prefix) if joined else piece, joined, special=False)
        text = str(self._tokenizer.backend.decode([token_id], skip_special_tokens=False)).strip()
        # A piece of a few bytes need not be a character yet.
        whole = text and "\ufffd" not in text
        joined = self._tokenizer.kind != "WordLevel" and not piece.startswith(_WORD_MARKS)
        return Shown(text if whole else piece.lstrip("".join(_WORD_MARKS)) or piece, joined, special=False)

    def words(self, token_ids: Sequence[int]) -> list[list[int]]:
        """Positions of the pieces of each word, from 0, in order."""
        words: list[list[int]] = []
        for position, token_id in enumerate(token_ids):
            if self.show(token_id).joined and words:
                words[-1].append(position)
            else:
                words.append([position])
        return words
