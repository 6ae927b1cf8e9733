"""What `kdcache score` does: find what is to be scored and where it comes from, then score and compare it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import DataError, UsageError
from kdcache.scoring.comparison import compare_corpus
from kdcache.scoring.score_corpus import Score, score_corpus
from kdcache.scoring.score_file import VERSION, Bootstrap, Comparison, ScoreFile
from kdcache.scoring.scorers import RESAMPLES, bootstrap_seed, check_counts, check_resamples
from kdcache.student.fingerprints import Lineage, student_lineage, text_lineage, text_sha256
from kdcache.student.generate_config import GenerateConfig
from kdcache.text.lines import read_sentences


@dataclass(frozen=True, slots=True)
class ScoreConfig:
    """What is scored and how.

    Attributes:
        reference: files of references.
        hypothesis: the file that is scored, or None where `student` says what writes it.
        baseline: a file, or with `student` a folder too, to compare with.
        metric: of `kdcache.scoring.scorers.METRICS`.
        lowercase: whether BLEU and chrF ignore case.
        resamples: of the bootstrap.
    """

    reference: tuple[str, ...]
    hypothesis: str | None = None
    student: GenerateConfig | None = None
    baseline: str | None = None
    metric: tuple[str, ...] = ("bleu", "chrf")
    lowercase: bool = False
    resamples: int = RESAMPLES

    def check(self) -> None:
        """Raise UsageError if options contradict each other or are out of range."""
        if not self.reference or (self.hypothesis is None) == (self.student is None):
            raise UsageError("Give --reference F, and either --hypothesis F, or --student DIR with --source F.")
        if self.student is not None:
            self.student.check()
        elif self.baseline is not None and Path(self.baseline).is_dir():
            raise UsageError(
                f"--baseline {self.baseline}: a student writes from the --source of another --student. Beside "
                "--hypothesis give what it wrote, a file of kdcache generate."
            )
        check_resamples(self.resamples)
        bootstrap_seed()


@dataclass(frozen=True, slots=True)
class System:
    """One side of a comparison: a text, or the student that is going to write it."""

    name: str
    lineage: Lineage
    sentences: list[str] | None
    search: GenerateConfig | None


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be measured, read and fingerprinted; nothing is generated yet."""

    config: ScoreConfig
    references: list[list[str]]
    system: System
    baseline: System | None

    def inputs(self) -> dict[str, str]:
        """Fingerprints of all that is read."""
        of_baseline = {} if self.baseline is None else self.baseline.lineage.prints()
        return {**self.system.lineage.prints(), **{f"baseline {name}": one for name, one in of_baseline.items()}}


def prepare(config: ScoreConfig) -> Task:
    """Read texts and fingerprints.

    Raises:
        UsageError: options contradict each other.
        DataError: a text cannot be read, numbers of lines differ, or the two systems had different sources.
        CorruptError: a record that says where a text comes from is damaged.
    """
    config.check()
    references = [read_sentences(Path(path)) for path in config.reference]
    if config.student is not None:
        system = _student(config.student, references)
    else:
        system = _text(str(config.hypothesis), references)
    baseline = None
    if config.baseline is not None:
        if config.student is not None and Path(config.baseline).is_dir():
            baseline = _student(dataclasses.replace(config.student, student=config.baseline), references)
        else:
            baseline = _text(config.baseline, references)
        sources = {one.lineage.source for one in (system, baseline)} - {None}
        if len(sources) > 1:
            raise DataError(
                f"--baseline {config.baseline}: was generated from another source text than {system.name}. Compare "
                "outputs of the same source."
            )
    return Task(config, references, system, baseline)


def _student(search: GenerateConfig, references: Sequence[Sequence[str]]) -> System:
    source = read_sentences(Path(search.source))
    check_counts(source, references)
    lineage = student_lineage(Path(search.student), source, references)
    return System(search.student, lineage, None, search)


def _text(path: str, references: Sequence[Sequence[str]]) -> System:
    sentences = read_sentences(Path(path))
    check_counts(sentences, references)
    return System(path, text_lineage(Path(path), sentences, references), sentences, None)


def measure(task: Task) -> tuple[ScoreFile, list[str]]:
    """Generate what has to be generated, score and compare it; also return the system's hypotheses.

    Raises:
        ModelError: a student cannot be opened.
        DataError: a line of the source is longer than its positions.
    """
    config = task.config
    hypotheses, lineage, scores, ceilings = _measured(task, task.system)
    comparison = None
    if task.baseline is not None:
        others, other_lineage, other_scores, _ = _measured(task, task.baseline)
        differences = compare_corpus(
            hypotheses,
            others,
            task.references,
            config.metric,
            lowercase=config.lowercase,
            resamples=config.resamples,
        )
        comparison = Comparison(task.baseline.name, tuple(other_scores), other_lineage, tuple(differences))
    bootstrap = Bootstrap(config.resamples, bootstrap_seed())
    result = ScoreFile(VERSION, task.system.name, tuple(scores), tuple(ceilings), bootstrap, lineage, comparison)
    return result, hypotheses


def _measured(task: Task, system: System) -> tuple[list[str], Lineage, list[Score], list[Score]]:
    """Hypotheses, their lineage, their scores, and a student's ceilings."""
    config = task.config
    if system.search is None:
        sentences = system.sentences or []
        scores = score_corpus(
            sentences, task.references, config.metric, lowercase=config.lowercase, resamples=config.resamples
        )
        return sentences, system.lineage, scores, []
    # Scoring a text must not load torch.
    from kdcache.scoring.evaluate import evaluate

    found = evaluate(
        system.search, task.references, config.metric, lowercase=config.lowercase, resamples=config.resamples
    )
    lineage = dataclasses.replace(system.lineage, hypothesis=text_sha256(found.hypotheses))
    return found.hypotheses, lineage, found.scores, found.ceilings
