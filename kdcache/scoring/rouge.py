"""ROUGE for any script: rouge-score's measure (Lin 2004) over a tokenizer that suits the references.

rouge-score's own tokenizer knows a–z and 0–9 only and drops every other letter, which makes Russian score 0 and German
"für" two words. Where the references need more, words are runs of letters, marks and digits of any script, and in
scripts that put no blanks between words every character is one.

A text is one line, so where it has several sentences `<n>` stands between them, as summarizers write it; ROUGE-Lsum
compares sentence by sentence, and no kind counts the mark as a word.
"""

import importlib.metadata
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import UsageError
from kdcache.scoring.score_config import ROUGE
from kdcache.scoring.scripts import unspaced

SENTENCE_MARK = "<n>"
# Above this share of foreign letters the published a–z tokenizer is left. English with a few names stays below.
FOREIGN_SHARE = 0.005
_ASCII = frozenset("abcdefghijklmnopqrstuvwxyz0123456789")


class UnicodeTokenizer:
    """Words of any script, lower-cased; the interface that rouge-score expects of a tokenizer."""

    def tokenize(self, text: str) -> list[str]:
        """Split `text` into words."""
        return "".join(map(_spaced, unicodedata.normalize("NFC", text).lower())).split()


@lru_cache(maxsize=1 << 16)
def _spaced(char: str) -> str:
    """The character as it goes into a word, with blanks where words end."""
    match unicodedata.category(char)[0]:
        case "M":
            return char
        case "L" | "N":
            return f" {char}" if unspaced(char) else char
        case _:
            return " "


def needs_unicode(references: Sequence[Sequence[str]]) -> bool:
    """Whether the a–z tokenizer would lose a whole reference, or more than FOREIGN_SHARE of all their letters."""
    letters = foreign = 0
    for text in (text for file in references for text in file):
        word_chars = [char for char in text.lower() if char.isalnum()]
        outside = sum(char not in _ASCII for char in word_chars)
        if word_chars and outside == len(word_chars):
            return True
        letters += len(word_chars)
        foreign += outside
    return foreign > FOREIGN_SHARE * letters


def signature(references: Sequence[Sequence[str]], kinds: Sequence[str]) -> str:
    """How `kinds` of ROUGE are computed against `references`, in the manner of sacreBLEU's signatures.

    Raises:
        UsageError: ROUGE-Lsum is asked for, and no reference says where its sentences end.
    """
    marked = any(SENTENCE_MARK in text for file in references for text in file)
    if "rougeLsum" in kinds and not marked:
        raise UsageError(
            f"--metric rougeLsum compares sentence by sentence, and no reference has {SENTENCE_MARK} between its "
            "sentences. Write it there, or use --metric rouge: for single sentences rougeLsum is rougeL."
        )
    tokenizer = "unicode" if needs_unicode(references) else "a-z0-9"
    version = importlib.metadata.version("rouge-score")
    chosen = "one" if len(references) == 1 else "best-f1-per-sentence"
    how = f"case:lc|tok:{tokenizer}|stem:no{f'|split:{SENTENCE_MARK}' if marked else ''}|mean:sentences"
    return f"nrefs:{len(references)}|ref:{chosen}|{how}|rouge-score:{version}"


def sentence_rouge(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], kinds: Sequence[str] = ROUGE["rouge"]
) -> dict[str, npt.NDArray[np.float64]]:
    """Precision, recall and F1 of each text, float64 [n, 3] in 0 … 1, by `kinds` of rouge-score.

    With several references each text counts with the one that gives it the highest F1, kind by kind.
    """
    from rouge_score.rouge_scorer import RougeScorer

    tokenizer = UnicodeTokenizer() if needs_unicode(references) else None
    scorer = RougeScorer(list(kinds), use_stemmer=False, tokenizer=tokenizer)
    found: dict[str, npt.NDArray[np.float64]] = {kind: np.zeros((len(hypotheses), 3)) for kind in kinds}
    for i, texts in enumerate(zip(hypotheses, *references, strict=True)):
        hypothesis, *targets = (text.replace(SENTENCE_MARK, "\n") for text in texts)
        best: dict[str, Any] = scorer.score_multi(targets, hypothesis)
        for kind in kinds:
            found[kind][i] = best[kind].precision, best[kind].recall, best[kind].fmeasure
    return found
