"""What a sweep is, as its TOML file says: settings, what varies, and the texts that decide."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import DataError, UsageError
from kdcache.files.locations import check_local
from kdcache.scoring.scorers import METRICS
from kdcache.student.generate_config import GenerateConfig

Value = str | int | float | bool
Settings = dict[str, Value]

# A file's name may follow a run's name and a dot: it must not look like the rest of a number.
_TEST_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,39}")
_SEARCH = GenerateConfig("", "")
_TOP = ("output", "baseline", "base", "grid", "arms", "test")
_TEST_KEYS = ("source", "reference", "metrics", "lowercase", "beam_size", "length_penalty")
_EXAMPLES = {"lowercase": "true", "beam_size": "4", "length_penalty": "1.0"}


@dataclass(frozen=True, slots=True)
class ScoredText:
    """A text that every student translates.

    Attributes:
        name: short, for tables and names of files.
        source: file with one sentence a line.
        references: one or more files beside it.
        metrics: as for `kdcache.scoring.score_corpus.score_corpus`.
        lowercase: whether case is ignored.
        beam_size, length_penalty: as in `GenerateConfig`.
    """

    name: str
    source: str
    references: tuple[str, ...]
    metrics: tuple[str, ...] = ("bleu", "chrf")
    lowercase: bool = False
    beam_size: int = _SEARCH.beam_size
    length_penalty: float = _SEARCH.length_penalty


@dataclass(frozen=True, slots=True)
class SweepConfig:
    """A sweep's file. Paths in it are relative to its folder, in which everything runs.

    Attributes:
        file: the file itself.
        output: the folder of the runs, as written in the file.
        base: options of every run.
        grid: values of each option that varies; every combination is a run.
        arms: named settings, each combined with the whole grid; empty where there are none.
        tests: the texts that are scored.
        baseline: name of the row that the others are compared with, or None.
    """

    file: Path
    output: str
    base: Settings
    grid: dict[str, tuple[Value, ...]]
    arms: dict[str, Settings]
    tests: tuple[ScoredText, ...]
    baseline: str | None = None


def read_sweep(file: Path, options: Mapping[str, bool]) -> SweepConfig:
    """Read a sweep's file; `options` are those of a student by name, and whether each is a flag.

    Raises:
        DataError: the file cannot be read, or is not TOML.
        UsageError: it has a key that means nothing, or a value of the wrong kind.
    """
    content = _parse(file)
    for key in content:
        if key in options:
            raise UsageError(f"{file}: {key} is an option of student-train. Write it into [base], [grid] or an arm.")
        _known(key, _TOP, f"{file}")
    base = _settings(_table(content, "base", file), options, f"{file}: [base]")
    grid = _grid(_table(content, "grid", file), base, options, f"{file}: [grid]")
    arms = _arms(content.get("arms", []), grid, options, f"{file}: [[arms]]")
    tests = tuple(_test(name, one, f"{file}: [test.{name}]") for name, one in _table(content, "test", file).items())
    output = _text(content.get("output", "sweep"), f"{file}: output")
    check_local(output)
    baseline = content.get("baseline")
    return SweepConfig(
        file, output, base, grid, arms, tests, None if baseline is None else _text(baseline, f"{file}: baseline")
    )


def _parse(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_bytes().decode("utf-8"))
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror or error}.") from error
    except ValueError as error:
        raise DataError(f"{file}: not TOML: {error}.") from error


def _known(key: str, names: tuple[str, ...], place: str) -> None:
    if key not in names:
        raise UsageError(f"{place}: {key!r} is not known. Leave it out, or write one of {', '.join(names)}.")


def _table(content: dict[str, Any], key: str, file: Path) -> dict[str, Any]:
    value = content.get(key, {})
    if not isinstance(value, dict):
        raise UsageError(f"{file}: {key} must be a table: begin it with a line [{key}].")
    return value


def _text(value: Any, place: str) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise UsageError(f"{place} must be a text that is not empty, not {value!r}.")
    return value


def _settings(table: dict[str, Any], options: Mapping[str, bool], place: str) -> Settings:
    return {key: _value(key, value, options, place) for key, value in table.items()}


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
    grid = {}
    for key, values in table.items():
        if key in base:
            raise UsageError(f"{place}: {key} stands in [base] as well. Leave it out in one of them.")
        if not isinstance(values, list) or not values:
            raise UsageError(f"{place}: {key} takes a list of values such as [1, 2, 3], not {values!r}.")
        grid[key] = tuple(_value(key, value, options, place) for value in values)
    return grid


def _arms(
    tables: Any, grid: dict[str, tuple[Value, ...]], options: Mapping[str, bool], place: str
) -> dict[str, Settings]:
    if not isinstance(tables, list) or not all(isinstance(one, dict) for one in tables):
        raise UsageError(f"{place}: begin each arm with a line [[arms]].")
    arms: dict[str, Settings] = {}
    for number, table in enumerate(tables, 1):
        name = _text(table.get("name"), f"{place} number {number}: name")
        if name in arms:
            raise UsageError(f"{place}: two arms have the name {name}. Give each its own.")
        own = _settings({key: value for key, value in table.items() if key != "name"}, options, f"{place} {name}")
        if both := sorted(own.keys() & grid.keys()):
            raise UsageError(f"{place} {name}: {both[0]} stands in [grid] as well. Leave it out in one of them.")
        arms[name] = own
    return arms


def _test(name: str, table: Any, place: str) -> ScoredText:
    if not isinstance(table, dict) or not _TEST_NAME.fullmatch(name):
        raise UsageError(f"{place}: a test set is a table whose name begins with a letter, then letters, digits, _, -.")
    for key in table:
        _known(key, _TEST_KEYS, place)
    given = dict(table)
    references = given.pop("reference", None)
    fields: dict[str, Any] = {
        "source": _text(given.pop("source", None), f"{place}: source"),
        "references": _texts(references, f"{place}: reference"),
    }
    if "metrics" in given:
        fields["metrics"] = _texts(given.pop("metrics"), f"{place}: metrics")
        for metric in fields["metrics"]:
            _known(metric, METRICS, f"{place}: metrics")
    for key, kinds in (("lowercase", (bool,)), ("beam_size", (int,)), ("length_penalty", (int, float))):
        if key in given:
            if type(given[key]) not in kinds:
                raise UsageError(f"{place}: {key} takes a value such as {_EXAMPLES[key]}, not {given[key]!r}.")
            fields[key] = given[key]
    text = ScoredText(name, **fields)
    try:
        GenerateConfig("", text.source, text.beam_size, text.length_penalty).check()
    except UsageError as error:
        raise UsageError(f"{place}: generation would be refused: {error}") from error
    return text


def _texts(value: Any, place: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not values:
        raise UsageError(f"{place} must be a text or a list of texts, not {value!r}.")
    return tuple(_text(one, place) for one in values)
