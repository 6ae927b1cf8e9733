"""Scores of whole texts and differences between two systems, each with its interval and how it was made.

BLEU, chrF and TER are sacreBLEU's, ROUGE is rouge-score's. Two systems are compared by sacreBLEU's paired bootstrap
test (Koehn 2004, *Statistical Significance Tests for Machine Translation Evaluation*), for all metrics alike.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.errors import UsageError
from kdcache.scoring.score_config import AS_PUBLISHED, METRICS, RESAMPLES, SCORES, MetricSettings, bootstrap_seed
from kdcache.scoring.scorers import Estimate, Floats, Scorer, check_counts, check_resamples, make_scorers, mean_of_seeds


@dataclass(frozen=True, slots=True)
class Score:
    """One number, its 95 % interval, and how it was made.

    Attributes:
        name: "bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL" or "rougeLsum".
        value: 0 … 100 (TER may exceed it); for ROUGE the mean F1.
        low, high: its interval, as sacreBLEU's bootstrap over sentences gives it; see `Estimate`.
        signature: sacreBLEU's, or the settings of rouge-score.
        n: number of sentences.
        precision, recall: of ROUGE, 0 … 100; None for the others.
    """

    name: str
    value: float
    low: float
    high: float
    signature: str
    n: int
    precision: Estimate | None = None
    recall: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two systems on the same sentences.

    Attributes:
        name: of the score.
        baseline, system: their scores, 0 … 100.
        difference: system - baseline.
        low, high: the 95 % interval of the difference, made like that of a score; see `Estimate`.
        p_value: of sacreBLEU's paired bootstrap, with d the differences of the resamples: the share of them in which
            |d| - mean |d| exceeds |difference|, one added to both counts. Both systems are treated alike, but one tail
            is counted: a two-sided test gives about twice as much. 1 where no resample shows any difference at all.
        resamples, seed: of the bootstrap.
        signature: how the score was made.
    """

    name: str
    baseline: float
    system: float
    difference: float
    low: float
    high: float
    p_value: float
    resamples: int
    seed: int
    signature: str


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    settings: MetricSettings = AS_PUBLISHED,
    resamples: int = RESAMPLES,
) -> list[Score]:
    """Score `hypotheses` [n] against `references` [R][n]; "rouge" gives ROUGE-1, ROUGE-2 and ROUGE-L.

    ROUGE always ignores case, and TER does as in sacreBLEU; both say so in their signatures. The seed of the bootstrap
    is that of `bootstrap_seed`.

    Raises:
        DataError: numbers of lines differ.
        UsageError: an unknown metric, too few resamples, or an unusable seed.
    """
    check_counts(hypotheses, references)
    check_resamples(resamples)
    return scores_of(make_scorers(metrics, references, settings), hypotheses, resamples)


def scores_of(scorers: Sequence[Scorer], hypotheses: Sequence[str], resamples: int) -> list[Score]:
    """The score of `hypotheses` [n] by each of `scorers`."""
    scores = []
    for scorer in scorers:
        whole, *parts = (one.estimate(hypotheses, resamples) for one in (scorer, *scorer.parts))
        scores.append(Score(scorer.name, whole.value, whole.low, whole.high, scorer.signature, len(hypotheses), *parts))
    return scores


def compare(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    metric: str,
    settings: MetricSettings = AS_PUBLISHED,
    resamples: int = RESAMPLES,
) -> Difference:
    """Test "bleu", "chrf", "ter", "rouge1", "rouge2", "rougeL" or "rougeLsum" (mean F1) of two systems' hypotheses [n].

    `references` are [R][n].

    Raises:
        DataError: numbers of lines differ.
        UsageError: the metric is none of these, too few resamples, or an unusable seed.
    """
    return compare_seeds([system], [baseline], references, metric, settings, resamples)


def compare_seeds(
    systems: Sequence[Sequence[str]],
    baselines: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    metric: str,
    settings: MetricSettings = AS_PUBLISHED,
    resamples: int = RESAMPLES,
) -> Difference:
    """Test the mean difference of one of the scores of `compare` over S seeds, whose hypotheses are [S][n].

    Sentences are resampled, the same ones for all seeds, and each seed's text is scored by itself: put one behind the
    other, texts that are too short and too long would cancel in BLEU's brevity penalty. Errors as of `compare`.
    """
    if metric not in SCORES:
        raise UsageError(f"{metric}: only {', '.join(SCORES)} can be compared.")
    for hypotheses in (*systems, *baselines):
        check_counts(hypotheses, references)
    check_resamples(resamples)
    family = next(family for family, names in METRICS.items() if metric in names)
    scorer = next(one for one in make_scorers([family], references, settings) if one.name == metric)
    system, baseline = (["\n".join(lines) for lines in zip(*seeds, strict=True)] for seeds in (systems, baselines))
    return _difference(mean_of_seeds(scorer, len(systems)), system, baseline, resamples)


def compare_corpus(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    settings: MetricSettings = AS_PUBLISHED,
    resamples: int = RESAMPLES,
) -> list[Difference]:
    """Test all `metrics` (those of `score_corpus`) of two systems' hypotheses [n] against `references` [R][n].

    Raises:
        DataError: numbers of lines differ.
        UsageError: an unknown metric, too few resamples, or an unusable seed.
    """
    check_counts(system, references)
    check_counts(baseline, references)
    check_resamples(resamples)
    return differences_of(make_scorers(metrics, references, settings), system, baseline, resamples)


def differences_of(
    scorers: Sequence[Scorer], system: Sequence[str], baseline: Sequence[str], resamples: int
) -> list[Difference]:
    """The difference of two systems' hypotheses [n] by each of `scorers`."""
    return [_difference(scorer, system, baseline, resamples) for scorer in scorers]


def _difference(scorer: Scorer, system: Sequence[str], baseline: Sequence[str], resamples: int) -> Difference:
    from sacrebleu.significance import estimate_ci

    old, new = scorer.tested([baseline, system], resamples)
    difference = float(new.score - old.score)
    seed = bootstrap_seed()
    draws = _draws(scorer.statistics(system), scorer.statistics(baseline), scorer, resamples, seed)
    mean, half = map(float, estimate_ci(draws))
    # sacreBLEU counts what is strictly farther away, which would give a text against itself the smallest p-value.
    p_value = float(new.p_value) if draws.any() else 1.0
    return Difference(
        name=scorer.name,
        baseline=float(old.score),
        system=float(new.score),
        difference=difference,
        low=mean - half,
        high=mean + half,
        p_value=p_value,
        resamples=resamples,
        seed=seed,
        signature=scorer.signature,
    )


def _draws(system: Floats, baseline: Floats, scorer: Scorer, resamples: int, seed: int) -> Floats:
    """The differences of the resamples that sacreBLEU draws with the same seed, float64 [resamples]."""
    n = len(system)
    rows = np.random.default_rng(seed).choice(n, size=(resamples, n), replace=True)
    draws = np.empty(resamples)
    for i, drawn in enumerate(rows):
        # How often each sentence is drawn: the same sentences for both systems.
        weights = np.bincount(drawn, minlength=n).astype(np.float64)
        draws[i] = scorer.of_sums(weights @ system) - scorer.of_sums(weights @ baseline)
    return draws
