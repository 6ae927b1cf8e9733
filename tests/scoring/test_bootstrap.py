"""Intervals and p-values against sacreBLEU's own program and against slow loops."""

from __future__ import annotations

import random
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from faults import little_memory
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.significance import PairedTest

from kdcache.errors import UsageError
from kdcache.scoring.rouge import sentence_rouge
from kdcache.scoring.score_corpus import Score, compare, compare_corpus, compare_seeds, score_corpus
from kdcache.scoring.scorers import rouge_scorers

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
SACRE = ("bleu", "chrf", "ter")


def noisy(sentences: list[str], share: float, seed: int) -> list[str]:
    """Each word is replaced or left out with probability `share`, so that precision and recall differ."""
    draw = random.Random(seed)
    words = [[draw.choice([*WORDS, *[""] * 4]) if draw.random() < share else w for w in s.split()] for s in sentences]
    return [" ".join(filter(None, one)) for one in words]


def sentences(count: int) -> list[str]:
    draw = random.Random(0)
    return [" ".join(draw.choices(WORDS, k=draw.randint(4, 14))) for _ in range(count)]


@pytest.fixture(scope="module")
def references() -> list[str]:
    return sentences(120)


@pytest.fixture(scope="module")
def systems(references: list[str]) -> tuple[list[str], list[str]]:
    """A system and a baseline that are close."""
    return noisy(references, 0.2, 1), noisy(references, 0.23, 2)


def sacrebleu(folder: Path, *arguments: str) -> str:
    """What sacreBLEU's own program prints for the files in `folder`."""
    command = [sys.executable, "-m", "sacrebleu", "reference", *arguments, "-w", "6"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, references: list[str], systems: tuple[list[str], list[str]]) -> Path:
    """References and both systems as files."""
    for name, text in (("reference", references), ("system", systems[0]), ("baseline", systems[1])):
        (tmp_path / name).write_text("".join(f"{line}\n" for line in text))
    return tmp_path


def test_the_paired_test_is_that_of_sacrebleu(
    folder: Path, references: list[str], systems: tuple[list[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores, intervals and p-values of three metrics are what `sacrebleu --paired-bs` prints, digit for digit."""
    monkeypatch.setenv("SACREBLEU_SEED", "7")
    printed = sacrebleu(folder, "-i", "baseline", "system", "--paired-bs", "-f", "text", "-m", *SACRE)
    rows = re.findall(r"([\d.]+) \(([\d.]+) ± ([\d.]+)\)", printed)
    p_values = re.findall(r"\(p = ([\d.]+)\)", printed)
    assert (len(rows), len(p_values)) == (6, 3)
    ours = [score_corpus(text, [references], SACRE) for text in (systems[1], systems[0])]
    for score, row in zip([*ours[0], *ours[1]], rows, strict=True):
        found = (score.value, (score.low + score.high) / 2, (score.high - score.low) / 2)
        # Six digits are printed, of sums in float32.
        assert found == pytest.approx(tuple(map(float, row)), abs=2e-5), score.name
    found_p = compare_corpus(*systems, [references], SACRE)
    assert [f"{one.p_value:.4f}" for one in found_p] == p_values
    assert {one.seed for one in found_p} == {7}


def test_an_interval_alone_is_that_of_sacrebleu(
    folder: Path, references: list[str], systems: tuple[list[str], list[str]]
) -> None:
    """The interval of BLEU without a baseline is that of `sacrebleu --confidence`, other numbers of resamples too."""
    printed = sacrebleu(folder, "-i", "system", "--confidence", "--confidence-n", "200", "-f", "json")
    mean, half = (float(re.findall(rf'"confidence_{one}": ([\d.]+)', printed)[0]) for one in ("mean", "var"))
    (score,) = score_corpus(systems[0], [references], ["bleu"], resamples=200)
    assert (score.low, score.high) == pytest.approx((mean - half, mean + half), abs=2e-5)


def slow_bootstrap(values: list[float], n: int, resamples: int = 1_000) -> list[float]:
    """Means of resampled sentences, one sentence after the other."""
    generator = np.random.default_rng(12_345)
    means = []
    for drawn in generator.choice(n, size=(resamples, n), replace=True).tolist():
        total = 0.0
        for i in drawn:
            total += values[i]
        means.append(100 * total / n)
    return means


def ends(draws: list[float]) -> tuple[float, float]:
    """Mean ± half the distance between the quantiles, which are values that were drawn."""
    ordered = sorted(draws)
    cut = len(draws) // 40
    half, mean = (ordered[-cut - 1] - ordered[cut]) / 2, sum(draws) / len(draws)
    return mean - half, mean + half


def test_rouge_has_intervals_by_a_slow_loop(references: list[str], systems: tuple[list[str], list[str]]) -> None:
    """Intervals of ROUGE's precision, recall and F1 are those of a loop over resamples and sentences."""
    sentences = sentence_rouge(systems[0], [references])
    scores = {one.name: one for one in score_corpus(systems[0], [references], ["rouge"])}
    for kind in ("rouge1", "rouge2", "rougeL"):
        score = scores[kind]
        for part, one in enumerate((score.precision, score.recall, score)):
            assert one is not None
            assert (one.low, one.high) == pytest.approx(
                ends(slow_bootstrap(sentences[kind][:, part].tolist(), len(references))), abs=1e-4
            )
            assert one.low < one.value < one.high


def test_rouge_has_the_p_value_of_a_slow_loop(references: list[str], systems: tuple[list[str], list[str]]) -> None:
    """A difference of ROUGE-2, its interval and its p-value are those of sacreBLEU's formula in a slow loop."""
    n = len(references)
    new, old = (sentence_rouge(text, [references])["rouge2"][:, 2].tolist() for text in systems)
    draws = [a - b for a, b in zip(slow_bootstrap(new, n), slow_bootstrap(old, n), strict=True)]
    sizes = [abs(draw) for draw in draws]
    center = sum(sizes) / len(sizes)
    difference = 100 * (sum(new) - sum(old)) / n
    farther = sum(size - center > abs(difference) for size in sizes)
    found = compare(*systems, [references], "rouge2")
    assert found.difference == pytest.approx(difference)
    assert (found.low, found.high) == pytest.approx(ends(draws), abs=1e-6)
    assert found.p_value == pytest.approx((farther + 1) / 1_001)
    assert 0.001 < found.p_value < 0.5


def by_name(text: list[str], references: list[str], metric: str) -> Score:
    """One score of a text."""
    family = "rouge" if metric.startswith("rouge") else metric
    return next(one for one in score_corpus(text, [references], [family]) if one.name == metric)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL"])
def test_compared_scores_are_the_scores_of_the_texts(
    metric: str, references: list[str], systems: tuple[list[str], list[str]]
) -> None:
    """Both values equal the corpus scores, and the middle of the difference's interval is the difference of theirs.

    So both systems see the same resamples.
    """
    found = compare(*systems, [references], metric)
    one, other = (by_name(text, references, metric) for text in systems)
    assert (found.system, found.baseline) == pytest.approx((one.value, other.value), abs=1e-9)
    assert found.signature == one.signature
    assert found.difference == pytest.approx(found.system - found.baseline)
    assert found.low < found.difference < found.high
    assert found.low + found.high == pytest.approx(one.low + one.high - other.low - other.high, abs=2e-4)


def test_comparing_is_antisymmetric(references: list[str], systems: tuple[list[str], list[str]]) -> None:
    """Swapping the systems mirrors difference and interval and leaves the p-value."""
    there, back = (compare(*pair, [references], "bleu") for pair in (systems, systems[::-1]))
    assert (back.difference, back.low, back.high) == pytest.approx((-there.difference, -there.high, -there.low))
    assert back.p_value == there.p_value


def test_the_bootstrap_counts_one_tail() -> None:
    """A two-sided paired test, sacreBLEU's approximate randomization, has a p-value about twice as large."""
    references = sentences(300)
    system, baseline = noisy(references, 0.18, 1), noisy(references, 0.22, 2)
    ours = compare(system, baseline, [references], "bleu", resamples=2_000)
    metrics = {"BLEU": BLEU(references=[references], force=True)}
    systems = [("baseline", baseline), ("system", system)]
    theirs = PairedTest(systems, metrics, references=None, test_type="ar", n_samples=2_000)()[1]["BLEU"][1].p_value
    assert 0.005 < theirs < 0.1
    assert 1.4 < theirs / ours.p_value < 3


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """Of many test sets drawn from one distribution, about 95 % have an interval around its mean."""
    draw = random.Random(4)
    covered = 0
    for _ in range(120):
        right = [draw.random() < 0.6 for _ in range(60)]
        hypotheses = ["a" if one else "b" for one in right]
        rouge1 = rouge_scorers([["a"] * 60])[0]
        estimate = rouge1.estimate(hypotheses, 200)
        covered += estimate.low <= 60 <= estimate.high
    # 114 expected, standard deviation 2.4; the bootstrap of 60 sentences is a little too narrow.
    assert 104 <= covered <= 120


def test_a_text_against_itself_is_no_discovery(references: list[str], systems: tuple[list[str], list[str]]) -> None:
    """For a text against itself p is 1, where sacreBLEU's strict comparison alone would give 1/1001."""
    for one in compare_corpus(systems[0], list(systems[0]), [references], ["bleu", "chrf", "ter", "rouge"]):
        assert (one.difference, one.low, one.high, one.p_value) == (0, 0, 0, 1)


def test_too_few_or_too_many_resamples_are_refused(references: list[str]) -> None:
    """Fewer than 100 resamples, or more than anybody waits for, are a usage error, in scores and in comparisons."""
    with pytest.raises(UsageError, match="--resamples must be between 100 and 100000, not 1000000000"):
        score_corpus(references, [references], ["bleu"], resamples=10**9)
    with pytest.raises(UsageError, match="--resamples must be between 100 and 100000, not 99"):
        score_corpus(references, [references], ["bleu"], resamples=99)
    with pytest.raises(UsageError, match="--resamples must be between 100 and 100000, not 0"):
        compare(references, references, [references], "bleu", resamples=0)
    many = references * 100
    with little_memory(1 << 28), pytest.raises(UsageError, match=r"does not suffice for so many draws of \d+,\d+ sent"):
        score_corpus(many, [many], ["bleu"], resamples=100_000)


@pytest.mark.parametrize("seed", ["none", "0", "-1", "1.5", ""])
def test_a_seed_that_does_not_repeat_is_refused(
    seed: str, references: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seed with which sacreBLEU would draw at random, or fail, is refused by name."""
    monkeypatch.setenv("SACREBLEU_SEED", seed)
    with pytest.raises(UsageError, match="SACREBLEU_SEED must be a whole number above 0"):
        score_corpus(references, [references], ["bleu"])


def test_one_sentence_has_an_interval_without_width() -> None:
    """A single sentence can only be drawn again: both ends are the value."""
    scores: list[Score] = score_corpus(["a b c d e"], [["a b c d f"]], ["bleu", "chrf", "ter", "rouge"])
    for one in scores:
        assert (one.low, one.high) == pytest.approx((one.value, one.value), abs=1e-5)


def test_seeds_are_scored_each_by_itself(references: list[str], systems: tuple[list[str], list[str]]) -> None:
    """The mean of two seeds has the difference and p of a slow loop over resamples that scores each text alone.

    One seed leaves the last word of each sentence out and the other adds one, so that put one behind the other they
    would have the right length and no penalty.
    """
    new = [[line.rpartition(" ")[0] for line in systems[0]], [f"{line} a" for line in systems[0]]]
    old = [systems[1], noisy(references, 0.23, 3)]
    found = compare_seeds(new, old, [references], "bleu", resamples=100)

    def difference(rows: list[int]) -> float:
        scores = [
            BLEU().corpus_score([text[i] for i in rows], [[references[i] for i in rows]]).score for text in (*new, *old)
        ]
        return (scores[0] + scores[1] - scores[2] - scores[3]) / 2

    n = len(references)
    sizes = [abs(difference(rows)) for rows in np.random.default_rng(12_345).choice(n, size=(100, n)).tolist()]
    whole = difference(list(range(n)))
    farther = sum(size - sum(sizes) / 100 > abs(whole) for size in sizes)
    assert found.difference == pytest.approx(whole)
    assert found.p_value == pytest.approx((farther + 1) / 101)
    joined = compare([*new[0], *new[1]], [*old[0], *old[1]], [references * 2], "bleu", resamples=100)
    assert joined.system > found.system + 1
