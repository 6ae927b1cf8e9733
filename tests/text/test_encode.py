"""Whole corpora as ids: nothing is cut, and what does not fit is named or counted."""

from __future__ import annotations

import dataclasses
import gzip
import json
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, processors, trainers

from kdcache.errors import DataError
from kdcache.text.corpus import Corpus, Pair, TextFiles
from kdcache.text.encode_corpus import SECTION_PAIRS, encode_sections, encode_slice
from kdcache.text.encoded_pairs import EncodedPairs, concatenate
from kdcache.text.text_checks import examine
from kdcache.text.tokenizer import Tokenizer
from kdcache.text.vocabulary import from_corpus

WORDS = ["the", "dog", "and", "a", "cat", "run", "to", "an", "old", "park"]


@pytest.fixture(scope="module")
def bert() -> Tokenizer:
    return from_corpus([" ".join(WORDS)] * 2)


@pytest.fixture(scope="module")
def unigram() -> Tokenizer:
    """A Unigram tokenizer joined like RoBERTa: it takes `</s>` in a text for the token itself, whatever is set."""
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    unknown = special[3]
    backend = Backend(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=60, special_tokens=special, unk_token=unknown, initial_alphabet=list("</>s"), show_progress=False
    )
    backend.train_from_iterator([" ".join(WORDS)] * 10, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    names = dict(zip(("cls_token", "pad_token", "sep_token", "unk_token", "mask_token"), special, strict=True))
    return Tokenizer(json.loads(backend.to_str()), names)


def corpus(folder: Path, pairs: list[tuple[str, str]], *, skip_bad: bool = False) -> Corpus:
    path = folder / "x.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return Corpus(TextFiles(pairs=str(path)), skip_bad=skip_bad)


def lists(pairs: EncodedPairs) -> list[tuple[list[int], list[int]]]:
    sides = ((pairs.source_ids, pairs.source_offsets), (pairs.target_ids, pairs.target_offsets))
    return list(zip(*([p.tolist() for p in np.split(ids, o[1:])[:-1]] for ids, o in sides), strict=True))


def expected(tokenizer: Tokenizer, pair: Pair) -> tuple[list[int], list[int]]:
    source, target = tokenizer.encode([pair.source, pair.target])
    return [tokenizer.special.start, *source, tokenizer.special.end], [*target, tokenizer.special.end]


def words(n: int) -> str:
    return " ".join(WORDS[i % len(WORDS)] for i in range(n))


@pytest.mark.parametrize("kind", ["bert", "unigram"])
def test_fault_52_a_pair_that_is_too_long(request: pytest.FixtureRequest, tmp_path: Path, kind: str) -> None:
    """A pair that fills the positions exactly is kept whole; one token more is refused by line, or emptied."""
    tokenizer: Tokenizer = request.getfixturevalue(kind)
    text = corpus(tmp_path, [("dog", "cat"), (words(8), words(9)), ("park", "old dog")])
    source, target = expected(tokenizer, Pair(words(8), words(9)))
    needed = len(source) + len(tokenizer.special.joint) + len(target)
    fits = encode_slice(text, tokenizer, needed, 0, 3, skip_bad=False)
    assert lists(fits)[1] == (source, target)
    message = rf"x\.tsv, line 2: source, target and special tokens take {needed} positions, the model has {needed - 1}"
    with pytest.raises(DataError, match=rf"{message}\..*--skip-bad"):
        encode_slice(text, tokenizer, needed - 1, 0, 3, skip_bad=False)
    with pytest.raises(DataError, match=message):
        encode_slice(text, tokenizer, needed - 1, 1, 3, skip_bad=False)
    skipped = encode_slice(text, tokenizer, needed - 1, 0, 3, skip_bad=True)
    assert lists(skipped) == [lists(fits)[0], ([], []), lists(fits)[2]]


def test_fault_51_skipped_pairs_keep_their_place_and_are_reported(bert: Tokenizer, tmp_path: Path) -> None:
    """Unusable pairs are empty, their neighbours keep their index, and the report counts them."""
    text = corpus(tmp_path, [("dog", "cat"), ("dog", ""), ("no tab", "a\tb"), ("park", "old")], skip_bad=True)
    found = lists(encode_slice(text, bert, 512, 0, 4, skip_bad=True))
    assert found == [expected(bert, Pair("dog", "cat")), ([], []), ([], []), expected(bert, Pair("park", "old"))]
    assert "2 pairs were skipped because they cannot be used (50.0 % of all pairs)" in examine(text, None).lines()


def test_a_side_that_normalises_to_nothing(bert: Tokenizer, tmp_path: Path) -> None:
    """Text of control characters alone, of which the tokenizer leaves nothing, is refused by line or emptied."""
    text = corpus(tmp_path, [("dog", "cat"), ("dog", "\x01\x02")])
    with pytest.raises(DataError, match=r"line 2: nothing is left of a side"):
        encode_slice(text, bert, 512, 0, 2, skip_bad=False)
    assert lists(encode_slice(text, bert, 512, 0, 2, skip_bad=True))[1] == ([], [])


@pytest.mark.parametrize("pair", [("a </s> dog", "cat"), ("dog", "the <mask>"), ("<pad>", "cat"), ("dog", "<s>")])
def test_fault_53_a_tokenizer_that_takes_text_for_a_special_token(
    unigram: Tokenizer, tmp_path: Path, pair: tuple[str, str]
) -> None:
    """Where a literal special token would become the token itself, the line is refused or emptied, never let in."""
    text = corpus(tmp_path, [("dog", "cat"), pair, ("old cat", "park")])
    with pytest.raises(DataError, match=r"line 2: the text spells a special token"):
        encode_slice(text, unigram, 512, 0, 3, skip_bad=False)
    found = lists(encode_slice(text, unigram, 512, 0, 3, skip_bad=True))
    assert found == [expected(unigram, Pair("dog", "cat")), ([], []), expected(unigram, Pair("old cat", "park"))]


def test_fault_53_special_tokens_in_text_are_encoded_as_text(bert: Tokenizer, tmp_path: Path) -> None:
    """With WordPiece, literal special tokens pass: one start and end around a source, one end after a target."""
    pairs = [("[SEP] dog [CLS]", "[MASK] [PAD]"), ("a [MASK]", "cat [SEP]")]
    for source, target in lists(encode_slice(corpus(tmp_path, pairs), bert, 512, 0, 2, skip_bad=False)):
        special = bert.special
        reserved = (special.start, special.end, special.mask, special.pad)
        assert [i for i in source if i in reserved] == [special.start, special.end]
        assert [i for i in target if i in reserved] == [special.end]


def test_sections_cover_the_corpus_in_order(bert: Tokenizer, tmp_path: Path) -> None:
    """Across section boundaries every pair is encoded once, at its index, and errors name the line of the file."""
    n = SECTION_PAIRS + 7
    rows = [(words(i % 5 + 1), words(i % 3 + 1)) for i in range(n)]
    rows[SECTION_PAIRS + 2] = (words(40), "dog")
    text = corpus(tmp_path, rows)
    parts = list(encode_sections(text, bert, 30, skip_bad=True))
    assert [part.n_pairs for part in parts] == [SECTION_PAIRS, 7]
    found = lists(concatenate(parts))
    cache = {row: expected(bert, Pair(*row)) for row in set(rows)}
    assert found == [([], []) if i == SECTION_PAIRS + 2 else cache[row] for i, row in enumerate(rows)]
    with pytest.raises(DataError, match=rf"line {SECTION_PAIRS + 3}: source, target"):
        list(encode_sections(text, bert, 30, skip_bad=False))


def test_real_text_is_encoded_as_transformers_encodes_it(multi30k: Path, tmp_path: Path) -> None:
    """On a thousand real pairs, read from gzip, sources equal what AutoTokenizer gives and nothing is skipped."""
    from transformers import AutoTokenizer

    for side in ("src", "tgt"):
        (tmp_path / f"v.{side}.gz").write_bytes(gzip.compress((multi30k / f"val.{side}").read_bytes()))
    text = Corpus(TextFiles(source=str(tmp_path / "v.src.gz"), target=str(tmp_path / "v.tgt.gz")))
    rows = [pair for pair in text.read() if pair is not None]
    tokenizer = from_corpus((side for pair in rows for side in (pair.source, pair.target)), 1_000)
    tokenizer.save(tmp_path, max_length=512, segments=True)
    auto = AutoTokenizer.from_pretrained(tmp_path)
    found = lists(concatenate(list(encode_sections(text, tokenizer, 512, skip_bad=False))))
    assert [source for source, _ in found] == auto([pair.source for pair in rows])["input_ids"]
    assert [[tokenizer.special.start, *t] for _, t in found] == auto([pair.target for pair in rows])["input_ids"]


def test_fault_53_a_vocabulary_that_does_not_fit(tmp_path: Path) -> None:
    """A dump counts unknown targets and refuses a share above 0.1 %, with both numbers, unless a share is allowed."""
    from kdcache.dump.dump_config import DumpConfig
    from kdcache.dump.dump_job import prepare
    from kdcache.teacher.prepare_teacher import prepare_teacher

    known = corpus(tmp_path, [("the dog", "a cat"), ("old park", "run")] * 3)
    prepare_teacher("scratch:tiny", known, trim_vocab=True, seed=1).save(tmp_path / "teacher")
    # With their end tokens: 1 unknown of 1,000 targets is 0.1 % and allowed, 2 of 1,001 are not.
    rows = [("dog", "cat")] * 498 + [("dog", "漢")]
    path = tmp_path / "x.tsv"
    config = DumpConfig(str(tmp_path / "teacher"), TextFiles(pairs=str(path)), device="cpu")
    corpus(tmp_path, [*rows, ("dog", "cat")])
    assert prepare(config).encode(0).n_targets == 1_000
    corpus(tmp_path, [*rows, ("dog", "a 漢")])
    with pytest.raises(DataError, match=r"lines 1 to 500: 2 of 1,001 targets are unknown .*0\.001.*--max-unknown"):
        prepare(config).encode(0)
    assert prepare(dataclasses.replace(config, max_unknown=0.01)).encode(0).n_targets == 1_001
