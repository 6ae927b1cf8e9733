"""Which pieces a vocabulary keeps: trimming one to a corpus, and building a small one from a corpus.

Trimming follows Abdaoui, Pradel and Sigel, *Load What You Need* (2020), but keeps the segmentation of the corpus
exactly as it was. Ids are ordered by falling frequency, so that they compress well.
"""

from __future__ import annotations

import copy
import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import ModelError
from kdcache.text.tokenizer import SPECIAL_NAMES, Tokenizer

SCRATCH_PIECES = 8_000
_SPECIAL_PIECES = dict(zip(SPECIAL_NAMES, ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"), strict=True))
_PREFIX = "##"
_WORD_CHARACTERS = 100
_LINES = 4_096


def trim(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[Tokenizer, npt.NDArray[np.int64]]:
    """Cut a WordPiece vocabulary down to what `texts` need.

    Kept are the special tokens, every piece that the texts use, every single-character piece of the characters in
    them, and, for each word that became the unknown token, the pieces that the greedy search had matched before it
    failed: without them a shorter piece would match there, and the word would suddenly be spelled. So `texts` are
    segmented as before. New ids: special tokens first, then by falling frequency, then added tokens that stand
    outside the vocabulary, which the backend numbers after it.

    Returns:
        The new tokenizer and, for each new id, the old one: int64 [kept].

    Raises:
        ModelError: the tokenizer is not WordPiece, or its post-processor is of an unknown kind.
    """
    if tokenizer.kind != "WordPiece":
        raise ModelError(f"Only WordPiece vocabularies can be trimmed, this one is {tokenizer.kind}.")
    counts, unknown = _usage(tokenizer, texts)
    vocabulary: dict[str, int] = tokenizer.definition["model"]["vocab"]
    prefix = _prefix(tokenizer)
    pieces = {piece for piece, old in vocabulary.items() if counts[old]}
    pieces.update(chain.from_iterable(matched_before_failure(word, tokenizer) for word in unknown))
    characters = set().union(*(piece.removeprefix(prefix) for piece in pieces), *unknown)
    pieces.update(piece for char in characters for piece in (char, prefix + char) if piece in vocabulary)
    added = {token["content"]: int(token["id"]) for token in tokenizer.definition["added_tokens"]}
    outside = [old for content, old in added.items() if content not in vocabulary]
    special = sorted((set(added.values()) | _special_ids(tokenizer)) - set(outside))
    rest = {vocabulary[piece] for piece in pieces} - set(special)
    kept = [*special, *sorted(rest, key=lambda old: (-counts[old], old)), *outside]
    return Tokenizer(_renumbered(tokenizer.definition, kept), tokenizer.names), np.array(kept, dtype=np.int64)


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    special = tokenizer.special
    return {special.pad, special.unk, special.mask, special.start, special.end, *special.joint}


def _usage(tokenizer: Tokenizer, texts: Iterable[str]) -> tuple[npt.NDArray[np.int64], set[str]]:
    """How often each id occurs, int64 [vocabulary], and the words that became the unknown token."""
    counts = np.zeros(tokenizer.size, dtype=np.int64)
    unknown: set[str] = set()
    iterator = iter(texts)
    while lines := list(islice(iterator, _LINES)):
        encoded = tokenizer.encode(lines)
        flat = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
        counts += np.bincount(flat, minlength=tokenizer.size)
        for line, ids in zip(lines, encoded, strict=True):
            if tokenizer.special.unk in ids:
                unknown.update(_unknown_words(tokenizer, line))
    return counts, unknown


def _unknown_words(tokenizer: Tokenizer, line: str) -> set[str]:
    encoding = tokenizer.backend.encode(line, add_special_tokens=False)
    spans = [span for token, span in zip(encoding.ids, encoding.offsets, strict=True) if token == tokenizer.special.unk]
    return {word for start, stop in spans for word in words(tokenizer, line[start:stop])}


def words(tokenizer: Tokenizer, text: str) -> list[str]:
    """The words that the tokenizer splits `text` into before it cuts them into pieces."""
    normalizer, splitter = tokenizer.backend.normalizer, tokenizer.backend.pre_tokenizer
    normal = normalizer.normalize_str(text) if normalizer else text
    return [word for word, _ in splitter.pre_tokenize_str(normal)] if splitter else [normal]


def matched_before_failure(word: str, tokenizer: Tokenizer) -> list[str]:
    """The pieces that greedy longest-match-first finds in `word`, up to its end or to where nothing matches."""
    model = tokenizer.definition["model"]
    vocabulary, prefix = model["vocab"], _prefix(tokenizer)
    pieces: list[str] = []
    start = 0
    if len(word) > model.get("max_input_chars_per_word", _WORD_CHARACTERS):
        return pieces
    while start < len(word):
        lead = prefix if start else ""
        stop = next((end for end in range(len(word), start, -1) if lead + word[start:end] in vocabulary), None)
        if stop is None:
            break
        pieces.append(lead + word[start:stop])
        start = stop
    return pieces


def _prefix(tokenizer: Tokenizer) -> str:
    """What marks a piece that continues a word."""
    return str(tokenizer.definition["model"].get("continuing_subword_prefix", _PREFIX))


def _renumbered(definition: dict[str, Any], kept: list[int]) -> dict[str, Any]:
    """A copy of `definition` whose id i is what was `kept[i]`, in the vocabulary and wherever else ids stand."""
    new_id = {old: new for new, old in enumerate(kept)}
    result = copy.deepcopy(definition)
    vocabulary = result["model"]["vocab"]
    ordered = sorted((new_id[old], piece) for piece, old in vocabulary.items() if old in new_id)
    result["model"]["vocab"] = {piece: new for new, piece in ordered}
    for token in result["added_tokens"]:
        token["id"] = new_id[token["id"]]
    processor = result.get("post_processor") or {}
    match processor.get("type"):
        case "TemplateProcessing":
            for token in processor["special_tokens"].values():
                token["ids"] = [new_id[old] for old in token["ids"]]
        case "BertProcessing" | "RobertaProcessing":
            for end in ("sep", "cls"):
                processor[end][1] = new_id[processor[end][1]]
        case other:
            raise ModelError(f"The ids in a tokenizer's post-processor of type {other} cannot be rewritten.")
    return result


def from_corpus(texts: Iterable[str], size: int = SCRATCH_PIECES) -> Tokenizer:
    """Build a cased WordPiece tokenizer of at most about `size` pieces from `texts`, the same in every process.

    The pieces are those of byte-pair encoding over characters (Sennrich, Haddow and Birch 2016): all characters, then
    what the most frequent neighbours merge into, ties broken by the alphabet.
    """
    bare = Tokenizer(_definition([]), _SPECIAL_PIECES)
    counts: Counter[str] = Counter()
    lines: list[str] = []
    for text in texts:
        lines.append(text)
        # Longer words are unknown to the tokenizer anyway, and merging within them would take for ever.
        counts.update(word for word in words(bare, text) if len(word) <= _WORD_CHARACTERS)
    full = Tokenizer(_definition(learn_pieces(counts, size)), _SPECIAL_PIECES)
    return trim(full, lines)[0]


def learn_pieces(counts: Counter[str], size: int) -> list[str]:
    """Merge the most frequent neighbouring pieces of the counted words until there are `size` or none occurs twice."""
    spelled = [[word[0], *(_PREFIX + char for char in word[1:])] for word in sorted(counts)]
    weights = [counts[word] for word in sorted(counts)]
    pieces = dict.fromkeys(sorted(set(chain.from_iterable(spelled))))
    tally: Counter[tuple[str, str]] = Counter()
    places: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
    for index, word in enumerate(spelled):
        for pair in pairwise(word):
            tally[pair] += weights[index]
            places[pair].add(index)
    queue = [(-count, pair) for pair, count in tally.items()]
    heapq.heapify(queue)
    while queue and len(pieces) < size:
        count, pair = heapq.heappop(queue)
        if -count != tally[pair]:
            continue  # an outdated entry; the current one is in the queue too
        if -count < 2:
            break
        merged = pair[0] + pair[1].removeprefix(_PREFIX)
        pieces[merged] = None
        for changed in _merge(pair, merged, spelled, weights, tally, places):
            heapq.heappush(queue, (-tally[changed], changed))
    return list(pieces)


def _merge(
    pair: tuple[str, str],
    merged: str,
    spelled: list[list[str]],
    weights: list[int],
    tally: Counter[tuple[str, str]],
    places: defaultdict[tuple[str, str], set[int]],
) -> set[tuple[str, str]]:
    """Replace `pair` by `merged` in every word that has it; return the neighbours whose tally changed."""
    changed: set[tuple[str, str]] = set()
    for index in places.pop(pair):
        before = spelled[index]
        after: list[str] = []
        for piece in before:
            if after and (after[-1], piece) == pair:
                after[-1] = merged
            else:
                after.append(piece)
        for neighbours, sign in ((pairwise(before), -1), (pairwise(after), 1)):
            for neighbour in neighbours:
                tally[neighbour] += sign * weights[index]
                changed.add(neighbour)
        for neighbour in pairwise(after):
            places[neighbour].add(index)
        spelled[index] = after
    return changed


def _definition(pieces: list[str]) -> dict[str, Any]:
    """The `tokenizer.json` of a cased BERT with these pieces after the special ones."""
    vocabulary = {piece: i for i, piece in enumerate(dict.fromkeys([*_SPECIAL_PIECES.values(), *pieces]))}
    start, end = _SPECIAL_PIECES["cls_token"], _SPECIAL_PIECES["sep_token"]
    added = [
        {"id": vocabulary[piece], "content": piece, "special": True}
        | dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
        for piece in _SPECIAL_PIECES.values()
    ]
    first = [_special(start, 0), {"Sequence": {"id": "A", "type_id": 0}}, _special(end, 0)]
    second = [{"Sequence": {"id": "B", "type_id": 1}}, _special(end, 1)]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": False,
            "lowercase": False,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": first,
            "pair": first + second,
            "special_tokens": {t: {"id": t, "ids": [vocabulary[t]], "tokens": [t]} for t in (start, end)},
        },
        "decoder": {"type": "WordPiece", "prefix": _PREFIX, "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": _SPECIAL_PIECES["unk_token"],
            "continuing_subword_prefix": _PREFIX,
            "max_input_chars_per_word": _WORD_CHARACTERS,
            "vocab": vocabulary,
        },
    }


def _special(piece: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": piece, "type_id": segment}}
