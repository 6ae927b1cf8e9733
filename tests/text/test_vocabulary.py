"""Trimming a vocabulary without changing the segmentation of its corpus, and making one from a corpus."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import pytest
from conftest import ROOT
from hypothesis import example, given, settings
from hypothesis import strategies as st
from texts import NAMES, SPECIAL, bert_tokenizer
from tokenizers import ByteLevelBPETokenizer, processors

from kdcache.errors import ModelError
from kdcache.text.tokenizer import Tokenizer
from kdcache.text.vocabulary import from_corpus, learn_pieces, trim, words


def definition(
    pieces: list[str], added: Sequence[tuple[str, bool]] = (), lowercase: bool = False, longest: int = 8
) -> Any:
    """A WordPiece tokenizer in which special tokens lie among the `pieces`, as in published vocabularies."""
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    specials = [{"id": vocabulary[piece], "content": piece, "special": True, **flags} for piece in SPECIAL]
    outside = {content: len(pieces) + i for i, (content, _) in enumerate(a for a in added if a[0] not in vocabulary)}
    more = [
        {
            "id": (vocabulary | outside)[content],
            "content": content,
            "special": special,
            **flags,
            "normalized": lowercase,
        }
        for content, special in added
    ]
    tokens = sorted([*specials, *more], key=lambda token: int(token["id"]))
    normalizer = {"clean_text": True, "handle_chinese_chars": True, "lowercase": lowercase, "strip_accents": None}
    return bert_tokenizer(vocabulary, tokens, normalizer, longest)


def template(bare: dict[str, Any]) -> dict[str, Any]:
    """The same tokenizer with its two texts joined by a template."""
    result = copy.deepcopy(bare)
    ids = {name: bare["post_processor"][key][1] for key, name in (("cls", "[CLS]"), ("sep", "[SEP]"))}
    single: list[Any] = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    single.append({"SpecialToken": {"id": "[SEP]", "type_id": 0}})
    second = [{"Sequence": {"id": "B", "type_id": 1}}, {"SpecialToken": {"id": "[SEP]", "type_id": 1}}]
    result["post_processor"] = {
        "type": "TemplateProcessing",
        "single": single,
        "pair": single + second,
        "special_tokens": {name: {"id": name, "ids": [i], "tokens": [name]} for name, i in ids.items()},
    }
    return result


def pieces_of(tokenizer: Tokenizer, text: str) -> list[str]:
    return [tokenizer.piece(i) for i in tokenizer.encode([text])[0]]


def unmarked(tokenizer: Tokenizer, text: str) -> list[str]:
    """The pieces without the marks of joined words."""
    return [piece.removeprefix(tokenizer.join_mark) for piece in pieces_of(tokenizer, text)]


STEMS = [*("".join(chars) for n in (1, 2, 3) for chars in product("abc", repeat=n)), ".", "中", "B"]
PIECES = st.lists(st.sampled_from([*STEMS, *(f"##{stem}" for stem in STEMS)]), unique=True, max_size=25)
TEXT = st.text("aabbccdB. 中", max_size=14)
ADDED = st.lists(
    st.tuples(st.sampled_from(["ab", "cab", "<x>", "d"]), st.booleans()), max_size=3, unique_by=lambda t: t[0]
)


@settings(deadline=None, max_examples=150)
@given(
    PIECES.flatmap(lambda pieces: st.permutations([*pieces, *SPECIAL])),
    st.lists(TEXT, max_size=6),
    ADDED,
    st.booleans(),
)
@example(["ab", "a", "##bc", "##c", *SPECIAL], ["abd abc", "a"], [], False)
def test_trimming_keeps_the_segmentation(
    pieces: list[str], texts: list[str], added: list[tuple[str, bool]], lowercase: bool
) -> None:
    """For any vocabulary and any texts: same pieces for each text, unknown words stay so, ids in their order.

    Words longer than the old limit are spelled and joined words marked, so that known text comes back, except where
    one added token is part of another that is special.
    """
    full = Tokenizer(definition(pieces, added, lowercase), NAMES)
    trimmed, kept, _ = trim(full, texts)
    spelled = Tokenizer(definition(pieces, added, lowercase, longest=1_000), NAMES) if trimmed.join_mark else full
    for text in texts:
        assert unmarked(trimmed, text) == pieces_of(spelled, text), text
        if trimmed.join_mark and "[UNK]" not in pieces_of(trimmed, text):
            plain = " ".join(text.lower().split() if lowercase else text.split())
            assert trimmed.decode(trimmed.encode([text])[0]) == plain
    names = [trimmed.piece(new) for new in range(trimmed.size)]
    assert [name.removeprefix(trimmed.join_mark) for name in names] == [full.piece(int(old)) for old in kept]
    assert len(set(names)) == len(kept) == trimmed.size
    counts = Counter(i for ids in trimmed.encode(texts) for i in ids)
    inside = [i for i, name in enumerate(names) if name in trimmed.definition["model"]["vocab"]]
    contents = {content for content, special in added if special or not trimmed.join_mark} | set(SPECIAL)
    special = [i for i in inside if names[i] in contents]
    assert special == list(range(len(special)))
    frequencies = [counts[i] for i in inside[len(special) :]]
    assert frequencies == sorted(frequencies, reverse=True)
    characters = {char for text in texts for word in words(full, text) for char in word}
    for char in characters:
        for form in ("", "##"):
            assert (form + char in trimmed.backend.get_vocab()) >= (form + char in pieces)
        assert (trimmed.join_mark + char in trimmed.backend.get_vocab()) >= (char in set(pieces) - contents)
    for one in ("pad", "unk", "mask", "start", "end"):
        assert kept[getattr(trimmed.special, one)] == getattr(full.special, one)


def test_an_unknown_word_stays_unknown_by_keeping_what_failed() -> None:
    """The word abc is unknown since ab matches first; without ab it would become a ##bc, so ab is kept."""
    full = Tokenizer(definition(["ab", "a", "##bc", "b", "aa", *SPECIAL]), NAMES)
    texts = ["abc", "a", "abx"]
    assert [pieces_of(full, text) for text in texts] == [["[UNK]"], ["a"], ["[UNK]"]]
    trimmed, *_ = trim(full, texts)
    assert [pieces_of(trimmed, text) for text in texts] == [["[UNK]"], ["a"], ["[UNK]"]]
    assert {"ab", "a", "b"} <= set(trimmed.backend.get_vocab())
    assert "aa" not in trimmed.backend.get_vocab()


def test_ids_by_hand() -> None:
    """Special tokens come first in their old order, then pieces by falling frequency, ties by their old id."""
    full = Tokenizer(
        definition(["dog", "[UNK]", "cat", "[CLS]", "##s", "[SEP]", "the", "[PAD]", "cow", "[MASK]"]), NAMES
    )
    trimmed, kept, _ = trim(full, ["the cats", "the dog", "the dogs", "dog"])
    assert kept.tolist() == [1, 3, 5, 7, 9, 0, 6, 4, 2]
    assert trimmed.definition["model"]["vocab"] == {
        piece: i for i, piece in enumerate(["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "dog", "the", "##s", "cat"])
    }
    assert full.definition["model"]["vocab"]["dog"] == 0


@pytest.mark.parametrize("kind", ["BertProcessing", "TemplateProcessing"])
def test_post_processor_ids_are_rewritten(kind: str) -> None:
    """The library's own encoding of one text and of two puts the new ids around and between them."""
    bare = definition(["dog", "[UNK]", "cat", "[CLS]", "[SEP]", "the", "[PAD]", "cow", "[MASK]"])
    full = Tokenizer(bare if kind == "BertProcessing" else template(bare), NAMES)
    trimmed, *_ = trim(full, ["cat dog cat"])
    assert trimmed.definition["post_processor"]["type"] == kind
    special = trimmed.special
    assert trimmed.backend.encode("cat").ids == [special.start, 5, special.end]
    assert trimmed.backend.encode("cat", "dog").ids == [special.start, 5, special.end, 6, special.end]
    assert trimmed.backend.encode("cat", "dog").tokens == ["[CLS]", "cat", "[SEP]", "dog", "[SEP]"]


def test_added_tokens_outside_the_vocabulary_get_the_last_ids() -> None:
    """Tokens that were added to a finished vocabulary keep a row of their own, which no piece shares.

    Where joined words are marked, those that are not special are pieces like others, with a marked twin.
    """
    bare = definition(["dog", "cat", *SPECIAL, "##s"], [("<user>", True), ("covid", False)])
    full = Tokenizer({**bare, "pre_tokenizer": {"type": "Whitespace"}}, NAMES)
    texts = ["covid dogs dog", "covid covid"]
    assert full.encode(texts) == [[9, 0, 7, 0], [9, 9]]
    trimmed, kept, _ = trim(full, texts)
    assert kept.tolist() == [2, 3, 4, 5, 6, 0, 7, 8, 9]
    assert trimmed.encode(texts) == [[8, 5, 6, 5], [8, 8]]
    assert sorted(trimmed.backend.get_vocab().values()) == list(range(9))
    marked, kept, _ = trim(Tokenizer(bare, NAMES), texts)
    assert kept.tolist() == [2, 3, 4, 5, 6, 9, 0, 7, 9, 8]
    assert marked.encode(texts) == [[5, 6, 7, 6], [5, 5]]
    assert [marked.piece(i) for i in (5, 8, 9)] == ["covid", "￭covid", "<user>"]


def test_what_cannot_be_trimmed_is_refused() -> None:
    """A vocabulary of another kind, or a post-processor that kdcache cannot rewrite, is refused with its name."""
    trained = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator(["a dog"], special_tokens=special, show_progress=False)
    trained.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = dict(zip(NAMES, ("<pad>", "<unk>", "<mask>", "<s>", "</s>"), strict=True))
    with pytest.raises(ModelError, match="this one is BPE"):
        trim(Tokenizer(json.loads(trained.to_str()), names), ["a dog"])
    bare = template(definition(["dog", *SPECIAL]))
    bare["post_processor"] = {"type": "Sequence", "processors": [bare["post_processor"]]}
    with pytest.raises(ModelError, match="post-processor of type Sequence"):
        trim(Tokenizer(bare, NAMES), ["dog"])


def naive_pieces(counts: Counter[str], size: int) -> list[str]:
    """Byte-pair encoding over characters by counting everything anew for every merge."""
    spelled = {word: [word[0], *(f"##{char}" for char in word[1:])] for word in counts}
    pieces = sorted({piece for parts in spelled.values() for piece in parts})
    while len(pieces) < size:
        tally: Counter[tuple[str, str]] = Counter()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                tally[pair] += counts[word]
        best = min(tally, key=lambda pair: (-tally[pair], pair), default=None)
        if best is None or tally[best] < 2:
            break
        merged = best[0] + best[1][2:]
        if merged not in pieces:
            pieces.append(merged)
        for word, parts in spelled.items():
            i, after = 0, []
            while i < len(parts):
                hit = tuple(parts[i : i + 2]) == best
                after.append(merged if hit else parts[i])
                i += 2 if hit else 1
            spelled[word] = after
    return pieces


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=7), st.integers(1, 4), max_size=6), st.integers(1, 30))
def test_pieces_equal_those_of_naive_merging(counts: dict[str, int], size: int) -> None:
    """The bookkeeping of changed neighbours finds what recounting everything finds, in the same order."""
    assert learn_pieces(Counter(counts), size) == naive_pieces(Counter(counts), size)


def test_pieces_by_hand() -> None:
    """{aab: 2, ab: 3}: a+b (3 times) first, then ##a+##b before a+##a (2 each, by the alphabet), then a+##ab."""
    counts = Counter({"aab": 2, "ab": 3})
    start = ["##a", "##b", "a"]
    assert learn_pieces(counts, 100) == [*start, "ab", "##ab", "aab"]
    assert learn_pieces(counts, 4) == [*start, "ab"]
    assert learn_pieces(Counter({"abc": 1}), 100) == ["##b", "##c", "a"]


def test_vocabulary_is_the_same_in_every_process() -> None:
    """Two fresh processes with different hash seeds make the same vocabulary from the same text."""
    code = """
from kdcache.text.vocabulary import from_corpus
lines = [f"wort{i % 7}er und satz{i % 5}e, mit {'abcdefgh'[i % 8] * (i % 4 + 1)} {i}." for i in range(300)]
tokenizer = from_corpus(lines, 90)
print(tokenizer.fingerprint, tokenizer.size)
"""
    found = set()
    for seed in ("0", "1", "4711"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", code]
        found.add(subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout)
    assert len(found) == 1


def test_vocabulary_from_text_spells_all_of_it() -> None:
    """A vocabulary made from a text has no unknown piece in it, keeps case, and gives the words back."""
    lines = ["Der Mann läuft.", "Die Frau läuft nach Hause!", "12 Männer"]
    tokenizer = from_corpus(lines)
    assert all(tokenizer.special.unk not in ids for ids in tokenizer.encode(lines))
    assert tokenizer.decode(tokenizer.encode(lines)[1]) == "Die Frau läuft nach Hause!"
    assert [tokenizer.piece(i) for i in range(5)] == list(SPECIAL)
    counts = Counter(i for ids in tokenizer.encode(lines) for i in ids)
    frequencies = [counts[i] for i in range(5, tokenizer.size)]
    assert frequencies == sorted(frequencies, reverse=True)
    assert frequencies[0] == 2


def test_fault_51_an_endless_word_does_not_enter_the_vocabulary() -> None:
    """A word beyond what the tokenizer accepts takes no piece from the others, and is unknown."""
    tokenizer = from_corpus(["xy" * 50_000, "ab ab ab"], size=3)
    assert pieces_of(tokenizer, "ab") == ["ab"]
    assert pieces_of(tokenizer, "xy" * 51) == ["[UNK]"]
