"""Scores of whole texts: sacreBLEU's BLEU, chrF and TER, and rouge-score's ROUGE, each with how it was made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.errors import DataError, UsageError
from kdcache.rouge import sentence_rouge, signature

METRICS = ("bleu", "chrf", "ter", "rouge")


@dataclass(frozen=True, slots=True)
class Score:
    """One number and how it was made.

    Attributes:
        name: "bleu", "chrf", "ter", "rouge1", "rouge2" or "rougeL".
        value: 0 … 100 (TER may exceed it); for ROUGE the mean F1.
        signature: sacreBLEU's, or the settings of rouge-score.
        n: number of sentences.
        precision, recall: of ROUGE, 0 … 100; None for the others.
    """

    name: str
    value: float
    signature: str
    n: int
    precision: float | None = None
    recall: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The fields that apply."""
        fields = {name: getattr(self, name) for name in ("name", "value", "signature", "n", "precision", "recall")}
        return {name: value for name, value in fields.items() if value is not None}


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


def score_corpus(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    *,
    lowercase: bool = False,
) -> list[Score]:
    """Score `hypotheses` [n] against `references` [R][n]; "rouge" gives ROUGE-1, ROUGE-2 and ROUGE-L.

    ROUGE always ignores case, and TER does as in sacreBLEU; both say so in their signatures.

    Raises:
        DataError: numbers of lines differ.
        UsageError: an unknown metric.
    """
    check_counts(hypotheses, references)
    scores: list[Score] = []
    for metric in dict.fromkeys(metrics):
        if metric == "rouge":
            scores.extend(_rouge(hypotheses, references))
        elif metric in METRICS:
            scores.append(_sacre(metric, hypotheses, references, lowercase))
        else:
            raise UsageError(f"--metric {metric}: unknown; choose from {', '.join(METRICS)}.")
    return scores


def _sacre(metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], lowercase: bool) -> Score:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    # `force` only silences the question whether the text was tokenized before.
    makers: dict[str, Callable[[], Any]] = {
        "bleu": lambda: BLEU(lowercase=lowercase, force=True),
        "chrf": lambda: CHRF(lowercase=lowercase),
        "ter": TER,
    }
    scorer = makers[metric]()
    value = float(scorer.corpus_score(list(hypotheses), [list(one) for one in references]).score)
    return Score(metric, value, str(scorer.get_signature()), len(hypotheses))


def _rouge(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> list[Score]:
    made, n = signature(references), len(hypotheses)
    scores = []
    for kind, sentences in sentence_rouge(hypotheses, references).items():
        precision, recall, f1 = (100 * sentences.mean(axis=0)).tolist()
        scores.append(Score(kind, f1, made, n, precision, recall))
    return scores
