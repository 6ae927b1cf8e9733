"""Scripts that put no blanks between words, for which metrics over words need another tokenizer."""

import unicodedata
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache

# How Unicode's names of the letters begin.
_UNSPACED = (
    *("CJK ", "HIRAGANA ", "KATAKANA ", "HALFWIDTH KATAKANA ", "BOPOMOFO ", "YI ", "THAI ", "LAO ", "KHMER "),
    *("MYANMAR ", "TIBETAN ", "TAI ", "NEW TAI ", "JAVANESE ", "BALINESE ", "BUGINESE "),
)
# Below this share a text has blanks between its words, and foreign names in it.
_SHARE = 0.1


class WordSpacing(Enum):
    """Whether words are separated by spaces (SPACED), or by nothing in Chinese (HAN) or another script (UNSPACED)."""

    SPACED = "spaced"
    HAN = "han"
    UNSPACED = "unspaced"


@lru_cache(maxsize=1 << 16)
def unspaced(char: str) -> bool:
    """Whether a letter or digit belongs to a script that puts no blanks between words."""
    return unicodedata.name(char, "").startswith(_UNSPACED)


def blanks_of(references: Sequence[Sequence[str]]) -> WordSpacing:
    """How the words of `references` [R][n] are separated: what holds of a tenth of all letters decides."""
    letters = without = han = 0
    for text in (text for file in references for text in file):
        for char in filter(str.isalnum, text):
            letters += 1
            if unspaced(char):
                without += 1
                han += unicodedata.name(char, "").startswith("CJK ")
    if without <= _SHARE * letters:
        return WordSpacing.SPACED
    return WordSpacing.HAN if han > (1 - _SHARE) * without else WordSpacing.UNSPACED
