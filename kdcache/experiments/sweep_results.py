"""The results of a sweep: the scores of each run, rows over seeds, differences to the baseline, and their tables."""

from __future__ import annotations

import dataclasses
import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import CorruptError, UsageError
from kdcache.experiments.sweep_file import ScoredText, Settings, Student, Sweep
from kdcache.experiments.sweep_folders import Checker, read_record
from kdcache.files.atomic import file_sha256, replace_file
from kdcache.files.run_records import RUN_FILE, versions
from kdcache.files.strict_json import read_json, readable_json
from kdcache.process.signals import StopRequest
from kdcache.scoring.score_config import RESAMPLES, MetricSettings, bootstrap_seed
from kdcache.scoring.score_corpus import compare, score_corpus
from kdcache.student.fingerprints import WEIGHTS_FILE
from kdcache.text.lines import read_sentences

Rows = list[tuple[str, ...]]

VALIDATION = "valid_nll"
EMPTY = "–"
# The packages that compute scores; sacreBLEU draws its resamples with NumPy's generator.
_SCORING = frozenset({"sacrebleu", "rouge-score", "numpy"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run, as `results.json` has it.

    Attributes:
        name, row, seed, settings: those of the run.
        folder: the name of its folder.
        command: the command that trains it.
        exported_steps: the steps whose parameters, or their mean, the student has.
        valid_nll: validation loss of what was exported, in nats a target, or None.
        scores: for each text the scores of `score_corpus`, as JSON.
        cache: root hash of the cache; `student`: SHA-256 of the student's weights.
        seconds: how long its training took, since the last interruption.
    """

    name: str
    row: str
    seed: int
    settings: Settings
    folder: str
    command: list[str]
    exported_steps: list[int]
    valid_nll: float | None
    scores: dict[str, list[dict[str, Any]]]
    cache: str
    student: str
    seconds: float

    @property
    def values(self) -> dict[str, float]:
        """The validation loss and all scores, by column of the table."""
        loss = {} if self.valid_nll is None else {VALIDATION: self.valid_nll}
        return loss | {f"{text} {score['name']}": score["value"] for text, score in self.named_scores}

    @property
    def named_scores(self) -> list[tuple[str, dict[str, Any]]]:
        """All scores, each with the name of its text."""
        return [(text, score) for text, scores in self.scores.items() for score in scores]


@dataclass(frozen=True, slots=True)
class Spread:
    """A value over several seeds: its mean, its sample standard deviation (None for one seed), and their number."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """The spread of at least one value; the deviation divides by n - 1."""
        deviation = statistics.stdev(values) if len(values) > 1 else None
        return cls(statistics.fmean(values), deviation, len(values))

    def text(self, column: str, sign: str = "") -> str:
        """`28.31 ± 0.42`; the second number is missing for one seed. `sign` is that of format specifications."""
        digits = 4 if column == VALIDATION else 2
        mean = f"{self.mean:{sign}.{digits}f}"
        return mean if self.deviation is None else f"{mean} ± {self.deviation:.{digits}f}"


@dataclass(frozen=True, slots=True)
class Contrast:
    """A row against the baseline.

    Attributes:
        row, column: which value is compared.
        spread: the differences, row - baseline, between runs of the same seed.
        p_value: that of the paired bootstrap test on the joined outputs of all these seeds; None if the metric has no
            such test.
    """

    row: str
    column: str
    spread: Spread
    p_value: float | None


def collect(sweep: Sweep, checker: Checker, stop: StopRequest) -> list[Outcome]:
    """The finished runs; the texts of those that have no scores yet are scored.

    Raises:
        StoppedError: a signal asked to stop.
        CorruptError: a run's record lacks its result.
    """
    outcomes = []
    for student in sweep.students:
        stop.check()
        if checker.trained(student) and all(checker.generated(student, text) for text in sweep.tests):
            outcomes.append(_outcome(student, sweep.tests))
    return outcomes


def _outcome(student: Student, texts: Sequence[ScoredText]) -> Outcome:
    place = student.folder / RUN_FILE
    record = read_record(place)
    try:
        result = record["result"]
        loss = result["valid_nll"] if result["averaged_valid_nll"] is None else result["averaged_valid_nll"]
        return Outcome(
            name=student.name,
            row=student.row,
            seed=student.config.training.seed,
            settings=student.settings,
            folder=student.folder.name,
            command=["kdcache", *student.arguments],
            exported_steps=[int(step) for step in result["exported_steps"]],
            valid_nll=None if loss is None else float(loss),
            scores={text.name: _scores(student, text) for text in texts},
            cache=str(record["inputs"]["cache"]),
            student=file_sha256(student.folder / WEIGHTS_FILE),
            seconds=float(result["seconds"]),
        )
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptError(f"{place}: not the record of a finished student ({error}). Move its folder away.") from error


def _scores(student: Student, text: ScoredText) -> list[dict[str, Any]]:
    """The scores of a text, from the file beside the run's folder if the same was scored in the same way."""
    hypotheses, kept = student.hypotheses(text), student.beside(f"{text.name}.json")
    made_of = {
        "hypotheses": file_sha256(hypotheses),
        "references": [file_sha256(Path(path)) for path in text.references],
        "metrics": list(text.metrics),
        "lowercase": text.lowercase,
        "tokenizers": "by script",
        "resamples": RESAMPLES,
        "seed": bootstrap_seed(),
        "versions": {name: version for name, version in versions().items() if name in _SCORING},
    }
    before = read_json(kept) if kept.exists() else None
    if isinstance(before, dict) and before.get("made_of") == made_of and isinstance(before.get("scores"), list):
        return list(before["scores"])
    references = [read_sentences(Path(path)) for path in text.references]
    scores = score_corpus(read_sentences(hypotheses), references, text.metrics, MetricSettings(text.lowercase))
    content = [dataclasses.asdict(score) for score in scores]
    replace_file(kept, readable_json({"made_of": made_of, "scores": content}))
    return content


def spreads(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Spread]]:
    """Each row's values over its seeds, by row and column."""
    table: dict[str, dict[str, list[float]]] = {}
    for outcome in outcomes:
        columns = table.setdefault(outcome.row, {})
        for column, value in outcome.values.items():
            columns.setdefault(column, []).append(value)
    return {row: {column: Spread.of(values) for column, values in columns.items()} for row, columns in table.items()}


def contrasts(outcomes: Sequence[Outcome], sweep: Sweep, stop: StopRequest) -> list[Contrast]:
    """Every row against the baseline, seed by seed; seeds that only one of the two has are left out.

    Raises:
        StoppedError: a signal asked to stop.
    """
    base = {outcome.seed: outcome for outcome in outcomes if outcome.row == sweep.baseline}
    differences = []
    for row in dict.fromkeys(outcome.row for outcome in outcomes if outcome.row != sweep.baseline):
        pairs = [(new, base[new.seed]) for new in outcomes if new.row == row and new.seed in base]
        for column in dict.fromkeys(column for pair in pairs for outcome in pair for column in outcome.values):
            stop.check()
            both = [pair for pair in pairs if all(column in outcome.values for outcome in pair)]
            if both:
                spread = Spread.of([new.values[column] - old.values[column] for new, old in both])
                differences.append(Contrast(row, column, spread, _p_value(column, both, sweep)))
    return differences


def _p_value(column: str, pairs: Sequence[tuple[Outcome, Outcome]], sweep: Sweep) -> float | None:
    name, _, metric = column.partition(" ")
    text = next((text for text in sweep.tests if text.name == name and metric), None)
    if text is None:
        return None
    new, old = (
        [line for one in side for line in read_sentences(sweep.output / f"{one.folder}.{text.name}.txt")]
        for side in zip(*pairs, strict=True)
    )
    references = [read_sentences(Path(path)) * len(pairs) for path in text.references]
    try:
        return compare(new, old, references, metric, MetricSettings(text.lowercase)).p_value
    except UsageError:
        return None  # a metric without such a test


def value_rows(sweep: Sweep, outcomes: Sequence[Outcome]) -> Rows:
    """The table of means and standard deviations; the first row is the header."""
    table = spreads(outcomes)
    columns = list(dict.fromkeys(column for values in table.values() for column in values))
    planned, finished = (Counter(run.row for run in runs) for runs in (sweep.students, outcomes))
    rows: Rows = [("settings", "seeds", *map(heading, columns))]
    for row in sweep.rows:
        seeds = f"{planned[row]}" if finished[row] == planned[row] else f"{finished[row]} of {planned[row]}"
        values = table.get(row, {})
        rows.append((row, seeds, *(values[one].text(one) if one in values else EMPTY for one in columns)))
    return rows


def contrast_rows(differences: Sequence[Contrast]) -> Rows:
    """The table of differences to the baseline; the first row is the header."""
    rows: Rows = [("settings", "metric", "difference", "seeds", "p")]
    for contrast in differences:
        p_value = EMPTY if contrast.p_value is None else f"{contrast.p_value:.3f}"
        difference = contrast.spread.text(contrast.column, "+")
        rows.append((contrast.row, heading(contrast.column), difference, f"{contrast.spread.n}", p_value))
    return rows


def heading(column: str) -> str:
    """A column's name for people."""
    return "validation loss" if column == VALIDATION else column


def notes(outcomes: Sequence[Outcome], baseline: str | None) -> list[str]:
    """Sentences that explain the numbers, and the signatures of the metrics; `baseline` is None without contrasts."""
    sentences = [
        "Mean ± sample standard deviation over seeds. The validation loss is in nats a target, of what was exported."
    ]
    if baseline is not None:
        sentences.append(
            f"Differences are those to {baseline}, between runs of the same seed. p is that of sacreBLEU's paired "
            "bootstrap test over the test sentences, which counts one tail, with the outputs of all these seeds one "
            "behind the other. It covers the choice of sentences, not that of the seeds, and takes the outputs of "
            "several seeds for one sentence as independent, which makes it rather too small; the deviation of the "
            "difference says what the seed does."
        )
    signatures: dict[str, dict[str, None]] = {}
    for text, score in (pair for outcome in outcomes for pair in outcome.named_scores):
        signatures.setdefault(score["signature"], {})[f"{text} {score['name']}"] = None
    return [*sentences, *(f"{', '.join(columns)}: {signature}" for signature, columns in signatures.items())]
