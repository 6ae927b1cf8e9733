"""The curves of training runs, read from `metrics.jsonl`, whose content is not trusted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import CorruptError, DataError, UsageError
from kdcache.files.locations import printable
from kdcache.files.run_records import METRICS_FILE
from kdcache.files.strict_json import BYTES_MAX, parse_json

VALIDATION_LOSS, TRAINING_LOSS = "valid_nll", "loss"
VALUE_MAX = 1e300
STEP_MAX = 2**53
_HIGHER_IS_BETTER = ("correct", "valid_correct")
_TITLES = {
    "loss": "training loss, nats a target",
    "nll": "hard part of the training loss, nats a target",
    "soft": "soft part of the training loss, nats a target",
    "correct": "right words in training, share of targets",
    "valid_nll": "validation loss, nats a target",
    "valid_correct": "right words in validation, share of targets",
    "learning_rate": "learning rate",
    "gradient_norm": "norm of the gradient before clipping",
}

Points = tuple[tuple[int, float | None], ...]


@dataclass(frozen=True, slots=True)
class Curve:
    """One metric of one run.

    Attributes:
        name: name of the run, for a legend.
        metric: name of the metric, as in `metrics.jsonl`.
        points: optimizer step (from 1, rising) and value, None where it was not finite; at least one value is finite.
    """

    name: str
    metric: str
    points: Points

    @property
    def finite(self) -> list[tuple[int, float]]:
        """The points whose value is finite."""
        return [(step, value) for step, value in self.points if value is not None]

    @property
    def best(self) -> tuple[int, float]:
        """Step and value of the lowest point, or of the highest if more is better; the first of equal ones."""
        sign = -1 if self.metric in _HIGHER_IS_BETTER else 1
        return min(self.finite, key=lambda point: sign * point[1])

    @property
    def title(self) -> str:
        """The name of the metric for people, with its unit."""
        return _TITLES.get(self.metric, self.metric)


def read_curves(folders: Sequence[Path], metric: str | None = None) -> list[Curve]:
    """Read one metric of several runs; None: the validation loss where every run has it, else the training loss.

    Raises:
        DataError: a folder has no `metrics.jsonl`, or no value in it yet.
        CorruptError: that file is not what training writes.
        UsageError: a run lacks the metric.
    """
    runs = [_read_run(folder / METRICS_FILE) for folder in folders]
    if metric is None:
        metric = VALIDATION_LOSS if all(VALIDATION_LOSS in run for run in runs) else TRAINING_LOSS
    names = [folder.resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    curves = []
    for name, run, folder in zip(names, runs, folders, strict=True):
        if metric not in run:
            raise UsageError(f"--metric {metric}: {folder} has no such values. It has {', '.join(sorted(run))}.")
        if all(value is None for value in run[metric].values()):
            raise DataError(f"{folder / METRICS_FILE}: no value of {metric} is finite; there is nothing to draw.")
        curves.append(Curve(printable(name), metric, tuple(run[metric].items())))
    return curves


def _read_run(path: Path) -> dict[str, dict[int, float | None]]:
    """The values of every metric by step."""
    run: dict[str, dict[int, float | None]] = {}
    for place, data in _lines(path):
        values = parse_json(data, place)
        step = _step(values, place)
        for metric, value in values.items():
            if metric == "step":
                continue
            if not metric.isidentifier():
                raise CorruptError(f"{place}: {metric[:40]!r} is no name of a metric.")
            points = run.setdefault(metric, {})
            if points and step <= next(reversed(points)):
                raise CorruptError(f"{place}: {metric} of step {step:,} stands behind that of step {max(points):,}.")
            points[step] = _value(value, f"{place}: {metric}")
    if not run:
        raise DataError(f"{path}: no value yet. Training writes the first after its first step.")
    return run


def _lines(path: Path) -> list[tuple[str, bytes]]:
    """Place and content of each line; a torn last line is left out, since a run may be writing it or died doing so."""
    if not path.is_file():
        raise DataError(f"{path}: no such file. Give folders that teacher-train or student-train wrote.")
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from error
    if len(data) > BYTES_MAX:
        raise CorruptError(f"{path}: more than {BYTES_MAX:,} bytes of metrics.")
    whole = data[: data.rfind(b"\n") + 1].split(b"\n")[:-1]
    return [(f"{path}:{number}", line) for number, line in enumerate(whole, 1)]


def _step(values: Any, place: str) -> int:
    step = values.get("step") if isinstance(values, dict) else None
    if type(step) is not int or not 0 <= step < STEP_MAX:
        raise CorruptError(f"{place}: expected an object with a whole number as its step.")
    return step


def _value(value: Any, place: str) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not -VALUE_MAX < value < VALUE_MAX:
        raise CorruptError(f"{place}: expected a number or null, found {str(value)[:40]!r}.")
    return float(value)
