"""What users trip over in their training text, counted before it costs them a run."""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice

import numpy as np
import numpy.typing as npt

from kdcache.text.corpus import Corpus, Pair
from kdcache.text.tokenizer import Tokenizer

UNKNOWN_SHARE = 0.01
_SAMPLE_PAIRS = 2_000


@dataclass(frozen=True, slots=True)
class TextReport:
    """Counts over a training corpus and, if there is one, its validation corpus.

    Attributes:
        pairs: usable pairs.
        skipped: pairs left out.
        duplicates: pairs that stood before, word for word.
        identical: pairs whose source equals their target.
        overlap: validation pairs whose source also stands in the training text; None without validation text.
        valid_pairs: usable validation pairs.
    """

    pairs: int
    skipped: int
    duplicates: int
    identical: int
    overlap: int | None
    valid_pairs: int = 0

    def lines(self) -> list[str]:
        """Sentences for the reader, one for each finding."""
        sentences = [f"{self.pairs:,} training pairs"]
        for count, what, total, whole in (
            (self.skipped, "pairs were skipped because they cannot be used", self.pairs + self.skipped, "all pairs"),
            (self.duplicates, "pairs are repetitions of earlier ones", self.pairs, "the training pairs"),
            (self.identical, "pairs have a target equal to their source", self.pairs, "the training pairs"),
            (
                self.overlap,
                "validation sources also stand in the training text, so validation flatters",
                self.valid_pairs,
                "the validation pairs",
            ),
        ):
            if count:
                sentences.append(f"{count:,} {what} ({100 * count / max(1, total):.1f} % of {whole})")
        return sentences


def examine(corpus: Corpus, valid: Corpus | None) -> TextReport:
    """Count repetitions, copies and overlap. Texts are compared by 64-bit hashes: 8 bytes a pair."""
    whole, sources, identical = _hashes(corpus.read())
    overlap, valid_pairs = None, 0
    if valid is not None:
        valid_sources = _hashes(valid.read())[1]
        overlap, valid_pairs = int(np.isin(valid_sources, sources).sum()), len(valid_sources)
    duplicates = len(whole) - len(np.unique(whole))
    return TextReport(len(whole), len(corpus.unusable), duplicates, identical, overlap, valid_pairs)


def _hashes(pairs: Iterable[Pair | None]) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64], int]:
    """64-bit hashes of whole pairs and of sources, and how many pairs have two equal sides."""
    whole, sources = array("Q"), array("Q")
    identical = 0
    for pair in pairs:
        if pair is not None:
            whole.append(_hash(f"{pair.source}\n{pair.target}"))
            sources.append(_hash(pair.source))
            identical += pair.source == pair.target
    return np.frombuffer(whole, np.uint64), np.frombuffer(sources, np.uint64), identical


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def tokenizer_warnings(tokenizer: Tokenizer, corpus: Corpus) -> list[str]:
    """What the tokenizer cannot give back of either language: case, accents, unknown words. Read off a sample."""
    sample = [pair for pair in islice(corpus.read(), _SAMPLE_PAIRS) if pair is not None]
    sides = {"source": [pair.source for pair in sample], "target": [pair.target for pair in sample]}
    return [warning for side, texts in sides.items() for warning in _side_warnings(tokenizer, side, texts)]


def _side_warnings(tokenizer: Tokenizer, side: str, texts: list[str]) -> list[str]:
    normalizer = tokenizer.backend.normalizer
    normal = [normalizer.normalize_str(text) for text in texts] if normalizer else texts
    warnings = []
    for what, count in (("upper case", _count_upper), ("accents", _count_accents)):
        before, after = sum(map(count, texts)), sum(map(count, normal))
        if before > 0 and after < before / 2:
            warnings.append(
                f"The tokenizer drops {what}: the {side} text has {before:,} such letters in {len(texts):,} lines, "
                f"{after:,} are left." + (" No output can have them, which caps every score." * (side == "target"))
            )
    ids = [token for line in tokenizer.encode(texts) for token in line]
    unknown = ids.count(tokenizer.special.unk) / max(1, len(ids))
    if unknown > UNKNOWN_SHARE:
        warnings.append(f"{100 * unknown:.1f} % of the {side} pieces are unknown to the tokenizer.")
    return warnings


def _count_upper(text: str) -> int:
    return sum(char.isupper() for char in text)


def _count_accents(text: str) -> int:
    return sum(unicodedata.combining(char) != 0 for char in unicodedata.normalize("NFD", text))
