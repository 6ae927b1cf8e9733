"""Scores against hand-computed values, the libraries' own results, and each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import run_cli
from hypothesis import given
from hypothesis import strategies as st
from rouge_score.tokenizers import DefaultTokenizer

from kdcache.errors import DataError, UsageError
from kdcache.scoring.rouge import UnicodeTokenizer
from kdcache.scoring.score_config import MetricSettings
from kdcache.scoring.score_corpus import Score, compare, compare_corpus, score_corpus
from kdcache.scoring.sentence_scores import sentence_scores


def by_name(scores: list[Score]) -> dict[str, Score]:
    return {score.name: score for score in scores}


def test_bleu_by_hand() -> None:
    """BLEU of five words of which the last is wrong is the fourth root of 4/5 · 3/4 · 2/3 · 1/2."""
    (score,) = score_corpus(["a b c d e"], [["a b c d f"]], ["bleu"])
    assert score.value == pytest.approx(100 * 0.2**0.25, abs=1e-9)
    assert score.n == 1


def test_rouge_by_hand() -> None:
    """ROUGE of "a b c d" against "a c e": two words and a common subsequence of two, no common bigram."""
    scores = by_name(score_corpus(["a b c d"], [["a c e"]], ["rouge"]))
    for name in ("rouge1", "rougeL"):
        precision, recall = scores[name].precision, scores[name].recall
        assert precision is not None
        assert recall is not None
        found = (precision.value, recall.value, scores[name].value)
        assert found == pytest.approx((100 * 2 / 4, 100 * 2 / 3, 100 * 4 / 7))
    assert scores["rouge2"].value == 0


def test_rouge_takes_the_best_reference_of_each_sentence() -> None:
    """With two references each sentence counts with the better one, kind by kind, and the signature says so."""
    hypotheses = ["a b c", "d e f"]
    one, other = ["a b c", "x y z"], ["x y z", "d e g"]
    scores = by_name(score_corpus(hypotheses, [one, other], ["rouge"]))
    assert scores["rouge1"].value == pytest.approx(100 * (1 + 2 / 3) / 2)
    assert scores["rouge2"].value == pytest.approx(100 * (1 + 1 / 2) / 2)
    assert "nrefs:2|ref:best-f1-per-sentence" in scores["rouge1"].signature


def test_rouge_lsum_goes_sentence_by_sentence() -> None:
    """Swapped sentences cost ROUGE-L and not ROUGE-Lsum; <n> parts them, is no word, and is in the signature.

    Of seven words, "a b c" and "d e f g" each found whole make 1; the longest common subsequence of the line is 4.
    """
    hypotheses, references = ["d e f g <n> a b c"], [["a b c<n>d e f g"]]
    scores = by_name(score_corpus(hypotheses, references, ["rouge", "rougeLsum"]))
    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {"rouge1": 100, "rouge2": 100 * 5 / 6, "rougeL": 100 * 4 / 7, "rougeLsum": 100}
    )
    assert all("|split:<n>|" in score.signature for score in scores.values())
    assert sentence_scores(hypotheses, references, ["rougeLsum"]) == {"rougeLsum": [100]}
    with pytest.raises(UsageError, match="no reference has <n> between its sentences"):
        score_corpus(hypotheses, [["a b c d e f g"]], ["rougeLsum"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Привет, мир!", ["привет", "мир"]),
        ("Für Ärzte", ["für", "ärzte"]),
        ("中文字 abc", ["中", "文", "字", "abc"]),
        ("ひらカナ", ["ひ", "ら", "カ", "ナ"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),
        ("ไทย", ["ไ", "ท", "ย"]),
        ("น้ำ", ["น้ำ"[:2], "น้ำ"[2:]]),
        ("cafe\u0301 don't", ["café", "don", "t"]),
    ],
)
def test_words_of_other_scripts(text: str, words: list[str]) -> None:
    """Words are runs of letters, marks and digits of any script; scripts without blanks go character by character."""
    assert UnicodeTokenizer().tokenize(text) == words


@given(st.text(st.characters(max_codepoint=127)))
def test_both_tokenizers_agree_on_ascii(text: str) -> None:
    """On ASCII text the tokenizer for all scripts finds the words that rouge-score's own finds."""
    assert UnicodeTokenizer().tokenize(text) == DefaultTokenizer(use_stemmer=False).tokenize(text)


@pytest.mark.parametrize("text", ["Привет мир", "für", "中文", "ไทย", "हिन्दी", "a b"])
def test_a_perfect_output_scores_100_in_any_script(text: str) -> None:
    """A hypothesis equal to its reference has ROUGE-1 and ROUGE-L of 100, never a silent 0."""
    scores = by_name(score_corpus([text], [[text]], ["rouge"]))
    assert scores["rouge1"].value == pytest.approx(100)
    assert scores["rougeL"].value == pytest.approx(100)


def test_the_tokenizer_follows_the_references() -> None:
    """English with a rare foreign letter keeps the published tokenizer; German does not; the signature names it."""
    english = ["the quick brown fox jumps over the lazy dog"] * 30 + ["a café"]
    assert "tok:a-z0-9" in score_corpus(english, [english], ["rouge"])[0].signature
    german = ["für die Ärzte in München"]
    assert "tok:unicode" in score_corpus(german, [german], ["rouge"])[0].signature
    mixed = [*english, "Привет"]
    assert "tok:unicode" in score_corpus(mixed, [mixed], ["rouge"])[0].signature


def test_lowercase_is_in_the_signature() -> None:
    """Ignoring case changes BLEU and chrF, and their signatures say so."""
    hypotheses, references = ["A B C D"], [["a b c d"]]
    cased = by_name(score_corpus(hypotheses, references, ["bleu", "chrf"]))
    lowered = by_name(score_corpus(hypotheses, references, ["bleu", "chrf"], MetricSettings(lowercase=True)))
    for name in ("bleu", "chrf"):
        assert cased[name].value < 50
        assert lowered[name].value == pytest.approx(100)
        assert "case:mixed" in cased[name].signature
        assert "case:lc" in lowered[name].signature


def test_line_counts_must_agree() -> None:
    """Another number of lines, or none at all, is refused with both counts."""
    with pytest.raises(DataError, match="2 hypotheses and reference 2 has 1 lines"):
        score_corpus(["a", "b"], [["a", "b"], ["a"]], ["bleu"])
    with pytest.raises(DataError, match="Nothing to score"):
        score_corpus([], [[]], ["bleu"])


def test_an_unknown_metric_is_refused() -> None:
    """An unknown metric is a usage error that lists the known ones."""
    with pytest.raises(UsageError, match="choose from bleu, chrf, ter, rouge, rougeLsum"):
        score_corpus(["a"], [["a"]], ["meteor"])
    with pytest.raises(UsageError, match="only bleu, chrf, ter, rouge1, rouge2, rougeL, rougeLsum can be compared"):
        compare(["a"], ["a"], [["a"]], "rouge")
    with pytest.raises(UsageError, match="choose from bleu, chrf, ter, rouge"):
        compare_corpus(["a"], ["a"], [["a"]], ["rouge1"])


def test_score_writes_json_without_torch(tmp_path: Path) -> None:
    """`score --json` writes scores with interval, signature and n, prints the same, and needs no torch for it."""
    for name, text in (("hyp", "a b c d e\nx y\n"), ("one", "a b c d f\nx z\n"), ("two", "a b c\nx y\n")):
        (tmp_path / name).write_text(text)
    arguments = ["score", "--hypothesis", "hyp", "--reference", "one", "--reference", "two"]
    metrics = ["--metric", "bleu", "--metric", "ter", "--metric", "rouge", "--json", "scores.json"]
    done = run_cli(*arguments, *metrics, cwd=tmp_path, PYTHONPROFILEIMPORTTIME="1")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "scores.json").read_text())
    assert (found["version"], found["system"], found["comparison"], found["ceilings"]) == (1, "hyp", None, [])
    assert found["bootstrap"] == {"resamples": 1_000, "seed": 12_345}
    entries = found["scores"]
    assert [entry["name"] for entry in entries] == ["bleu", "ter", "rouge1", "rouge2", "rougeL"]
    for entry in entries:
        assert entry["n"] == 2
        assert "nrefs:2" in entry["signature"]
        assert entry["signature"] in done.stdout
        assert (entry["precision"] is not None) == entry["name"].startswith("rouge")
        assert entry["low"] <= entry["high"]
    imported = {line.split("|")[-1].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "sacrebleu.metrics" in imported
    assert not imported & {"torch", "transformers"}
    record = json.loads((tmp_path / "scores.json.run.json").read_text())
    assert record["command"] == "score"
    assert record["versions"]["sacrebleu"] != "absent"
