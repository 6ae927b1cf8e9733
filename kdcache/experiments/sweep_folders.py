"""What lies in a sweep's folder: whose each run's folder is, and what of it is finished."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdcache.errors import CorruptError, DataError, KDCacheError, OutputError
from kdcache.experiments.sweep_file import ScoredText, SweepConfig
from kdcache.experiments.sweep_grid import Run
from kdcache.files.atomic import storage_errors
from kdcache.files.run_records import RUN_FILE, fixed_settings, log, recorded
from kdcache.files.strict_json import read_json
from kdcache.process.signals import StopRequest
from kdcache.student.fingerprints import WEIGHTS_FILE, student_prints, text_sha256
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.student_config import StudentConfig
from kdcache.text.corpus import TextFiles
from kdcache.text.lines import read_sentences

_LOCK = ".sweep.lock"
_LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.1


@dataclass(frozen=True, slots=True)
class Student:
    """A run and its folder; what is made from it lies beside that folder, under names that begin with its name."""

    run: Run
    folder: Path

    def beside(self, ending: str) -> Path:
        """A file of this run beside its folder."""
        return self.folder.with_name(f"{self.folder.name}.{ending}")

    @property
    def arguments(self) -> list[str]:
        """The command that trains it, after `kdcache`."""
        return ["student-train", *self.run.arguments, "--output", str(self.folder)]

    def search(self, text: ScoredText) -> GenerateConfig:
        """How it writes the target side of a text."""
        device = self.run.config.training.device
        return GenerateConfig(str(self.folder), text.source, text.beam_size, text.length_penalty, device=device)

    def hypotheses(self, text: ScoredText) -> Path:
        """Where it writes that."""
        return self.beside(f"{text.name}.txt")


def find_students(sweep: SweepConfig, runs: Sequence[Run], checker: Checker) -> tuple[list[Student], int]:
    """Give each run its folder: the one with its name, or another that holds a run with its settings and its inputs.

    So a run is found again after the file was changed in a way that changed names. Returned with it is the number of
    folders that hold a student of no run.
    """
    output = Path(sweep.output)
    records = _records(output)
    by_name = {run.name for run in runs}
    others = {name: record for name, record in records.items() if name not in by_name}
    students = []
    for run in runs:
        found = None if run.name in records else _fitting(run.config, others, checker)
        if found is not None:
            del others[found]
        students.append(Student(run, output / (found or run.name)))
    return students, len(others)


def _records(output: Path) -> dict[str, dict[str, Any]]:
    """The records of the students in a folder, by the names of their folders."""
    found = {}
    for path in sorted(output.glob(f"*/{RUN_FILE}")):
        record = read_record(path)
        if record is not None and record.get("command") == "student-train":
            found[path.parent.name] = record
    return found


def read_record(path: Path) -> dict[str, Any] | None:
    """A run's record, or None where there is no whole one; the command whose it is will say what is wrong with it."""
    try:
        record = read_json(path)
    except CorruptError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("config"), dict) else None


def _fitting(config: StudentConfig, records: dict[str, dict[str, Any]], checker: Checker) -> str | None:
    """The folder of a run that student-train would continue; first one that differs in nothing at all."""
    wanted = recorded(config)
    fitting = [name for name, one in records.items() if checker.same(one, config)]
    return next((name for name in fitting if records[name]["config"] == wanted), next(iter(fitting), None))


def _finished(record: dict[str, Any], config: Any, inputs: dict[str, str]) -> bool:
    return (
        "finished" in record
        and fixed_settings(record["config"]) == fixed_settings(recorded(config))
        and record.get("inputs") == inputs
    )


def _as_written(record: dict[str, Any], output: Path) -> bool:
    """Whether a text is still the one that `kdcache generate` recorded."""
    result = record.get("result")
    try:
        return isinstance(result, dict) and result.get("sha256") == text_sha256(read_sentences(output))
    except DataError:
        return False


class Checker:
    """Says what is finished, without starting anything."""

    def __init__(self) -> None:
        self._inputs: dict[tuple[str, TextFiles | None, str | None, bool], dict[str, str] | str] = {}
        self._told: set[str] = set()

    def same(self, record: dict[str, Any], config: StudentConfig) -> bool:
        """Whether a record has these settings, and the inputs that are there now; what is out of reach has its name."""
        wanted = recorded(config)
        if fixed_settings(record["config"]) != fixed_settings(wanted):
            return False
        inputs = self._inputs_of(config)
        if isinstance(inputs, str):
            return all(record["config"].get(name) == wanted[name] for name in ("cache", "start_from"))
        return record.get("inputs") == inputs

    def trained(self, student: Student) -> bool:
        """Whether the student is there, made with its settings from the cache and the text that are there now.

        What cannot be compared because the cache or the text is out of reach counts as the same, with a warning.
        """
        record = read_record(student.folder / RUN_FILE)
        if record is None or "finished" not in record or not (student.folder / WEIGHTS_FILE).is_file():
            return False
        if not self.same(record, student.run.config):
            return False
        inputs = self._inputs_of(student.run.config)
        if isinstance(inputs, str):
            self._warn(inputs)
        return True

    def generated(self, student: Student, text: ScoredText) -> bool:
        """Whether it has written the target side of a text, as the text and the student are now."""
        output = student.hypotheses(text)
        record = read_record(output.with_name(f"{output.name}.{RUN_FILE}"))
        if record is None or not output.is_file():
            return False
        inputs = {"source": text_sha256(read_sentences(Path(text.source))), **student_prints(student.folder)}
        return _finished(record, student.search(text), inputs) and _as_written(record, output)

    def _warn(self, reason: str) -> None:
        if reason not in self._told:
            self._told.add(reason)
            log.warning(
                "Whether finished runs had the same cache and validation text could not be compared: %s", reason
            )

    def _inputs_of(self, config: StudentConfig) -> dict[str, str] | str:
        """Fingerprints of cache and text, or why they cannot be had."""
        from kdcache.student.train_student import open_inputs

        key = (config.cache, config.valid, config.start_from, config.skip_bad)
        if key not in self._inputs:
            try:
                self._inputs[key] = open_inputs(config)[2]
            except KDCacheError as error:
                self._inputs[key] = str(error)
        return self._inputs[key]


@contextmanager
def locked(output: Path, stop: StopRequest) -> Iterator[int]:
    """Hold a sweep's folder: a handle that the started processes inherit, so that they hold it as well.

    Raises:
        OutputError: another sweep works there and does not end soon, or the folder cannot be written.
        StoppedError: a signal asked to stop.
    """
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        handle = os.open(output / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        _wait_for(handle, output, stop)
        yield handle
    finally:
        os.close(handle)


def _wait_for(handle: int, output: Path, stop: StopRequest) -> None:
    end = time.monotonic() + _LOCK_SECONDS
    told = False
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if not told:
                log.info("%s: runs of another sweep are at work here; waiting for them to stop.", output)
                told = True
        else:
            return
        if time.monotonic() > end:
            raise OutputError(
                f"{output}: another kdcache sweep, or runs that one has left, work here. Wait until they have stopped."
            )
        stop.check()
        time.sleep(_POLL_SECONDS)
