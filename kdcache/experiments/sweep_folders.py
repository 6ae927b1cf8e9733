"""The output folder of a sweep: which run each folder in it belongs to, and what is finished there."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.errors import CorruptError, DataError, KDCacheError, OutputError
from kdcache.experiments.sweep_file import ScoredText, Student, Sweep
from kdcache.files.atomic import storage_errors, try_lock
from kdcache.files.run_records import RUN_FILE, fixed_settings, log, recorded
from kdcache.files.strict_json import read_json
from kdcache.process.signals import StopRequest
from kdcache.student.fingerprints import WEIGHTS_FILE, student_fingerprints, text_sha256
from kdcache.student.student_config import StudentConfig
from kdcache.text.lines import read_sentences

_LOCK = ".sweep.lock"
_LOCK_SECONDS = 60.0
_POLL_SECONDS = 0.1


def find_folders(sweep: Sweep, checker: Checker) -> tuple[Sweep, int]:
    """Give each student its folder: the one with its name, or one that holds a run with its settings and inputs.

    Thus a run is found again after its name was changed in the file. Also returns the number of folders whose student
    belongs to no run of the sweep.
    """
    records = {path.parent.name: read_record(path) for path in sorted(sweep.output.glob(f"*/{RUN_FILE}"))}
    trained = {name: record for name, record in records.items() if record.get("command") == "student-train"}
    named = {student.name for student in sweep.students}
    unclaimed = {name: record for name, record in trained.items() if name not in named}
    placed = []
    for student in sweep.students:
        name = student.name
        if name not in trained:
            wanted = recorded(student.config)
            fitting = [other for other, record in unclaimed.items() if checker.same(record, student.config)]
            # If several runs could be continued, the one whose record is equal in everything is taken.
            name = next((other for other in fitting if unclaimed[other]["config"] == wanted), next(iter(fitting), name))
            unclaimed.pop(name, None)
        placed.append(dataclasses.replace(student, folder=sweep.output / name))
    return dataclasses.replace(sweep, students=tuple(placed)), len(unclaimed)


def read_record(path: Path) -> dict[str, Any]:
    """A run's record, or an empty one if it is damaged: the command that needs it says what is wrong."""
    try:
        record = read_json(path)
    except CorruptError:
        return {}
    return record if isinstance(record, dict) and isinstance(record.get("config"), dict) else {}


class Checker:
    """Says what is finished, without starting anything."""

    def __init__(self) -> None:
        self._inputs: dict[object, dict[str, str] | None] = {}

    def same(self, record: dict[str, Any], config: StudentConfig) -> bool:
        """Whether a record has these settings, and the inputs that are there now.

        A cache, text or first student that cannot be opened is compared by its name, with a warning.
        """
        before, wanted = record["config"], recorded(config)
        if fixed_settings(before) != fixed_settings(wanted):
            return False
        inputs = self._inputs_of(config)
        if inputs is None:
            return all(before.get(name) == wanted[name] for name in ("cache", "valid", "start_from"))
        return bool(record.get("inputs") == inputs)

    def trained(self, student: Student) -> bool:
        """Whether the student is there, made with its settings from the cache and the text that are there now."""
        record = read_record(student.folder / RUN_FILE)
        there = "finished" in record and (student.folder / WEIGHTS_FILE).is_file()
        return there and self.same(record, student.config)

    def generated(self, student: Student, text: ScoredText) -> bool:
        """Whether the student has written the target side of a text, as the text and the student are now."""
        output = student.hypotheses(text)
        record = read_record(output.with_name(f"{output.name}.{RUN_FILE}"))
        if "finished" not in record or not output.is_file():
            return False
        inputs = {"source": text_sha256(read_sentences(Path(text.source))), **student_fingerprints(student.folder)}
        settings = fixed_settings(recorded(student.generation(text)))
        if fixed_settings(record["config"]) != settings or record.get("inputs") != inputs:
            return False
        result = record.get("result")
        try:
            return isinstance(result, dict) and result.get("sha256") == text_sha256(read_sentences(output))
        except DataError:
            return False

    def _inputs_of(self, config: StudentConfig) -> dict[str, str] | None:
        """Fingerprints of cache and text, or None if they cannot be computed."""
        from kdcache.student.train_student import open_inputs

        key = (config.cache, config.valid, config.start_from, config.skip_bad)
        if key not in self._inputs:
            try:
                self._inputs[key] = open_inputs(config)[2]
            except KDCacheError as error:
                self._inputs[key] = None
                log.warning(
                    "Whether finished runs had the same cache and validation text could not be compared: %s", error
                )
        return self._inputs[key]


@contextmanager
def locked(output: Path, stop: StopRequest) -> Iterator[int]:
    """Hold a sweep's folder by a handle, which the started processes inherit, so that they hold it as well.

    Raises:
        OutputError: another sweep works there and does not end soon, or the folder cannot be written.
        StoppedError: a signal asked to stop.
    """
    with storage_errors(output):
        output.mkdir(parents=True, exist_ok=True)
        file = (output / _LOCK).open("a")
    with file:
        end = time.monotonic() + _LOCK_SECONDS
        if not try_lock(file.fileno()):
            log.info("%s: runs of another sweep are at work here; waiting for them to stop.", output)
            while not try_lock(file.fileno()):
                if time.monotonic() > end:
                    left = "another kdcache sweep, or runs that one has left, work here. Wait until they have stopped."
                    raise OutputError(f"{output}: {left}")
                stop.check()
                time.sleep(_POLL_SECONDS)
        yield file.fileno()
