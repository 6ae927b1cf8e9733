"""Which pieces a vocabulary keeps: trimming one to a corpus, and building a small one from a corpus.

Trimming follows Abdaoui, Pradel and Sigel, *Load What You Need* (2020), but keeps the segmentation of the corpus
exactly as it was. Ids are ordered by falling frequency, so that they compress well.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import chain, islice, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import ModelError
from kdcache.text.join_marks import WORD_CHARACTERS, mark_joins
from kdcache.text.tokenizer import SPECIAL_NAMES, Tokenizer, renumbered

SCRATCH_PIECES = 8_000
_SPECIAL_PIECES = dict(zip(SPECIAL_NAMES, ("[PAD]", "[UNK]", "[MASK]", "[CLS]", "[SEP]"), strict=True))
_PREFIX = "##"
# Merging within longer words would take for ever, so they are learned from in parts.
_PART = 100
_LINES = 4_096


def trim(
    tokenizer: Tokenizer, texts: Iterable[str]
) -> tuple[Tokenizer, npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Cut a WordPiece vocabulary down to what `texts` need, with marks for words that were joined (`mark_joins`).

    Kept are the special tokens, every piece that the texts use, every single-character piece of the characters in
    them, and, for each word that became the unknown token, the pieces that the greedy search had matched before it
    failed: without them a shorter piece would match there, and the word would suddenly be spelled. So `texts` are
    segmented as before, except that words longer than the old tokenizer accepted are spelled. New ids: special tokens
    first, then by falling frequency, then added tokens that stand outside the vocabulary, which the backend numbers
    after it.

    Returns:
        The new tokenizer; for each new id, the old one whose row it takes: int64 [kept]; and the natural logarithm of
        its share among the new ids that take the same row, by their frequency in `texts`: float64 [kept].

    Raises:
        ModelError: the tokenizer is not WordPiece, or its post-processor is of an unknown kind.
    """
    if tokenizer.kind != "WordPiece":
        raise ModelError(f"Only WordPiece vocabularies can be trimmed, this one is {tokenizer.kind}.")
    marked, origin = mark_joins(tokenizer)
    counts, unknown = _usage(tokenizer, marked, texts)
    vocabulary: dict[str, int] = marked.definition["model"]["vocab"]
    prefix, mark = _prefix(tokenizer), marked.join_mark
    pieces = {piece for piece, old in vocabulary.items() if counts[old]}
    for found in (matched_before_failure(word, tokenizer) for word in unknown):
        pieces.update([*found, *(mark + piece for piece in found[:1])])
    characters = set().union(*(piece.removeprefix(prefix).removeprefix(mark) for piece in pieces), *unknown)
    pieces.update(form + char for char in characters for form in ("", prefix, mark))
    words_added = {int(token["id"]) for token in tokenizer.definition["added_tokens"]}
    pieces.update(piece for piece, i in vocabulary.items() if int(origin[i]) in words_added)
    added = {token["content"]: int(token["id"]) for token in marked.definition["added_tokens"]}
    outside = [old for content, old in added.items() if content not in vocabulary]
    special = sorted((set(added.values()) | _special_ids(marked)) - set(outside))
    rest = {vocabulary[piece] for piece in pieces & vocabulary.keys()} - set(special)
    kept = [*special, *sorted(rest, key=lambda old: (-counts[old], old)), *outside]
    new_id = {old: new for new, old in enumerate(kept)}
    rows, seen = origin[kept], counts[kept] + 0.5
    shares = np.log(seen / np.bincount(rows, weights=seen)[rows])
    return Tokenizer(renumbered(marked.definition, new_id), tokenizer.names), rows, shares


def _special_ids(tokenizer: Tokenizer) -> set[int]:
    special = tokenizer.special
    return {special.pad, special.unk, special.mask, special.start, special.end, *special.joint}


def _usage(tokenizer: Tokenizer, marked: Tokenizer, texts: Iterable[str]) -> tuple[npt.NDArray[np.int64], set[str]]:
    """How often each id of `marked` occurs, int64 [size], and the words that became the unknown token."""
    counts = np.zeros(marked.size, dtype=np.int64)
    unknown: set[str] = set()
    iterator = iter(texts)
    while lines := list(islice(iterator, _LINES)):
        encoded = marked.encode(lines)
        flat = np.fromiter(chain.from_iterable(encoded), dtype=np.int64)
        counts += np.bincount(flat, minlength=marked.size)
        for line, ids in zip(lines, encoded, strict=True):
            if marked.special.unk in ids:
                before = tokenizer.backend.encode(line, add_special_tokens=False)
                for token, (start, stop) in zip(before.ids, before.offsets, strict=True):
                    if token == tokenizer.special.unk:
                        unknown.update(words(tokenizer, line[start:stop]))
    return counts, unknown


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
    if len(word) > model.get("max_input_chars_per_word", 100):
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
        counts.update(word for word in words(bare, text) if len(word) < WORD_CHARACTERS)
    full = Tokenizer(_definition(learn_pieces(counts, size)), _SPECIAL_PIECES)
    return trim(full, lines)[0]


def learn_pieces(counts: Counter[str], size: int) -> list[str]:
    """Merge the most frequent neighbouring pieces of the counted words until there are `size` or none occurs twice."""
    whole = [([word[0], *(_PREFIX + char for char in word[1:])], counts[word]) for word in sorted(counts)]
    parts = [(word[i : i + _PART], count) for word, count in whole for i in range(0, len(word), _PART)]
    spelled, weights = [part for part, _ in parts], [count for _, count in parts]
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
        lost, won = Counter(pairwise(before)), Counter(pairwise(after))
        # A merge touches few of a long word's neighbours: only those are tallied and queued anew.
        for neighbours in {neighbours for neighbours, _ in lost.items() ^ won.items()}:
            tally[neighbours] += (won[neighbours] - lost[neighbours]) * weights[index]
            changed.add(neighbours)
            if won[neighbours]:
                places[neighbours].add(index)
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
    # BERT removes characters that cannot be seen; this keeps joiners and tags, which Persian or emoji need.
    invisible = r"(?![\s\x{200c}\x{200d}\x{e0020}-\x{e007f}])[\p{C}\x{fffd}]"
    bert = {"clean_text": False, "handle_chinese_chars": True, "strip_accents": False, "lowercase": False}
    normalizers = [
        {"type": "Replace", "pattern": {"Regex": invisible}, "content": ""},
        {"type": "BertNormalizer", **bert},
    ]
    return {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
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
            "max_input_chars_per_word": WORD_CHARACTERS - 1,
            "vocab": vocabulary,
        },
    }


def _special(piece: str, segment: int) -> dict[str, Any]:
    return {"SpecialToken": {"id": piece, "type_id": segment}}
