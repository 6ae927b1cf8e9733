"""The runs of a sweep: every combination of the grid, for every arm, each with a name and its command."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.experiments.sweep_file import Settings, SweepConfig, Value
from kdcache.files.run_records import LOG_FILE
from kdcache.student.student_config import StudentConfig

SEED = "seed"
ALONE = "run"
_NAME_MAX = 120

# Makes the configuration that options of student-train describe.
ReadOptions = Callable[[Sequence[str]], StudentConfig]


@dataclass(frozen=True, slots=True)
class Run:
    """One student of a sweep.

    Attributes:
        name: of its folder, made from what varies.
        row: the line of the table to which it belongs: what varies beside the seed.
        settings: all options that are given to student-train.
        arguments: the same as a command line, without --output.
        config: the same as a configuration.
    """

    name: str
    row: str
    settings: Settings
    arguments: tuple[str, ...]
    config: StudentConfig

    @property
    def seed(self) -> int:
        """Of initialisation, dropout and order."""
        return self.config.training.seed


def expand(sweep: SweepConfig, read: ReadOptions) -> list[Run]:
    """All runs, arm by arm, the last key of the grid changing fastest.

    Raises:
        UsageError: settings are refused, two runs are the same, or the baseline is none of the rows.
    """
    runs = []
    arms: list[tuple[str | None, Settings]] = [*sweep.arms.items()] or [(None, {})]
    for arm, own in arms:
        for values in itertools.product(*sweep.grid.values()):
            varied = dict(zip(sweep.grid, values, strict=True))
            settings = {**sweep.base, **own, **varied}
            row = _row(arm, varied)
            arguments = command_line(settings)
            try:
                config = read(arguments)
            except UsageError as error:
                raise UsageError(f"{sweep.file}: the run {row} would be refused: {error}") from error
            runs.append(Run(_folder_name(arm, varied), row, settings, arguments, config))
    _check_different(sweep, runs)
    rows = rows_of(runs)
    if sweep.baseline is not None and sweep.baseline not in rows:
        raise UsageError(
            f"{sweep.file}: baseline {sweep.baseline!r} is none of the rows. Write one of {'; '.join(rows)}."
        )
    return runs


def rows_of(runs: Sequence[Run]) -> list[str]:
    """The rows of the table, in the order of the runs."""
    return list(dict.fromkeys(run.row for run in runs))


def command_line(settings: Settings) -> tuple[str, ...]:
    """Settings as options of student-train."""
    arguments: list[str] = []
    for key, value in settings.items():
        if value is not False:
            arguments.append("--" + key.replace("_", "-"))
            arguments.extend([] if value is True else [str(value)])
    return tuple(arguments)


def _row(arm: str | None, varied: dict[str, Value]) -> str:
    parts = [] if arm is None else [arm]
    parts.extend(f"{key}={_shown(value)}" for key, value in varied.items() if key != SEED)
    return ",".join(parts) or ALONE


def _shown(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _folder_name(arm: str | None, varied: dict[str, Value]) -> str:
    parts = [] if arm is None else [_sanitised(arm)]
    for key, value in varied.items():
        shown = _shown(value)
        parts.append(f"{key}={_sanitised(shown) if isinstance(value, str) else shown}")
    name = ",".join(parts) or ALONE
    # The log beside the folder is not the sweep's own.
    fits = len(name) <= _NAME_MAX and f"{name}.log" != LOG_FILE
    return name if fits else f"{name[: _NAME_MAX - 9]}~{_digest(name)}"


def _sanitised(text: str) -> str:
    """A part of a file's name: a ramp's colons become ~; what else is replaced is told apart by a digest.

    Without dots in it no name can be that of a file beside another run.
    """
    if re.fullmatch(r"[0-9.:e+-]*[0-9]", text) and not text.startswith((".", "-")):
        return text.replace(":", "~")
    kept = re.sub(r"[^A-Za-z0-9_+-]+", "-", text).lstrip("-")
    return kept if kept == text else f"{kept}~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _check_different(sweep: SweepConfig, runs: Sequence[Run]) -> None:
    seen: dict[StudentConfig, Run] = {}
    for run in runs:
        other = seen.setdefault(run.config, run)
        if other is not run:
            raise UsageError(
                f"{sweep.file}: the runs {other.name} and {run.name} have the same settings. Leave one of them out."
            )
