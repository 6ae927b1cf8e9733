"""Scoring a student: what it generates, and what its tokenizer lets it reach at best."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.process.signals import stop_on_signals
from kdcache.scoring.score_corpus import Score, score_corpus
from kdcache.scoring.scorers import RESAMPLES
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import load_student
from kdcache.text.lines import read_sentences
from kdcache.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a student wrote, its scores, and for each the ceiling that its tokenizer sets.

    The ceiling is what the references score after the tokenizer has encoded and decoded them.
    """

    scores: list[Score]
    ceilings: list[Score]
    hypotheses: list[str]


def evaluate(
    config: GenerateConfig,
    references: Sequence[Sequence[str]],
    metrics: Sequence[str],
    *,
    lowercase: bool,
    resamples: int = RESAMPLES,
) -> Evaluation:
    """Generate from `config.source` and score against `references`, one sequence for each reference file.

    Raises:
        DataError: numbers of lines differ, or the source cannot be read.
        ModelError: the student cannot be opened.
        UsageError: an unknown metric.
    """
    config.check()
    sentences = read_sentences(Path(config.source))
    student = load_student(Path(config.student))
    reached = round_trip(student.tokenizer, references[0])
    ceilings = score_corpus(reached, references, metrics, lowercase=lowercase, resamples=resamples)
    with stop_on_signals() as stop:
        hypotheses = generate(student, sentences, config, stop)
    scores = score_corpus(hypotheses, references, metrics, lowercase=lowercase, resamples=resamples)
    return Evaluation(scores, ceilings, hypotheses)


def round_trip(tokenizer: Tokenizer, sentences: Sequence[str]) -> list[str]:
    """Each sentence encoded and decoded again: what a perfect student would write."""
    return [tokenizer.decode(ids) for ids in tokenizer.encode(sentences)]
