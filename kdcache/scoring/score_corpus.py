"""Scores of whole texts: sacreBLEU's BLEU, chrF and TER, and rouge-score's ROUGE, each with how it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdcache.scoring.scorers import (
    F1,
    PRECISION,
    RECALL,
    RESAMPLES,
    Estimate,
    Scorer,
    check_counts,
    check_resamples,
    rouge_scorers,
    sacre_scorer,
)


@dataclass(frozen=True, slots=True)
class Score:
    """One number, its 95 % interval, and how it was made.

    Attributes:
        name: "bleu", "chrf", "ter", "rouge1", "rouge2" or "rougeL".
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


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    *,
    lowercase: bool = False,
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
    scores: list[Score] = []
    for metric in dict.fromkeys(metrics):
        if metric == "rouge":
            for parts in rouge_scorers(references).values():
                precision, recall = (parts[one].estimate(hypotheses, resamples) for one in (PRECISION, RECALL))
                scores.append(_score(parts[F1], hypotheses, resamples, precision, recall))
        else:
            scores.append(_score(sacre_scorer(metric, references, lowercase), hypotheses, resamples))
    return scores


def _score(
    scorer: Scorer,
    hypotheses: Sequence[str],
    resamples: int,
    precision: Estimate | None = None,
    recall: Estimate | None = None,
) -> Score:
    found = scorer.estimate(hypotheses, resamples)
    n = len(hypotheses)
    return Score(scorer.name, found.value, found.low, found.high, scorer.signature, n, precision, recall)
