"""Marks for words that no blank parts from the word before, so that decoding gives a text its blanks back.

BERT's pre-tokenizer splits at punctuation and around every Chinese character, and its decoder puts a blank wherever
two words meet: "don't" comes back as "don ' t". Here the second word of such a split bears a mark, as in OpenNMT's
joiner annotation: "don ￭' ￭t". A marked piece is a piece of its own with the row of its unmarked twin, so the splits,
the number of pieces and the vectors that a pretrained model reads stay as they were.
"""

import copy
import functools
import re
import sys
import unicodedata
from itertools import chain, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.text.tokenizer import Tokenizer, renumbered

# A longer word is one unknown piece: the time that WordPiece takes for a word grows with the cube of its length.
WORD_CHARACTERS = 1_000
_PREFIX = "##"
# What stands for a mark that the text itself holds.
_REPLACEMENT = "■"
# Around these BertNormalizer puts blanks (the gap from 2B820 to 2B91F is the library's).
_CHINESE = "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002b81f\U0002b920-\U0002ceaf"
_CHINESE += "\U0002f800-\U0002fa1f"


def mark_joins(tokenizer: Tokenizer) -> tuple[Tokenizer, npt.NDArray[np.int64]]:
    """Give every piece that can begin a word a marked twin, and make the tokenizer use and undo the marks.

    Added tokens that are not special become ordinary pieces, around which words are split.

    Returns:
        The new tokenizer and, for each of its ids, the old id whose row it takes: int64 [size]. A tokenizer that does
        not split words as BERT does, or one of whose added tokens is part of another that stays one, comes back as it
        is.
    """
    added = {str(token["content"]): int(token["id"]) for token in tokenizer.definition["added_tokens"]}
    words = {content: word for content in added if (word := _word(content, tokenizer))}
    fixed = added.keys() - words
    ambiguous = any(word in content for word in words.values() for content in fixed)
    splits = tokenizer.definition.get("pre_tokenizer") == {"type": "BertPreTokenizer"}
    if tokenizer.kind != "WordPiece" or not splits or ambiguous:
        return tokenizer, np.arange(tokenizer.size, dtype=np.int64)
    inside = tokenizer.definition["model"]["vocab"] | {word: added[content] for content, word in words.items()}
    used = set(chain.from_iterable(inside))
    mark = next(sign for sign in chain("￭￮", map(chr, range(0xE000, sys.maxunicode))) if sign not in used)
    prefix = str(tokenizer.definition["model"].get("continuing_subword_prefix", _PREFIX))
    first = [piece for piece in inside if piece not in fixed and not piece.startswith(prefix)]
    # The backend numbers tokens outside the vocabulary after it.
    rows = sorted(set(inside.values()))
    outside = sorted(added[content] for content in fixed - inside.keys())
    new_id = {old: new for new, old in enumerate(rows)}
    new_id |= {old: new for new, old in enumerate(outside, len(rows) + len(first))}
    definition = copy.deepcopy(tokenizer.definition)
    definition["model"]["vocab"] = inside
    # What the normalizer makes of an added token that stays one must not hold marks.
    tokens = [token | {"normalized": False} for token in definition["added_tokens"] if token["content"] in fixed]
    definition = renumbered(definition | {"added_tokens": tokens}, new_id)
    twins = {mark + piece: len(rows) + i for i, piece in enumerate(first)}
    definition["model"]["vocab"] |= twins
    _use_marks(definition, mark, prefix, sorted(words.values()))
    origin = np.array([*rows, *(inside[piece] for piece in first), *outside], dtype=np.int64)
    return Tokenizer(definition, tokenizer.names), origin


def _use_marks(definition: dict[str, Any], mark: str, prefix: str, words: list[str]) -> None:
    """Make a `tokenizer.json` put marks in where BERT and `words` split without a blank, and take them out again."""
    # A mark takes the place of one character.
    longest = definition["model"].get("max_input_chars_per_word", 0) + 1
    definition["model"]["max_input_chars_per_word"] = max(WORD_CHARACTERS, longest)
    steps = [normalizer] if (normalizer := definition.get("normalizer")) else []
    chinese = sum(map(_leave_chinese, steps)) > 0
    joint = {"Regex": _joint(_punctuation() + _CHINESE * chinese, words)}
    steps = [_replace({"String": mark}, _REPLACEMENT), *steps, _replace(joint, f" {mark}")]
    definition["normalizer"] = {"type": "Sequence", "normalizers": steps}
    definition["pre_tokenizer"] = {"type": "WhitespaceSplit"}
    pieces = {"type": "WordPiece", "prefix": prefix, "cleanup": False}
    # The first word of a text bears a mark only where a model wrote it.
    unmark = [_replace({"String": text}, "") for text in (f" {mark}", mark)]
    definition["decoder"] = {"type": "Sequence", "decoders": [pieces, *unmark]}


def _word(content: str, tokenizer: Tokenizer) -> str:
    """The word that an added token is in normalized text; empty if it is special or can be told only before that."""
    (token,) = (token for token in tokenizer.definition["added_tokens"] if token["content"] == content)
    normalizer = tokenizer.backend.normalizer
    word = "".join((normalizer.normalize_str(content) if normalizer else content).split())
    flags = any(token.get(flag) for flag in ("special", "single_word", "lstrip", "rstrip"))
    if flags or content in tokenizer.names.values() or not (token["normalized"] or word == content):
        return ""
    return word if len(content.split()) == 1 else ""


def _leave_chinese(step: dict[str, Any]) -> bool:
    """Switch blanks around Chinese characters off in a normalizer; return whether they were on."""
    if step["type"] == "Sequence":
        return sum(map(_leave_chinese, step["normalizers"])) > 0
    before = step["type"] == "BertNormalizer" and bool(step.get("handle_chinese_chars", True))
    if before:
        step["handle_chinese_chars"] = False
    return before


def _joint(separators: str, words: list[str]) -> str:
    """A pattern for each place without a blank where a character of the class `separators`, or a word, stands alone."""
    alone = [f"[{separators}]", *map(re.escape, words)]
    beside = "|".join(f"(?<={one})|(?={one})" for one in alone)
    inside = "".join(
        f"(?!(?<={re.escape(word[:i])})(?={re.escape(word[i:])}))" for word in words for i in range(1, len(word))
    )
    return rf"(?<=\S)(?=\S)(?:{beside}){inside}"


def _replace(pattern: dict[str, str], content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": pattern, "content": content}


@functools.cache
def _punctuation() -> str:
    """What BertPreTokenizer takes for punctuation, by its own older Unicode, as ranges of a pattern's class."""
    from tokenizers.pre_tokenizers import BertPreTokenizer

    likely = [char for char in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(char)[0] in "PS"]
    split = BertPreTokenizer().pre_tokenize_str(" ".join(f"b{char}b" for char in likely))
    found = sorted({ord(word) for word, _ in split if len(word) == 1} - {ord("b")})
    starts = [code for before, code in pairwise([-1, *found]) if code != before + 1]
    ends = [code for code, after in pairwise([*found, -1]) if after != code + 1]
    return "".join(f"{re.escape(chr(a))}-{re.escape(chr(b))}" for a, b in zip(starts, ends, strict=True))
