"""What `kdcache score` does: read and fingerprint each text once, generate what is missing, score and compare."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kdcache.errors import DataError
from kdcache.files.hub import local_folder, on_hub
from kdcache.files.locations import printable
from kdcache.files.run_records import log
from kdcache.process.signals import stop_on_signals
from kdcache.scoring.lineage import Lineage, Text, student_lineage, text_lineage
from kdcache.scoring.score_config import ScoreConfig, bootstrap_seed
from kdcache.scoring.score_corpus import Score, differences_of, scores_of
from kdcache.scoring.score_file import VERSION, Bootstrap, Comparison, ScoreFile
from kdcache.scoring.scorers import Scorer, check_counts, make_scorers
from kdcache.student.generate_config import GenerateConfig
from kdcache.text.corpus import Corpus, TextFiles


@dataclass(frozen=True, slots=True)
class System:
    """One side of a comparison.

    Attributes:
        name: the file or folder as it was given.
        lineage: what its hypotheses depend on.
        text: its hypotheses, or for a student the source that it will be given.
        search: how a student generates; None where `text` are hypotheses.
    """

    name: str
    lineage: Lineage
    text: Text
    search: GenerateConfig | None = None


@dataclass(frozen=True, slots=True)
class ScoreTask:
    """What is to be measured: all texts are read and fingerprinted, nothing is generated yet."""

    config: ScoreConfig
    references: list[Text]
    system: System
    baseline: System | None
    scorers: list[Scorer]

    @property
    def reference_sentences(self) -> list[list[str]]:
        """The sentences of each reference, [R][n]."""
        return [text.sentences for text in self.references]

    def inputs(self) -> dict[str, str]:
        """Fingerprints of everything that was read, by name."""
        baseline = {} if self.baseline is None else self.baseline.lineage.prints()
        return {**self.system.lineage.prints(), **{f"baseline {name}": value for name, value in baseline.items()}}


def prepare(config: ScoreConfig) -> ScoreTask:
    """Read and fingerprint the texts.

    Raises:
        UsageError: options contradict each other, or a metric does not suit the script of the references.
        DataError: a text cannot be read, numbers of lines differ, or the two systems had different sources.
        CorruptError: a record that says where a text comes from is damaged.
    """
    config.check()
    sources, references = _texts(config)
    if config.student is None:
        system = _written(str(config.hypothesis), references)
    else:
        system = _student(config.student, sources or Text.read(config.student.source), references)
    baseline = None
    if config.baseline is not None:
        if config.student is not None and (on_hub(config.baseline) or Path(config.baseline).is_dir()):
            search = dataclasses.replace(config.student, student=config.baseline)
            baseline = _student(search, system.text, references)
        else:
            baseline = _written(config.baseline, references)
        if len({side.lineage.source for side in (system, baseline)} - {None}) > 1:
            raise DataError(
                f"--baseline {config.baseline}: was generated from another source text than {system.name}. Compare "
                "outputs of the same source."
            )
    scorers = make_scorers(config.metric, [text.sentences for text in references], config.settings)
    return ScoreTask(config, references, system, baseline, scorers)


def _texts(config: ScoreConfig) -> tuple[Text | None, list[Text]]:
    """The source as far as it stands beside the reference, and the references."""
    if config.pairs is None:
        return None, [Text.read(path) for path in config.reference]
    pairs = [pair for pair in Corpus(TextFiles(pairs=config.pairs)).read() if pair is not None]
    return Text.of([pair.source for pair in pairs]), [Text.of([pair.target for pair in pairs])]


def _student(search: GenerateConfig, source: Text, references: Sequence[Text]) -> System:
    check_counts(source.sentences, [text.sentences for text in references])
    return System(
        printable(search.student), student_lineage(local_folder(search.student), source, references), source, search
    )


def _written(path: str, references: Sequence[Text]) -> System:
    hypotheses = Text.read(path)
    check_counts(hypotheses.sentences, [text.sentences for text in references])
    return System(printable(path), text_lineage(Path(path), hypotheses, references), hypotheses)


def measure(task: ScoreTask) -> tuple[ScoreFile, list[str]]:
    """Generate what has to be generated, score and compare it; also return the system's hypotheses.

    Raises:
        ModelError: a student cannot be opened.
        DataError: a line of the source is longer than its positions.
        StoppedError: a signal asked to stop.
    """
    resamples, scorers = task.config.resamples, task.scorers
    hypotheses, lineage, ceilings = _hypotheses(task.system, task)
    scores = scores_of(scorers, hypotheses, resamples)
    comparison = None
    if task.baseline is not None:
        other, other_lineage, _ = _hypotheses(task.baseline, task)
        differences = differences_of(scorers, hypotheses, other, resamples)
        other_scores = scores_of(scorers, other, resamples)
        comparison = Comparison(task.baseline.name, tuple(other_scores), other_lineage, tuple(differences))
    bootstrap = Bootstrap(resamples, bootstrap_seed())
    result = ScoreFile(VERSION, task.system.name, tuple(scores), tuple(ceilings), bootstrap, lineage, comparison)
    return result, hypotheses


def _hypotheses(system: System, task: ScoreTask) -> tuple[list[str], Lineage, list[Score]]:
    """A system's hypotheses, what they depend on, and the ceilings that a student's tokenizer sets.

    A ceiling is what the first reference scores after the student's tokenizer has encoded and decoded it: what a
    perfect student would reach.
    """
    if system.search is None:
        return system.text.sentences, system.lineage, []
    # Scoring a text must not load torch.
    from kdcache.student.direction import seems_exchanged
    from kdcache.student.generation import generate
    from kdcache.student.seq2seq import Student

    student = Student.load(system.search.student)
    ceilings = []
    if system is task.system:
        restored = [student.tokenizer.decode(ids) for ids in student.tokenizer.encode(task.references[0].sentences)]
        ceilings = scores_of(task.scorers, restored, task.config.resamples)
        if seems_exchanged(student, system.text.sentences, task.references[0].sentences):
            log.warning("--source and --reference seem to be exchanged: the student writes texts like the source.")
    with stop_on_signals(kept=False) as stop:
        hypotheses = Text.of(generate(student, system.text.sentences, system.search, stop))
    return hypotheses.sentences, dataclasses.replace(system.lineage, hypothesis=hypotheses.sha256), ceilings
