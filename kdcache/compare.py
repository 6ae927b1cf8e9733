"""Whether one system beats another: a paired bootstrap test (Koehn 2004, *Statistical Significance Tests for MT*)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from kdcache.errors import UsageError
from kdcache.rouge import KINDS, sentence_rouge
from kdcache.rouge import signature as rouge_signature
from kdcache.score import check_counts

RESAMPLES = 1_000
SEED = 12_345
_ORDERS = 4

Floats = npt.NDArray[np.float64]
# Sums of the sentences' statistics to the score of the text.
Combine = Callable[[Floats], float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Two systems on the same sentences.

    Attributes:
        name: of the metric.
        baseline, system: their scores, 0 … 100.
        difference: system - baseline.
        low, high: the 95 % percentile interval of the difference over resampled test sets.
        p_value: share of resampled differences that lie at least as far from their own mean as `difference` does
            from 0 (with one added to both counts): two-sided. sacreBLEU's bootstrap counts one side, its value is
            about half of this one.
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
    seed: int = SEED,
) -> Difference:
    """Test "bleu", "rouge1", "rouge2" or "rougeL" (mean F1) of two systems' hypotheses [n] against references [R][n].

    Raises:
        DataError: numbers of lines differ.
        UsageError: the metric is none of these.
    """
    check_counts(system, references)
    check_counts(baseline, references)
    if metric == "bleu":
        (new, old), combine, signature = _bleu((system, baseline), references, lowercase)
    elif metric in KINDS:
        new, old = (sentence_rouge(one, references)[metric][:, 2:] for one in (system, baseline))
        combine, signature = _mean(len(system)), rouge_signature(references)
    else:
        raise UsageError(f"{metric}: only bleu, {', '.join(KINDS)} can be compared.")
    scores = [combine(one.sum(axis=0)) for one in (new, old)]
    generator = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for i in range(resamples):
        # How often each sentence is drawn: the same sentences for both systems.
        weights = np.bincount(generator.integers(len(new), size=len(new)), minlength=len(new)).astype(np.float64)
        draws[i] = combine(weights @ new) - combine(weights @ old)
    difference = scores[0] - scores[1]
    low, high = np.percentile(draws, (2.5, 97.5)).tolist()
    extreme = int((np.abs(draws - draws.mean()) >= abs(difference)).sum())
    p_value = (extreme + 1) / (resamples + 1)
    return Difference(metric, scores[1], scores[0], difference, low, high, p_value, resamples, seed, signature)


def _mean(n: int) -> Combine:
    return lambda sums: float(100 * sums[0] / n)


def _bleu(
    systems: Sequence[Sequence[str]], references: Sequence[Sequence[str]], lowercase: bool
) -> tuple[list[Floats], Combine, str]:
    """Each sentence's n-gram matches, n-gram totals and the two lengths, [n, 10]; what makes BLEU of their sums."""
    from sacrebleu.metrics.bleu import BLEU

    # Effective order changes the sentence's score, not its counts, and spares a warning for each sentence.
    counter = BLEU(lowercase=lowercase, force=True, effective_order=True)
    whole = BLEU(lowercase=lowercase, force=True)
    whole.corpus_score(list(systems[0]), [list(one) for one in references])
    statistics = []
    for hypotheses in systems:
        rows = []
        for hypothesis, *targets in zip(hypotheses, *references, strict=True):
            found = counter.sentence_score(hypothesis, targets)
            rows.append([*found.counts, *found.totals, found.sys_len, found.ref_len])
        statistics.append(np.array(rows, dtype=np.float64))

    def combine(sums: Floats) -> float:
        *counts, length, reference_length = (int(one) for one in sums)
        matches, totals = counts[:_ORDERS], counts[_ORDERS:]
        return float(BLEU.compute_bleu(matches, totals, length, reference_length, smooth_method="exp").score)

    return statistics, combine, str(whole.get_signature())
