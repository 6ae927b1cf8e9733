"""Whether one system beats another: sacreBLEU's paired bootstrap test, for all metrics.

The test is that of Koehn (2004), *Statistical Significance Tests for Machine Translation Evaluation*.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.errors import UsageError
from kdcache.scoring.scorers import (
    METRICS,
    NAMES,
    RESAMPLES,
    Floats,
    Scorer,
    bootstrap_seed,
    check_counts,
    check_resamples,
    make_scorers,
)


@dataclass(frozen=True, slots=True)
class Difference:
    """Two systems on the same sentences.

    Attributes:
        name: of the score.
        baseline, system: their scores, 0 … 100.
        difference: system - baseline.
        low, high: the 95 % interval of the difference, made like that of a score; see `scorers.Estimate`.
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


def compare(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    metric: str,
    *,
    lowercase: bool = False,
    resamples: int = RESAMPLES,
) -> Difference:
    """Test "bleu", "chrf", "ter", "rouge1", "rouge2" or "rougeL" (mean F1) of two systems' hypotheses [n].

    `references` are [R][n].

    Raises:
        DataError: numbers of lines differ.
        UsageError: the metric is none of these, too few resamples, or an unusable seed.
    """
    if metric not in NAMES:
        raise UsageError(f"{metric}: only {', '.join(NAMES)} can be compared.")
    family = metric if metric in METRICS else "rouge"
    found = compare_corpus(system, baseline, references, [family], lowercase=lowercase, resamples=resamples)
    return next(one for one in found if one.name == metric)


def compare_corpus(
    system: Sequence[str],
    baseline: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    *,
    lowercase: bool = False,
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
    scorers = [one for metric in dict.fromkeys(metrics) for one in make_scorers(metric, references, lowercase)]
    return [_difference(one, system, baseline, resamples) for one in scorers]


def _difference(scorer: Scorer, system: Sequence[str], baseline: Sequence[str], resamples: int) -> Difference:
    from sacrebleu.significance import estimate_ci

    old, new = scorer.tested([baseline, system], resamples)
    difference = float(new.score - old.score)
    seed = bootstrap_seed()
    draws = _draws(scorer.statistics(system), scorer.statistics(baseline), scorer, resamples, seed)
    mean, half = (float(one) for one in estimate_ci(draws))
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
