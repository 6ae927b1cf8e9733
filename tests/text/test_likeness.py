"""Exchanged sides and foreign text are noticed, and ordinary text is not, on the demo's text and on real corpora."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kdcache.data import CORPUS

from kdcache.text import vocabulary
from kdcache.text.corpus import Corpus, Pair, TextFiles
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.likeness import compare_texts, text_warnings

PAIRS = 1_000


def pairs_of(folder: Path, part: str) -> list[Pair]:
    corpus = Corpus(TextFiles(str(folder / f"{part}.src"), str(folder / f"{part}.tgt")), skip_bad=True)
    return [pair for pair in itertools.islice(corpus.read(), PAIRS) if pair is not None]


def exchanged(pairs: EncodedPairs) -> EncodedPairs:
    return EncodedPairs(pairs.target_ids, pairs.target_offsets, pairs.source_ids, pairs.source_offsets)


@pytest.fixture(params=["demo", "multi30k_de-en", "reuters_headline"])
def folders(request: pytest.FixtureRequest) -> tuple[Path, Path]:
    """A corpus, and one of other languages or of another kind."""
    if request.param == "demo":
        return CORPUS, CORPUS
    multi30k: Path = request.getfixturevalue("multi30k")
    return multi30k.parent / request.param, CORPUS


def test_fault_62_swapped_sides_and_foreign_validation_text(folders: tuple[Path, Path]) -> None:
    """Held-out text of the corpus is ordinary; with its sides exchanged, or from elsewhere, it is called so."""
    folder, other = folders
    train, valid = pairs_of(folder, "train"), pairs_of(folder, "valid" if folder == CORPUS else "val")
    tokenizer = vocabulary.from_corpus(text for pair in train for text in (pair.source, pair.target))
    parts, held_out = [tokenizer.encode_pairs(train)], tokenizer.encode_pairs(valid)
    assert compare_texts(parts, held_out, tokenizer.size, "validation text") is None
    assert "seem to be exchanged" in (compare_texts(parts, exchanged(held_out), tokenizer.size, "text") or "")
    if folder == other:
        # English, where the demo's languages are invented.
        foreign = [Pair("The dog runs over the field.", "A dog runs."), Pair("Two men sing.", "There is a song.")]
    else:
        foreign = pairs_of(other, "valid")
    found = compare_texts(parts, tokenizer.encode_pairs(foreign), tokenizer.size, "validation text")
    assert found is not None
    assert "Is it of another kind or language?" in found


def few(lengths: tuple[int, int], ids: tuple[int, int], vocabulary: int = 8) -> EncodedPairs:
    """Four pairs that repeat one id on either side."""
    offsets = [np.arange(5, dtype=np.int64) * length for length in lengths]
    values = [np.full(4 * length, one, dtype=np.int32) for length, one in zip(lengths, ids, strict=True)]
    return EncodedPairs(values[0], offsets[0], values[1], offsets[1])


def test_the_distance_is_that_of_single_pieces() -> None:
    """8 pieces in half of the pairs of one id: its probability is 8.1/8.8, that of another 0.1/8.8, so log 81 apart."""
    trained = few((4, 4), (1, 2))
    assert compare_texts([trained], few((4, 4), (1, 2)), 8, "text") is None
    found = compare_texts([trained], few((4, 4), (1, 3)), 8, "text")
    assert found is not None
    assert f"The target of the text is unlike that of the training text (by {np.log(81):.1f} nats" in found
    assert "exchanged" in (compare_texts([trained], few((4, 4), (2, 1)), 8, "text") or "")
    # Where both sides are the same, nothing can be exchanged; where nothing is left, nothing is compared.
    assert compare_texts([few((4, 4), (1, 1))], few((4, 4), (1, 1)), 8, "text") is None
    nothing = replace(trained, target_ids=trained.target_ids[:0], target_offsets=trained.target_offsets * 0)
    assert compare_texts([trained], nothing, 8, "text") is None


@pytest.mark.parametrize(("most", "warned"), [(7, True), (8, False), (4_096, False)])
def test_fault_62_batches_below_one_pair(most: int, warned: bool) -> None:
    """Pairs of 5 + 3 tokens do not fit into 7: a step would learn from one pair, which is said."""
    found = text_warnings([few((5, 3), (1, 2))], None, 8, most)
    assert [f"--max-tokens {most} is less than a pair has (about 8 tokens)" in one for one in found] == [True] * warned
