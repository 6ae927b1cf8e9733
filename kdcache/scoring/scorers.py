"""BLEU, chrF, TER and ROUGE as sums over sentences, in the form that sacreBLEU's bootstrap takes.

sacreBLEU counts some statistics of each sentence, adds them up, and makes the score of the sums. Its bootstrap draws
sentences with replacement and adds up those. ROUGE fits the same form, so that one bootstrap serves all metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from kdcache.errors import DataError, UsageError
from kdcache.scoring.rouge import sentence_rouge, signature
from kdcache.scoring.score_config import AS_PUBLISHED, METRICS, RESAMPLES_RANGE, ROUGE, MetricSettings, bootstrap_seed
from kdcache.scoring.scripts import WordSpacing, blanks_of

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Score as SacreScore
    from sacrebleu.metrics.base import Signature

PRECISION, RECALL, F1 = range(3)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95 % interval by the bootstrap over sentences.

    As sacreBLEU reports it: the mean of the resamples ± half the distance between their 2.5 % and 97.5 % quantiles.
    """

    value: float
    low: float
    high: float


class Scorer:
    """One score of texts against fixed references. sacreBLEU's `PairedTest` takes it for one of its metrics.

    Attributes:
        name: of the score, one of SCORES.
        signature: how the score is made.
        n_references: number of references of each sentence.
        parts: the scorers of precision and recall, for ROUGE; empty for the others.
    """

    def __init__(
        self,
        name: str,
        signature: str,
        n_references: int,
        count: Callable[[list[str]], Floats],
        combine: Callable[[npt.NDArray[Any]], float],
        parts: Sequence[Scorer] = (),
    ) -> None:
        self.name, self.signature, self.parts = name, signature, tuple(parts)
        self.n_references, self._count, self._combine = n_references, count, combine
        self._counted: dict[tuple[str, ...], Floats] = {}

    def statistics(self, hypotheses: Sequence[str]) -> Floats:
        """What is counted in each sentence, float64 [n, statistics]; a text is counted once."""
        key = tuple(hypotheses)
        if key not in self._counted:
            self._counted[key] = self._count(list(hypotheses))
        return self._counted[key]

    def of_sums(self, sums: npt.NDArray[Any]) -> float:
        """The score of a text whose sentences' statistics add up to `sums`."""
        return float(self._combine(sums))

    def estimate(self, hypotheses: Sequence[str], resamples: int) -> Estimate:
        """The score of `hypotheses` [n] and its interval, by sacreBLEU's bootstrap."""
        return as_estimate(self.tested([hypotheses], resamples)[0])

    def tested(self, systems: Sequence[Sequence[str]], resamples: int) -> list[Any]:
        """The `Result` of sacreBLEU's test, without further processes, for each system; the first is the baseline."""
        from sacrebleu.significance import PairedTest

        bootstrap_seed()
        named: list[tuple[str, Sequence[str]]] = [(str(number), list(one)) for number, one in enumerate(systems)]
        metric: Any = self
        try:
            return PairedTest(named, {self.name: metric}, None, "bs", resamples, n_jobs=1)()[1][self.name]
        except MemoryError as error:
            raise UsageError(
                f"--resamples {resamples}: the memory does not suffice for so many draws of {len(systems[0]):,} "
                "sentences. Give a smaller number."
            ) from error

    # What PairedTest calls.

    def _extract_corpus_statistics(self, hypotheses: Sequence[str], _references: None) -> Floats:
        return self.statistics(hypotheses)

    def _compute_score_from_stats(self, sums: npt.NDArray[Any]) -> SacreScore:
        from sacrebleu.metrics.base import Score as SacreScore

        return SacreScore(self.name, self.of_sums(sums))

    def _aggregate_and_compute(self, statistics: Floats) -> SacreScore:
        return self._compute_score_from_stats(statistics.sum(axis=0))

    def get_signature(self) -> Signature:
        """A fresh signature of sacreBLEU's that the test may complete."""
        from sacrebleu.metrics.base import Signature

        return Signature({"num_refs": self.n_references})


def as_estimate(result: Any) -> Estimate:
    """The result of a bootstrap of sacreBLEU's, as plain numbers."""
    return Estimate(float(result.score), float(result.mean - result.ci), float(result.mean + result.ci))


def check_resamples(resamples: int) -> None:
    """Raise UsageError if so few resamples have no quantiles to speak of, or there are too many."""
    if not RESAMPLES_RANGE.holds(resamples):
        raise UsageError(f"--resamples must be {RESAMPLES_RANGE.words}, not {resamples}.")


def check_counts(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise DataError unless there is one hypothesis for each line of each reference, and at least one."""
    if not references or not hypotheses:
        raise DataError("Nothing to score: at least one reference and one sentence are needed.")
    for number, one in enumerate(references, 1):
        if len(one) != len(hypotheses):
            raise DataError(
                f"Line i of hypotheses and references must belong together, but there are {len(hypotheses):,} "
                f"hypotheses and reference {number} has {len(one):,} lines. Align the files and try again."
            )


def mean_of_seeds(scorer: Scorer, n_seeds: int) -> Scorer:
    """The mean score of what `n_seeds` systems wrote, each text scored by itself.

    A hypothesis is what all seeds wrote for a sentence, one a line, so that a resample draws the same ones for all.
    """

    def count(hypotheses: list[str]) -> Floats:
        by_seed = zip(*(lines.split("\n") for lines in hypotheses), strict=True)
        return np.hstack([scorer.statistics(one) for one in by_seed])

    def combine(sums: npt.NDArray[Any]) -> float:
        return float(np.mean([scorer.of_sums(one) for one in np.split(sums, n_seeds)]))

    return Scorer(scorer.name, scorer.signature, scorer.n_references, count, combine)


def make_scorers(
    metrics: Sequence[str], references: Sequence[Sequence[str]], settings: MetricSettings = AS_PUBLISHED
) -> list[Scorer]:
    """The scorers of `metrics` against `references` [R][n]: one for each score in METRICS.

    Raises:
        UsageError: an unknown metric, or one that the script of the references or the settings rule out.
    """
    scorers: list[Scorer] = []
    for metric in dict.fromkeys(metrics):
        if metric in ROUGE:
            scorers += rouge_scorers(references, ROUGE[metric])
        else:
            scorers.append(_sacre_scorer(metric, references, settings))
    return scorers


def sacre_metric(
    metric: str,
    references: Sequence[Sequence[str]],
    settings: MetricSettings,
    *,
    by_sentence: bool = False,
) -> Any:
    """SacreBLEU's own metric "bleu", "chrf" or "ter" against `references` [R][n].

    `by_sentence` makes one for single sentences: it has no references yet, and BLEU leaves out n-grams that are longer
    than the sentence.

    Raises:
        UsageError: an unknown metric, or one that the script of the references or the settings rule out.
    """
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    blanks = blanks_of(references)
    against = None if by_sentence else [list(text) for text in references]
    match metric:
        case "bleu":
            tokenize = settings.tokenize or {WordSpacing.HAN: "zh", WordSpacing.UNSPACED: "char"}.get(blanks, "13a")
            try:
                # `force` only silences the question whether the text was tokenized before.
                return BLEU(settings.lowercase, True, tokenize, effective_order=by_sentence, references=against)
            except (ImportError, RuntimeError, OSError) as error:
                reason = " ".join(str(error).split())
                raise UsageError(f"--tokenize {tokenize}: sacreBLEU cannot use it here: {reason}") from error
        case "chrf":
            if settings.word_order and blanks is not WordSpacing.SPACED:
                raise UsageError(
                    f"--word-order {settings.word_order} counts words, and the script of the references puts no blanks "
                    "between them. Leave it out: chrF over characters needs none."
                )
            return CHRF(word_order=settings.word_order, lowercase=settings.lowercase, references=against)
        case "ter":
            if blanks is WordSpacing.UNSPACED:
                raise UsageError(
                    "--metric ter counts words, and the script of the references puts no blanks between them, nor can "
                    "TER's own tokenizer split it. Use chrf, or bleu with --tokenize."
                )
            han = blanks is WordSpacing.HAN
            return TER(normalized=han, asian_support=han, references=against)
        case _:
            raise UsageError(f"--metric {metric}: unknown; choose from {', '.join(METRICS)}.")


def _sacre_scorer(metric: str, references: Sequence[Sequence[str]], settings: MetricSettings) -> Scorer:
    made = sacre_metric(metric, references, settings)

    def count(hypotheses: list[str]) -> Floats:
        return np.array(made._extract_corpus_statistics(hypotheses, None), dtype=np.float64)

    def combine(sums: npt.NDArray[Any]) -> float:
        return float(made._compute_score_from_stats(sums).score)

    return Scorer(metric, str(made.get_signature()), len(references), count, combine)


def rouge_scorers(references: Sequence[Sequence[str]], kinds: Sequence[str] = ROUGE["rouge"]) -> list[Scorer]:
    """Scorers of the mean F1 for each of `kinds` of ROUGE, with mean precision and recall as their parts.

    All of them share what they count.

    Raises:
        UsageError: the references do not say where sentences end, and ROUGE-Lsum needs it.
    """
    made = signature(references, kinds)
    counted: dict[tuple[str, ...], dict[str, Floats]] = {}

    def count(kind: str, part: int, hypotheses: list[str]) -> Floats:
        key = tuple(hypotheses)
        if key not in counted:
            counted[key] = sentence_rouge(hypotheses, references, kinds)
        values = counted[key][kind][:, part]
        # The ones add up to the number of sentences, which the mean divides by.
        return np.stack([values, np.ones_like(values)], axis=1)

    def scorer(kind: str, part: int, parts: Sequence[Scorer] = ()) -> Scorer:
        return Scorer(kind, made, len(references), lambda texts: count(kind, part, texts), _mean, parts)

    return [scorer(kind, F1, [scorer(kind, PRECISION), scorer(kind, RECALL)]) for kind in kinds]


def _mean(sums: npt.NDArray[Any]) -> float:
    return float(100 * sums[0] / sums[1])
