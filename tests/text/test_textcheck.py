"""Counts over training text, and what a tokenizer cannot give back."""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.text_checks import TextReport, examine, tokenizer_warnings
from kdcache.text.tokenizer import Tokenizer
from kdcache.text.vocabulary import from_corpus


def corpus(folder: Path, name: str, pairs: list[tuple[str, str]]) -> Corpus:
    path = folder / f"{name}.tsv"
    path.write_text("".join(f"{source}\t{target}\n" for source, target in pairs))
    return Corpus(TextFiles(pairs=str(path)), skip_bad=True)


def test_counts_by_hand(tmp_path: Path) -> None:
    """Repetitions, copies, skipped lines and overlap are counted as a reader with a pencil counts them."""
    train = corpus(
        tmp_path,
        "train",
        [
            ("a", "A"),
            ("b", "B"),
            ("a", "A"),
            ("a", "other"),
            ("c", "c"),
            ("", "x"),
            ("a", "A"),
            ("A", "a"),
            ("c ", "c"),
        ],
    )
    valid = corpus(tmp_path, "valid", [("a", "new"), ("a", "A"), ("A", "x"), ("B", "x"), ("c  ", "x")])
    report = examine(train, valid)
    assert report == TextReport(pairs=8, skipped=1, duplicates=2, identical=1, overlap=3, valid_pairs=5)
    assert report.lines() == [
        "8 training pairs",
        "1 pairs were skipped because they cannot be used (11.1 % of all pairs)",
        "2 pairs are repetitions of earlier ones (25.0 % of the training pairs)",
        "1 pairs have a target equal to their source (12.5 % of the training pairs)",
        "3 validation sources also stand in the training text, so validation flatters (60.0 % of the validation pairs)",
    ]


def test_a_clean_corpus_has_one_line(tmp_path: Path) -> None:
    """Without findings and without validation text only the number of pairs is told."""
    report = examine(corpus(tmp_path, "train", [("a", "A"), ("b", "B")]), None)
    assert report == TextReport(2, 0, 0, 0, None)
    assert report.lines() == ["2 training pairs"]


def test_sides_are_not_run_together(tmp_path: Path) -> None:
    """A pair whose letters are split otherwise between its sides is no repetition."""
    assert examine(corpus(tmp_path, "train", [("ab", "c"), ("a", "bc")]), None).duplicates == 0


PAIRS = st.lists(st.tuples(*[st.sampled_from(["a", "b", "a b", "ä", "ä"])] * 2), min_size=1, max_size=12)


@settings(deadline=None, max_examples=50)
@given(PAIRS, PAIRS)
def test_counts_equal_those_over_lists(train: list[tuple[str, str]], valid: list[tuple[str, str]]) -> None:
    """The hashed counts equal those over the texts themselves."""
    with tempfile.TemporaryDirectory() as name:
        report = examine(corpus(Path(name), "train", train), corpus(Path(name), "valid", valid))
    sources = [source for source, _ in train]
    assert report == TextReport(
        pairs=len(train),
        skipped=0,
        duplicates=sum(pair in train[:i] for i, pair in enumerate(train)),
        identical=sum(source == target for source, target in train),
        overlap=sum(source in sources for source, _ in valid),
        valid_pairs=len(valid),
    )


SENTENCES = [("Der Mann läuft", "A man runs"), ("Die Männer schlafen", "Men sleep"), ("über Öl", "On oil")]


def normalising(**settings: bool) -> Tokenizer:
    """A tokenizer of the sentences whose normaliser does what `settings` say."""
    plain = from_corpus([text for pair in SENTENCES for text in pair])
    definition = copy.deepcopy(plain.definition)
    definition["normalizer"]["normalizers"][1]["normalizers"][1] |= settings
    return Tokenizer(definition, plain.names)


def test_a_faithful_tokenizer_has_no_warnings(tmp_path: Path) -> None:
    """A cased tokenizer that keeps accents and knows the text gives no warning."""
    assert tokenizer_warnings(normalising(), corpus(tmp_path, "train", SENTENCES)) == []


def test_lower_casing_is_warned_of_on_both_sides(tmp_path: Path) -> None:
    """Lost capitals are counted a side; for the target it is said that they cap every score."""
    found = tokenizer_warnings(normalising(lowercase=True, strip_accents=False), corpus(tmp_path, "train", SENTENCES))
    upper = [line for line in found if "upper case" in line]
    assert upper == [
        "The tokenizer drops upper case: the source text has 5 such characters in 3 lines, 0 are left.",
        "The tokenizer drops upper case: the target text has 3 such characters in 3 lines, 0 are left. No output can "
        "have them, which caps every score. Use a cased checkpoint, or leave case out of the score with --lowercase.",
    ]
    assert not any("accents" in line for line in found)


def test_stripped_accents_are_warned_of_where_there_were_any(tmp_path: Path) -> None:
    """Lost accents are counted; a side that has none is not mentioned."""
    found = tokenizer_warnings(normalising(strip_accents=True), corpus(tmp_path, "train", SENTENCES))
    assert [line for line in found if "accents" in line] == [
        "The tokenizer drops accents and other marks: the source text has 4 such characters in 3 lines, 0 are left."
    ]


@pytest.mark.parametrize(("known", "share"), [(98, "2.0"), (99, None)])
def test_unknown_pieces_above_one_percent_are_warned_of(tmp_path: Path, known: int, share: str | None) -> None:
    """The share of unknown pieces is told for the side that has it, once it is above 1 %."""
    pairs = [("Mann", "A")] * known + [("Mann", "漢")] * (100 - known)
    told = (
        f"{share} % of the target pieces are unknown to the tokenizer: 2 of 100 characters are lost with them. Use a "
        "checkpoint whose vocabulary knows these characters."
    )
    expected = [] if share is None else [told]
    assert tokenizer_warnings(normalising(), corpus(tmp_path, "train", pairs)) == expected


def test_warnings_read_a_sample_of_the_whole_text(tmp_path: Path) -> None:
    """What only the end of a long text has is found too, and pairs that cannot be used take no part."""
    pairs = [("", "")] * 10 + [("Mann", "A")] * 21_000 + [("Mann", "漢")] * 9_000
    (found,) = tokenizer_warnings(normalising(), corpus(tmp_path, "train", pairs))
    assert "30.0 % of the target pieces are unknown" in found
    assert "3,000 of" in found
