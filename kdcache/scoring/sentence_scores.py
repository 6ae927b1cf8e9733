"""The score of each sentence by itself, and the file that lists them."""

import json
from collections.abc import Sequence

from kdcache.scoring.rouge import sentence_rouge
from kdcache.scoring.score_config import AS_PUBLISHED, ROUGE, MetricSettings
from kdcache.scoring.scorers import F1, check_counts, sacre_metric


def sentence_scores(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    settings: MetricSettings = AS_PUBLISHED,
) -> dict[str, list[float]]:
    """Score each of `hypotheses` [n] alone against `references` [R][n]: {name: n values, 0 … 100}.

    BLEU has effective order: it leaves out n-grams longer than the sentence. The mean over sentences is the text's
    score for ROUGE only.

    Raises:
        DataError: numbers of lines differ.
        UsageError: an unknown metric.
    """
    check_counts(hypotheses, references)
    scores: dict[str, list[float]] = {}
    for metric in dict.fromkeys(metrics):
        if metric in ROUGE:
            rouge = sentence_rouge(hypotheses, references, ROUGE[metric])
            scores.update({kind: (100 * values[:, F1]).tolist() for kind, values in rouge.items()})
        else:
            scorer = sacre_metric(metric, references, settings, by_sentence=True)
            rows = zip(hypotheses, *references, strict=True)
            scores[metric] = [float(scorer.sentence_score(text, targets).score) for text, *targets in rows]
    return scores


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
