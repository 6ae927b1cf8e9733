"""What users trip over in their training text, counted before it costs them a run."""

import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from kdcache.text.corpus import Corpus, Pair
from kdcache.text.tokenizer import Tokenizer

UNKNOWN_SHARE = 0.01
_SAMPLE_PAIRS = 10_000


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
    """What the tokenizer cannot give back of either language: characters, blanks, unknown words.

    A corpus of more than 10,000 pairs is sampled at equal distances.
    """
    sample = [pair for pair in corpus.sample(_SAMPLE_PAIRS) if pair is not None]
    sides = {"source": [pair.source for pair in sample], "target": [pair.target for pair in sample]}
    return [warning for side, texts in sides.items() for warning in _side_warnings(tokenizer, side, texts)]


def _side_warnings(tokenizer: Tokenizer, side: str, texts: list[str]) -> list[str]:
    encoded = tokenizer.encode(texts)
    restored = [tokenizer.decode(ids) for ids in encoded]
    normal = [_normal(tokenizer, text) for text in texts]
    warnings = []
    for what, remedy, count in _LOSSES:
        kept = restored if count is _count_blanks else normal
        before, after = (sum(map(count, lines)) for lines in (texts, kept))
        if after < before:
            warnings.append(_loss(what, remedy, side, before, after, len(texts)))
    for what, count_lost in _CHANGES:
        if lost := sum(map(count_lost, texts, normal)):
            warnings.append(_loss(what, _CASED, side, lost, 0, len(texts)))
    unknown = sum(ids.count(tokenizer.special.unk) for ids in encoded) / max(1, sum(map(len, encoded)))
    if unknown > UNKNOWN_SHARE:
        whole = Counter(_solid("".join(normal)))
        lost = (whole - Counter(_solid("".join(restored)))).total()
        warnings.append(
            f"{100 * unknown:.1f} % of the {side} pieces are unknown to the tokenizer: {lost:,} of {whole.total():,} "
            "characters are lost with them. Use a checkpoint whose vocabulary knows these characters."
        )
    return warnings + _blank_warnings(side, normal, restored)


def _loss(what: str, remedy: str, side: str, before: int, after: int, lines: int) -> str:
    left = f"the {side} text has {before:,} such characters in {lines:,} lines, {after:,} are left."
    return f"The tokenizer {what}: {left}" + _capped(side, remedy)


def _capped(side: str, remedy: str) -> str:
    return f" No output can have them, which caps every score. {remedy}" if side == "target" else ""


def _blank_warnings(side: str, normal: list[str], restored: list[str]) -> list[str]:
    """How many lines keep their characters but not their blanks, and one place where that shows."""
    pairs = zip(normal, (" ".join(text.split()) for text in restored), strict=True)
    changed = [(before, after) for before, after in pairs if before != after and _solid(before) == _solid(after)]
    if not changed:
        return []
    # One of the two has a blank where they part.
    at = next(i for i, (one, other) in enumerate(zip(*changed[0], strict=False)) if one != other)
    before, after = (text[max(0, at - 8) : at + 8] for text in changed[0])
    found = f"{len(changed):,} of {len(normal):,} {side} lines lose theirs or gain others"
    return [f"The tokenizer does not keep blanks: {found} (`{before}` becomes `{after}`).{_capped(side, _JOINS)}"]


def _normal(tokenizer: Tokenizer, text: str) -> str:
    """What decoding should give back: each word as the normalizer leaves it, one blank where `text` has blanks."""
    normalizer = tokenizer.backend.normalizer
    if normalizer is None:
        return " ".join(text.split())
    # Blanks and marks within a word are the tokenizer's, put where it splits.
    words = ("".join(normalizer.normalize_str(word).split()) for word in text.split())
    return " ".join(word.replace(tokenizer.join_mark, "") if tokenizer.join_mark else word for word in words if word)


def _solid(text: str) -> str:
    """The text without its blanks."""
    return "".join(text.split())


def _count_marks(text: str) -> int:
    return _count(("Mn",), unicodedata.normalize("NFD", text))


def _count(kinds: tuple[str, ...], text: str) -> int:
    """Characters of these of Unicode's categories that are no blanks."""
    return sum(unicodedata.category(char) in kinds and not char.isspace() for char in text)


def _count_blanks(text: str) -> int:
    """Blanks other than a single plain one between two words."""
    return len(re.findall(r"[^\S ]|(?<=\s) |^ | $", text))


def _count_parted(text: str, normal: str) -> int:
    """Composed characters that are decomposed afterwards, not counting those whose accents are gone."""
    before, after = (sum(char != unicodedata.normalize("NFD", char) for char in line) for line in (text, normal))
    return max(0, before - after - (_count_marks(text) - _count_marks(normal)))


def _count_others(text: str, normal: str) -> int:
    """Characters that are gone, but for case, accents, blanks and what cannot be seen."""
    return (Counter(_bare(text)) - Counter(_bare(normal))).total()


def _bare(text: str) -> Iterator[str]:
    for char in unicodedata.normalize("NFD", text.casefold()):
        if not (char.isspace() or char == "\ufffd" or unicodedata.category(char) in ("Mn", "Cf", "Cc", "Cn", "Co")):
            yield char


# Characters by class: what they are, what to do, and how many a text has.
_CONTROL = ("Cc", "Cn", "Co")
_CASED = "Use a cased checkpoint."
_BYTES = "a byte-level checkpoint"
_JOINS = f"Train the teacher without --no-trim-vocab, so that joined words are marked, or from {_BYTES}."
_LOSSES: tuple[tuple[str, str, Callable[[str], int]], ...] = (
    (
        "drops upper case",
        "Use a cased checkpoint, or leave case out of the score with --lowercase.",
        lambda text: sum(map(str.isupper, text)),
    ),
    ("drops accents and other marks", _CASED, _count_marks),
    ("drops joiners and other invisible characters", f"Use scratch:tiny or {_BYTES}.", partial(_count, ("Cf",))),
    ("drops control and private-use characters", f"Remove them, or use {_BYTES}.", partial(_count, _CONTROL)),
    ("drops tabs, no-break and repeated blanks", "Write single plain blanks, also in references.", _count_blanks),
)
_CHANGES: tuple[tuple[str, Callable[[str, str], int]], ...] = (
    ("takes composed characters apart", _count_parted),
    ("replaces characters by others", _count_others),
)
