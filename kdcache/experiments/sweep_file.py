"""A sweep's TOML file: the settings, what varies, the texts that are scored, and the students that follow from it."""

import hashlib
import itertools
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import DataError, UsageError
from kdcache.files.locations import check_local
from kdcache.files.run_records import LOG_FILE
from kdcache.scoring.score_config import METRICS
from kdcache.settings import spell
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.student_config import StudentConfig

Value = str | int | float | bool
Settings = dict[str, Value]
# Makes the configuration that options of student-train describe.
ReadOptions = Callable[[Sequence[str]], StudentConfig]

SEED, ONLY_RUN = "seed", "run"
_NAME_MAX = 120
_SECTIONS = ("base", "grid", "test")
_TOP = ("output", "baseline", *_SECTIONS, "arms")
# The name of a text follows a run's name and a dot in names of files, so it must not look like the rest of a number.
_TEST_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
# What a test set may set besides its files and metrics, and the types of values.
_SEARCH = {"lowercase": (bool,), "beam_size": (int,), "length_penalty": (float, int)}


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text that every student translates.

    Attributes:
        name: a short name for tables and files.
        source: a file with one sentence a line.
        references: one or more files with as many lines.
        metrics: as for `kdcache.scoring.score_corpus.score_corpus`.
        lowercase: whether case is ignored.
        beam_size, length_penalty: as in `GenerateConfig`.
    """

    name: str
    source: str
    references: tuple[str, ...]
    metrics: tuple[str, ...] = ("bleu", "chrf")
    lowercase: bool = False
    beam_size: int = 4
    length_penalty: float = 1.0


@dataclass(frozen=True, slots=True)
class Student:
    """One run of a sweep: a student that is trained and then writes the texts.

    Attributes:
        name: made from what varies.
        row: the row of the table to which it belongs: what varies besides the seed.
        settings: all options that are given to student-train.
        config: the same as a configuration.
        folder: where it is trained; what is made from it lies beside, under names that begin with the folder's name.
    """

    name: str
    row: str
    settings: Settings
    config: StudentConfig
    folder: Path

    @property
    def arguments(self) -> list[str]:
        """The command that trains it, after `kdcache`."""
        return ["student-train", *command_line(self.settings), "--output", str(self.folder)]

    def beside(self, ending: str) -> Path:
        """A file of this run beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.{ending}")

    def hypotheses(self, text: ScoredText) -> Path:
        """The file into which it writes the target side of a text."""
        return self.beside(f"{text.name}.txt")

    def generation(self, text: ScoredText) -> GenerateConfig:
        """How it writes the target side of a text."""
        device = self.config.training.device
        return GenerateConfig(str(self.folder), text.source, text.beam_size, text.length_penalty, device=device)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A sweep, whose paths are relative to the folder of its file, in which everything runs.

    Attributes:
        file: the file itself.
        output: the folder of the runs.
        baseline: name of the row that the others are compared with, or None.
        tests: the texts that are scored.
        students: one for every combination of the grid, for every arm; the last key of the grid changes fastest.
    """

    file: Path
    output: Path
    baseline: str | None
    tests: tuple[ScoredText, ...]
    students: tuple[Student, ...]

    @property
    def rows(self) -> list[str]:
        """The rows of the table, in the order of the students."""
        return list(dict.fromkeys(student.row for student in self.students))


def read_sweep(file: Path, options: Mapping[str, bool], read: ReadOptions) -> Sweep:
    """Read a sweep's file.

    Args:
        file: TOML.
        options: those of student-train by name, and whether each is a flag.
        read: makes a configuration of options.

    Raises:
        DataError: the file cannot be read, or is not TOML.
        UsageError: a key means nothing, a value is of the wrong kind, student-train or generate would refuse a
            setting, two runs are the same, or the baseline is none of the rows.
    """
    try:
        content = tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{file}: not TOML: {error}.") from error
    for key in content:
        if key in options:
            raise UsageError(f"{file}: {key} is an option of student-train. Write it into [base], [grid] or an arm.")
        _check_known(key, _TOP, f"{file}")
    for key in _SECTIONS:
        if not isinstance(content.setdefault(key, {}), dict):
            raise UsageError(f"{file}: {key} must be a table: begin it with a line [{key}].")
    base = {key: _value(key, value, options, f"{file}: [base]") for key, value in content["base"].items()}
    grid = _grid(content["grid"], base, options, f"{file}: [grid]")
    arms = _arms(content.get("arms", []), grid, options, f"{file}: [[arms]]")
    tests = tuple(_scored_text(name, table, f"{file}: [test.{name}]") for name, table in content["test"].items())
    output, baseline = _text(content.get("output", "sweep"), f"{file}: output"), content.get("baseline")
    check_local(output)
    students = _expand(file, Path(output), base, grid, arms, read)
    sweep = Sweep(file, Path(output), baseline, tests, students)
    if baseline is not None and _text(baseline, f"{file}: baseline") not in sweep.rows:
        raise UsageError(f"{file}: baseline {baseline!r} is none of the rows. Write one of {'; '.join(sweep.rows)}.")
    return sweep


def _check_known(key: str, names: Collection[str], place: str) -> None:
    if key not in names:
        raise UsageError(f"{place}: {key!r} is not known. Leave it out, or write one of {', '.join(names)}.")


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{place} must be a text that is not empty, not {value!r}.")
    return value


def _texts(value: Any, place: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise UsageError(f"{place} must be a text or a list of texts, not {value!r}.")
    return tuple(_text(text, place) for text in values)


def _value(key: str, value: Any, options: Mapping[str, bool], place: str) -> Value:
    if key not in options:
        remedy = "Options are written by their long names with underscores"
        raise UsageError(f"{place}: {key!r} is no option of student-train. {remedy}: {', '.join(options)}.")
    if not isinstance(value, str | int | float | bool):
        raise UsageError(f"{place}: {key} takes one value here, not {value!r}. Lists of values belong into [grid].")
    if isinstance(value, bool) != options[key]:
        wanted = "true or false" if options[key] else "a number or a text"
        raise UsageError(f"{place}: the value of {key} must be {wanted}, not {value!r}.")
    return value


def _grid(
    table: dict[str, Any], base: Settings, options: Mapping[str, bool], place: str
) -> dict[str, tuple[Value, ...]]:
    for key, values in table.items():
        if key in base:
            raise UsageError(f"{place}: {key} stands in [base] as well. Leave it out in one of them.")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{place}: {key} takes a list of values such as [1, 2, 3], not {values!r}.")
    return {key: tuple(_value(key, value, options, place) for value in values) for key, values in table.items()}


def _arms(tables: Any, grid: Mapping[str, object], options: Mapping[str, bool], place: str) -> dict[str, Settings]:
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UsageError(f"{place}: begin each arm with a line [[arms]].")
    arms: dict[str, Settings] = {}
    for number, table in enumerate(tables, 1):
        name = _text(table.pop("name", None), f"{place} number {number}: name")
        if name in arms:
            raise UsageError(f"{place}: two arms have the name {name}. Give each its own.")
        if both := sorted(table.keys() & grid.keys()):
            raise UsageError(f"{place} {name}: {both[0]} stands in [grid] as well. Leave it out in one of them.")
        arms[name] = {key: _value(key, value, options, f"{place} {name}") for key, value in table.items()}
    return arms


def _scored_text(name: str, table: Any, place: str) -> ScoredText:
    if not isinstance(table, dict) or not _TEST_NAME.fullmatch(name):
        raise UsageError(f"{place}: a test set is a table whose name begins with a letter, then letters, digits, _, -.")
    for key, value in table.items():
        _check_known(key, ("source", "reference", "metrics", *_SEARCH), place)
        if key in _SEARCH and type(value) not in _SEARCH[key]:
            example = str(_SEARCH[key][0](1)).lower()
            raise UsageError(f"{place}: {key} takes a value such as {example}, not {value!r}.")
    fields = {key: value for key, value in table.items() if key in _SEARCH}
    if "metrics" in table:
        fields["metrics"] = _texts(table["metrics"], f"{place}: metrics")
        for metric in fields["metrics"]:
            _check_known(metric, METRICS, f"{place}: metrics")
    source = _text(table.get("source"), f"{place}: source")
    text = ScoredText(name, source, _texts(table.get("reference"), f"{place}: reference"), **fields)
    try:
        GenerateConfig("", text.source, text.beam_size, text.length_penalty).check()
    except UsageError as error:
        raise UsageError(f"{place}: generation would be refused: {error}") from error
    return text


def _expand(
    file: Path,
    output: Path,
    base: Settings,
    grid: Mapping[str, tuple[Value, ...]],
    arms: Mapping[str, Settings],
    read: ReadOptions,
) -> tuple[Student, ...]:
    """The students of all arms and all combinations of the grid."""
    students: dict[StudentConfig, Student] = {}
    for (arm, settings_of_arm), values in itertools.product(
        arms.items() or [("", {})], itertools.product(*grid.values())
    ):
        varied = dict(zip(grid, values, strict=True))
        settings = {**base, **settings_of_arm, **varied}
        name, row = _names(arm, varied)
        try:
            config = read(command_line(settings))
        except UsageError as error:
            raise UsageError(f"{file}: the run {row} would be refused: {error}") from error
        if config in students:
            both = f"{students[config].name} and {name}"
            raise UsageError(f"{file}: the runs {both} have the same settings. Leave one of them out.")
        students[config] = Student(name, row, settings, config, output / name)
    return tuple(students.values())


def command_line(settings: Settings) -> list[str]:
    """Settings as options of student-train."""
    arguments: list[str] = []
    for key, value in settings.items():
        if value is not False:
            arguments += [spell(key), *([] if value is True else [str(value)])]
    return arguments


def _names(arm: str, varied: Settings) -> tuple[str, str]:
    """The names of a run, which is one plain part of a path, and of its row."""
    row, name = ([arm], [_sanitised(arm)]) if arm else ([], [])
    for key, value in varied.items():
        shown = str(value).lower() if isinstance(value, bool) else str(value)
        name.append(f"{key}={_sanitised(shown) if isinstance(value, str) else shown}")
        row += [f"{key}={shown}"] if key != SEED else []
    folder = ",".join(name) or ONLY_RUN
    # The log beside the folder must not be the sweep's own.
    if len(folder) > _NAME_MAX or f"{folder}.log" == LOG_FILE:
        folder = f"{folder[: _NAME_MAX - 9]}~{_digest(folder)}"
    return folder, ",".join(row) or ONLY_RUN


def _sanitised(text: str) -> str:
    """A text as a part of a file's name: a ramp's colons become ~, other signs give way to - and a digest is added.

    It has no dot, so that no name can be that of a file beside another run.
    """
    if re.fullmatch(r"[0-9.:e+-]*[0-9]", text) and not text.startswith((".", "-")):
        return text.replace(":", "~")
    kept = re.sub(r"[^A-Za-z0-9_+-]+", "-", text).lstrip("-")
    return kept if kept == text else f"{kept}~{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
