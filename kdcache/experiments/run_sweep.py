"""Running a sweep's students, some at a time, each command in a process of its own."""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kdcache.console.progress import Progress
from kdcache.errors import TrainingError, UsageError
from kdcache.experiments.child_process import Pace, Process, last_lines
from kdcache.experiments.sweep_file import ScoredText, SweepConfig
from kdcache.experiments.sweep_folders import Checker, Student, find_students, locked
from kdcache.experiments.sweep_grid import Run
from kdcache.experiments.sweep_places import Places, places, usable_cores, visible_gpus
from kdcache.experiments.sweep_report import write_report
from kdcache.files.run_records import LOG_FILE, log, write_log_to
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.scoring.scorers import bootstrap_seed, check_counts
from kdcache.text.lines import read_sentences

_POLL_SECONDS = 0.2
CONSOLE = "log"


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not finish: its name, which command failed and how, and the last that it wrote."""

    name: str
    words: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The table as text, of how many runs, and what failed."""

    table: str
    n_runs: int
    failures: list[Failure]

    def check(self) -> None:
        """Raise TrainingError if runs failed."""
        if self.failures:
            raise TrainingError(
                f"{len(self.failures)} of {self.n_runs} runs failed. Correct what their last lines say and run the "
                "same command again: it repeats only what is not finished."
            )


@dataclass(slots=True)
class _Job:
    """A student at its place, and the commands that it still needs."""

    student: Student
    place: int
    steps: Iterator[list[str]]
    pace: Pace
    doing: str = ""
    process: Process | None = None

    def words(self) -> str:
        """How far it is."""
        return f"{self.student.run.name} {self.pace.words() if self.doing == 'student-train' else self.doing}"


def run_sweep(sweep: SweepConfig, runs: Sequence[Run], jobs: int | None = None) -> SweepResult:
    """Train, generate and score what is not finished, and write tables and page; a run that fails stops no other.

    The working directory is the folder of the sweep's file meanwhile.

    Raises:
        DataError: a text to be scored is missing, or has another number of lines than its source.
        UsageError: `jobs` is below 1, or the seed of the bootstrap is unusable.
        OutputError: another sweep works in the output folder.
        StoppedError: a signal asked to stop; the runs have saved what they had.
    """
    check_jobs(jobs)
    with contextlib.chdir(sweep.file.parent), stop_on_signals() as stop:
        check_texts(sweep.tests)
        output = Path(sweep.output)
        with locked(output, stop) as held:
            write_log_to(output / LOG_FILE)
            checker = Checker()
            students, others = find_students(sweep, runs, checker)
            layout = divide(runs, jobs)
            failures = _Scheduler(sweep.tests, students, layout, held, stop, checker).run_all()
            table = write_report(sweep, students, others, checker, stop)
        _report(failures, output)
    return SweepResult(table, len(runs), failures)


def check_jobs(jobs: int | None) -> None:
    """Raise UsageError unless the number of runs at a time is at least 1."""
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}.")


def divide(runs: Sequence[Run], jobs: int | None) -> Places:
    """How the runs are divided among the devices of this machine."""
    gpus = visible_gpus(os.environ) if any(run.config.training.device != "cpu" for run in runs) else []
    return places(jobs, len(runs), gpus, usable_cores(), os.environ)


def check_texts(texts: Sequence[ScoredText]) -> None:
    """Refuse before anything runs what scoring would refuse.

    Raises:
        DataError: a text cannot be read, or its references have not as many lines as its source.
        UsageError: the seed of the bootstrap is unusable.
    """
    if texts:
        bootstrap_seed()
    for text in texts:
        source = read_sentences(Path(text.source))
        check_counts(source, [read_sentences(Path(path)) for path in text.references])


def _report(failures: Sequence[Failure], output: Path) -> None:
    for one in failures:
        said = "".join(f"\n    {line}" for line in one.lines)
        log.warning("%s failed: %s; %s.%s ends with:%s", one.name, one.words, output / one.name, CONSOLE, said)


@dataclass(slots=True)
class _Scheduler:
    """Keeps every place busy until all students are finished or have failed."""

    texts: Sequence[ScoredText]
    students: Sequence[Student]
    places: Places
    held: int
    stop: StopRequest
    checker: Checker
    failures: list[Failure] = field(default_factory=list)

    def run_all(self) -> list[Failure]:
        """Run what is not finished.

        Raises:
            StoppedError: a signal asked to stop.
        """
        waiting = deque(one for one in self.students if next(self._steps(one), None) is not None)
        done = len(self.students) - len(waiting)
        log.info("%s runs, %s of them finished; %s.", len(self.students), done, self.places.words)
        free = list(reversed(range(len(self.places.environments))))
        jobs: list[_Job] = []
        with Progress("sweep", len(self.students), "runs", done) as progress:
            try:
                while waiting or jobs:
                    while waiting and free:
                        jobs.append(self._job(waiting.popleft(), free.pop()))
                        progress.inherit(jobs[-1].pace.share)
                    ended = [job for job in jobs if not self._goes_on(job)]
                    free.extend(job.place for job in ended)
                    jobs = [job for job in jobs if job not in ended]
                    progress.advance(len(ended), self._note(jobs), sum(job.pace.share for job in jobs))
                    self._stop_if_asked(jobs)
                    time.sleep(_POLL_SECONDS if jobs else 0)
            finally:
                for job in jobs:
                    if job.process is not None:
                        job.process.end()
        return self.failures

    def _job(self, student: Student, place: int) -> _Job:
        pace = Pace(student.folder, student.run.config.training.max_steps)
        return _Job(student, place, self._steps(student), pace)

    def _steps(self, student: Student) -> Iterator[list[str]]:
        """The commands that a student still needs, each looked for when those before it are done."""
        if not self.checker.trained(student):
            yield student.arguments
        for text in self.texts:
            if not self.checker.generated(student, text):
                yield _generation(student, text)

    def _goes_on(self, job: _Job) -> bool:
        """Start a job's next command when the one before has succeeded; say whether there is still something to do."""
        if job.process is not None:
            code = job.process.code()
            if code is None:
                return True
            if code != 0:
                how = f"signal {-code}" if code < 0 else f"exit code {code}"
                lines = last_lines(job.student.beside(CONSOLE))
                self.failures.append(Failure(job.student.folder.name, f"{job.doing}, {how}", lines))
                return False
        arguments = next(job.steps, None)
        if arguments is None:
            return False
        job.doing = arguments[0]
        environment = self.places.environments[job.place]
        job.process = Process(arguments, environment, job.student.beside(CONSOLE), self.held)
        return True

    def _note(self, jobs: Sequence[_Job]) -> str:
        notes = [job.words() for job in jobs]
        return "; ".join([*([f"{len(self.failures)} failed"] if self.failures else []), *notes])

    def _stop_if_asked(self, jobs: Sequence[_Job]) -> None:
        if self.stop.number is None:
            return
        log.info("Stopping %s runs; each saves a checkpoint.", len(jobs))
        for job in jobs:
            if job.process is not None:
                job.process.stop()
        while any(job.process is not None and job.process.code() is None for job in jobs):
            time.sleep(_POLL_SECONDS)
        self.stop.check()


def _generation(student: Student, text: ScoredText) -> list[str]:
    """The command that writes the target side of a text; what other settings have written there is removed first."""
    output = student.hypotheses(text)
    if output.exists():
        log.info("%s: made with other settings, by another student, or changed since; made anew.", output)
        output.unlink()
    search = student.search(text)
    options = {
        "--student": search.student,
        "--source": search.source,
        "--output": str(output),
        "--beam-size": str(search.beam_size),
        "--length-penalty": str(search.length_penalty),
        "--device": search.device,
    }
    return ["generate", *(part for pair in options.items() for part in pair)]
