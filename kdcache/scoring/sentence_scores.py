"""The score of each sentence by itself, and the file that lists them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from kdcache.errors import UsageError
from kdcache.scoring.rouge import KINDS, sentence_rouge
from kdcache.scoring.scorers import F1, METRICS, check_counts


def sentence_scores(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], metrics: Sequence[str], *, lowercase: bool = False
) -> dict[str, list[float]]:
    """Score each of `hypotheses` [n] alone against `references` [R][n]: {name: n values, 0 … 100}.

    BLEU has effective order: it leaves out n-grams longer than the sentence. The mean over sentences is the text's
    score for ROUGE only.

    Raises:
        DataError: numbers of lines differ.
        UsageError: an unknown metric.
    """
    check_counts(hypotheses, references)
    found: dict[str, list[float]] = {}
    for metric in dict.fromkeys(metrics):
        if metric == "rouge":
            rouge = sentence_rouge(hypotheses, references)
            found.update({kind: (100 * rouge[kind][:, F1]).tolist() for kind in KINDS})
        else:
            score = _sentence_scorer(metric, lowercase)
            rows = zip(hypotheses, *references, strict=True)
            found[metric] = [score(hypothesis, targets) for hypothesis, *targets in rows]
    return found


def _sentence_scorer(metric: str, lowercase: bool) -> Callable[[str, list[str]], float]:
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF
    from sacrebleu.metrics.ter import TER

    match metric:
        case "bleu":
            made: BLEU | CHRF | TER = BLEU(lowercase=lowercase, effective_order=True, force=True)
        case "chrf":
            made = CHRF(lowercase=lowercase)
        case "ter":
            made = TER()
        case _:
            raise UsageError(f"--metric {metric}: unknown; choose from {', '.join(METRICS)}.")
    return lambda hypothesis, targets: float(made.sentence_score(hypothesis, targets).score)


def as_tsv(hypotheses: Sequence[str], scores: dict[str, list[float]]) -> bytes:
    r"""A table with a header: line number from 1, hypothesis, scores. Tabs are written as \t, backslashes as \\."""
    lines = ["\t".join(("line", "hypothesis", *scores))]
    for i, hypothesis in enumerate(hypotheses):
        text = hypothesis.replace("\\", "\\\\").replace("\t", "\\t").replace("\r", "\\r")
        lines.append("\t".join((str(i + 1), text, *(f"{values[i]:.4f}" for values in scores.values()))))
    return "".join(f"{line}\n" for line in lines).encode()


def as_jsonl(hypotheses: Sequence[str], scores: dict[str, list[float]]) -> bytes:
    """The same as one JSON object a line, with all digits."""
    lines = [
        {"line": i + 1, "hypothesis": hypothesis, **{name: values[i] for name, values in scores.items()}}
        for i, hypothesis in enumerate(hypotheses)
    ]
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines).encode()
