"""What came out of a sweep: of each run, of each row over its seeds, and against the baseline."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import CorruptError, UsageError
from kdcache.experiments.sweep_file import ScoredText
from kdcache.experiments.sweep_folders import Checker, Student, read_record
from kdcache.experiments.sweep_grid import rows_of
from kdcache.files.atomic import file_sha256, replace_file
from kdcache.files.run_records import RUN_FILE, versions
from kdcache.files.strict_json import read_json, readable_json
from kdcache.process.signals import StopRequest
from kdcache.scoring.score_corpus import compare, score_corpus
from kdcache.scoring.scorers import RESAMPLES, bootstrap_seed
from kdcache.student.fingerprints import WEIGHTS_FILE
from kdcache.text.lines import read_sentences

VALIDATION = "valid_nll"
# The packages that compute scores; sacreBLEU draws its resamples with NumPy's generator.
_SCORING = frozenset({"sacrebleu", "rouge-score", "numpy"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """A finished run.

    Attributes:
        student: the run and its folder.
        exported_steps: whose parameters, or their mean, the student has.
        seconds: of its training, without what was trained before an interruption.
        cache: the root hash of the cache; `weights`: SHA-256 of the student's file of weights.
        values: by column: the validation loss of what was exported, in nats a target, and each text's scores.
        scores: by text what `score_corpus` found, as JSON.
    """

    student: Student
    exported_steps: tuple[int, ...]
    seconds: float
    cache: str
    weights: str
    values: dict[str, float]
    scores: dict[str, list[dict[str, Any]]]

    def as_json(self) -> dict[str, Any]:
        """The entry of `results.json`."""
        run = self.student.run
        return {
            "name": run.name,
            "row": run.row,
            "seed": run.seed,
            "settings": run.settings,
            "folder": self.student.folder.name,
            "command": ["kdcache", *self.student.arguments],
            "exported_steps": list(self.exported_steps),
            VALIDATION: self.values.get(VALIDATION),
            "scores": self.scores,
            "cache": self.cache,
            "student": self.weights,
            "seconds": self.seconds,
        }


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


@dataclass(frozen=True, slots=True)
class Contrast:
    """A row against the baseline.

    Attributes:
        row, column: which.
        spread: of the differences, row - baseline, between runs of the same seed.
        p_value: of the paired bootstrap test on the outputs of all these seeds, one behind the other; None where
            there is no such test.
    """

    row: str
    column: str
    spread: Spread
    p_value: float | None


def column_of(text: ScoredText, metric: str) -> str:
    """The column of a metric on a text."""
    return f"{text.name} {metric}"


def collect(
    students: Sequence[Student], texts: Sequence[ScoredText], checker: Checker, stop: StopRequest
) -> list[Outcome]:
    """The finished runs among `students`, those scored that are not yet.

    Raises:
        StoppedError: a signal asked to stop.
        CorruptError: a run's record lacks its result.
    """
    outcomes = []
    for student in students:
        stop.check()
        if checker.trained(student) and all(checker.generated(student, text) for text in texts):
            outcomes.append(_outcome(student, texts))
    return outcomes


def _outcome(student: Student, texts: Sequence[ScoredText]) -> Outcome:
    place = student.folder / RUN_FILE
    record: Any = read_record(place)
    try:
        result = record["result"]
        averaged = result["averaged_valid_nll"]
        loss = result["valid_nll"] if averaged is None else averaged
        steps = tuple(int(one) for one in result["exported_steps"])
        seconds, cache = float(result["seconds"]), str(record["inputs"]["cache"])
        values = {} if loss is None else {VALIDATION: float(loss)}
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptError(f"{place}: not the record of a finished student ({error}). Move its folder away.") from error
    scores = {text.name: _scores(student, text) for text in texts}
    for text in texts:
        values.update({column_of(text, one["name"]): one["value"] for one in scores[text.name]})
    return Outcome(student, steps, seconds, cache, file_sha256(student.folder / WEIGHTS_FILE), values, scores)


def _scores(student: Student, text: ScoredText) -> list[dict[str, Any]]:
    """The scores of a text, from the file beside the run's folder if they were made of the same texts alike."""
    hypotheses, kept = student.hypotheses(text), student.beside(f"{text.name}.json")
    made_of = {
        "hypotheses": file_sha256(hypotheses),
        "references": [file_sha256(Path(path)) for path in text.references],
        "metrics": list(text.metrics),
        "lowercase": text.lowercase,
        "resamples": RESAMPLES,
        "seed": bootstrap_seed(),
        "versions": {name: version for name, version in versions().items() if name in _SCORING},
    }
    if kept.exists():
        before = read_json(kept)
        if isinstance(before, dict) and before.get("made_of") == made_of and isinstance(before.get("scores"), list):
            return list(before["scores"])
    references = [read_sentences(Path(path)) for path in text.references]
    found = score_corpus(read_sentences(hypotheses), references, text.metrics, lowercase=text.lowercase)
    scores = [dataclasses.asdict(one) for one in found]
    replace_file(kept, readable_json({"made_of": made_of, "scores": scores}))
    return scores


def columns_of(outcomes: Sequence[Outcome]) -> list[str]:
    """All columns that any run has a value for, in the order in which they appear."""
    return list(dict.fromkeys(column for one in outcomes for column in one.values))


def spreads(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Spread]]:
    """Each row's values over its seeds, by row and column."""
    table: dict[str, dict[str, Spread]] = {}
    for row in rows_of([one.student.run for one in outcomes]):
        own = [one for one in outcomes if one.student.run.row == row]
        table[row] = {
            column: Spread.of([one.values[column] for one in own if column in one.values]) for column in columns_of(own)
        }
    return table


def contrasts(
    outcomes: Sequence[Outcome], baseline: str, texts: Sequence[ScoredText], stop: StopRequest
) -> list[Contrast]:
    """Every row against the baseline, seed by seed; seeds that only one of them has are left out.

    Raises:
        StoppedError: a signal asked to stop.
    """
    by_row: dict[str, dict[int, Outcome]] = {}
    for one in outcomes:
        by_row.setdefault(one.student.run.row, {})[one.student.run.seed] = one
    base = by_row.pop(baseline, {})
    found = []
    for row, own in by_row.items():
        pairs = [(own[seed], base[seed]) for seed in own if seed in base]
        for column in columns_of([one for pair in pairs for one in pair]):
            stop.check()
            both = [pair for pair in pairs if all(column in one.values for one in pair)]
            if both:
                spread = Spread.of([new.values[column] - old.values[column] for new, old in both])
                found.append(Contrast(row, column, spread, _p_value(column, both, texts)))
    return found


def _p_value(column: str, pairs: Sequence[tuple[Outcome, Outcome]], texts: Sequence[ScoredText]) -> float | None:
    text = next((one for one in texts if column.startswith(column_of(one, ""))), None)
    if text is None:
        return None
    new, old = ([line for pair in pairs for line in _lines(pair[side], text)] for side in (0, 1))
    references = [read_sentences(Path(path)) * len(pairs) for path in text.references]
    metric = column.removeprefix(column_of(text, ""))
    try:
        return compare(new, old, references, metric, lowercase=text.lowercase).p_value
    except UsageError:
        return None  # a metric without such a test


def _lines(outcome: Outcome, text: ScoredText) -> list[str]:
    return read_sentences(outcome.student.hypotheses(text))
