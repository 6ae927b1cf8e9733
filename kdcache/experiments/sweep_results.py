"""The results of a sweep, as `results.json` has them: the scores of each run, rows over seeds, and differences.

A run has name, row, seed, settings, folder and command; the `exported_steps` whose parameters, or their mean, the
student has; `valid_nll`, the validation loss of what was exported in nats a target, or None; for each text the scores
of `score_corpus`; the root hash of the cache, the SHA-256 of the student's weights, and the seconds that its training
took since the last interruption.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kdcache.errors import CorruptError, UsageError
from kdcache.experiments.sweep_file import ScoredText, Student, Sweep
from kdcache.experiments.sweep_folders import Checker, read_record
from kdcache.files.atomic import file_sha256, replace_file
from kdcache.files.locations import printable
from kdcache.files.run_records import RUN_FILE, versions
from kdcache.files.strict_json import read_json, readable_json
from kdcache.process.signals import StopRequest
from kdcache.scoring.score_config import RESAMPLES, MetricSettings, bootstrap_seed
from kdcache.scoring.score_corpus import compare_seeds, score_corpus
from kdcache.student.fingerprints import WEIGHTS_FILE
from kdcache.text.lines import read_sentences

VALIDATION = "valid_nll"
# The packages that compute scores; sacreBLEU draws its resamples with NumPy's generator.
_SCORING = frozenset({"sacrebleu", "rouge-score", "numpy"})

Json = dict[str, Any]


def collect(sweep: Sweep, others: int, checker: Checker, stop: StopRequest) -> Json:
    """The results of what is finished, after the texts that have no scores yet were scored.

    `others` is the number of folders in the output that belong to no run.

    Raises:
        StoppedError: a signal asked to stop.
        CorruptError: a run's record lacks its result.
    """
    runs = []
    for student in sweep.students:
        stop.check()
        if checker.trained(student) and all(checker.generated(student, text) for text in sweep.tests):
            runs.append(_run(student, sweep.tests))
    return results(sweep, runs, others, stop)


def results(sweep: Sweep, runs: Sequence[Json], others: int, stop: StopRequest) -> Json:
    """What `results.json` says of these finished runs; errors as of `collect`."""
    by_row: dict[str, dict[str, list[float]]] = {}
    for run in runs:
        columns = by_row.setdefault(run["row"], {})
        for column, value in values(run).items():
            columns.setdefault(column, []).append(value)
    finished = {run["name"] for run in runs}
    return {
        "file": printable(sweep.file.name),
        "versions": versions(),
        "baseline": sweep.baseline,
        "rows": [
            {"row": row, "values": {column: spread(found) for column, found in columns.items()}}
            for row, columns in by_row.items()
        ],
        "differences": list(_differences(runs, sweep, stop)),
        "runs": list(runs),
        "unfinished": [student.name for student in sweep.students if student.name not in finished],
        "not_listed": others,
    }


def values(run: Json) -> dict[str, float]:
    """The validation loss and all scores of a run, by column of the table."""
    loss = {} if run["valid_nll"] is None else {VALIDATION: run["valid_nll"]}
    return loss | {column: score["value"] for column, score in named_scores(run)}


def named_scores(run: Json) -> Iterator[tuple[str, Json]]:
    """All scores of a run, each with its column of the table."""
    return ((f"{text} {score['name']}", score) for text, scores in run["scores"].items() for score in scores)


def spread(found: Sequence[float]) -> Json:
    """Mean, sample standard deviation (None for one value), and number of some values."""
    deviation = statistics.stdev(found) if len(found) > 1 else None
    return {"mean": statistics.fmean(found), "deviation": deviation, "n": len(found)}


def _run(student: Student, texts: Sequence[ScoredText]) -> Json:
    place = student.folder / RUN_FILE
    record = read_record(place)
    try:
        result = record["result"]
        loss = result["valid_nll"] if result["averaged_valid_nll"] is None else result["averaged_valid_nll"]
        return {
            "name": student.name,
            "row": student.row,
            "seed": student.config.training.seed,
            "settings": student.settings,
            "folder": student.folder.name,
            "command": ["kdcache", *student.arguments],
            "exported_steps": [int(step) for step in result["exported_steps"]],
            "valid_nll": None if loss is None else float(loss),
            "scores": {text.name: _scores(student, text) for text in texts},
            "cache": str(record["inputs"]["cache"]),
            "student": file_sha256(student.folder / WEIGHTS_FILE),
            "seconds": float(result["seconds"]),
        }
    except (TypeError, KeyError, ValueError) as error:
        raise CorruptError(f"{place}: not the record of a finished student ({error}). Move its folder away.") from error


def _scores(student: Student, text: ScoredText) -> list[Json]:
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


def _differences(runs: Sequence[Json], sweep: Sweep, stop: StopRequest) -> Iterator[Json]:
    """Every row against the baseline, seed by seed; seeds that only one of the two has are left out.

    `p_value` is that of the paired bootstrap test of the mean over these seeds, None without such a test.
    """
    base = {run["seed"]: run for run in runs if run["row"] == sweep.baseline}
    for row in dict.fromkeys(run["row"] for run in runs if run["row"] != sweep.baseline):
        pairs = [(run, base[run["seed"]]) for run in runs if run["row"] == row and run["seed"] in base]
        for column in dict.fromkeys(column for pair in pairs for run in pair for column in values(run)):
            stop.check()
            if both := [pair for pair in pairs if all(column in values(run) for run in pair)]:
                difference = spread([values(new)[column] - values(old)[column] for new, old in both])
                yield {"row": row, "column": column, "spread": difference, "p_value": _p_value(column, both, sweep)}


def _p_value(column: str, pairs: Sequence[tuple[Json, Json]], sweep: Sweep) -> float | None:
    name, _, metric = column.partition(" ")
    text = next((text for text in sweep.tests if text.name == name and metric), None)
    if text is None:
        return None
    new, old = (
        [read_sentences(sweep.output / f"{run['folder']}.{text.name}.txt") for run in side]
        for side in zip(*pairs, strict=True)
    )
    references = [read_sentences(Path(path)) for path in text.references]
    try:
        return compare_seeds(new, old, references, metric, MetricSettings(text.lowercase)).p_value
    except UsageError:
        return None  # a metric without such a test
