"""Running a sweep's students, several at a time, each command in a process of its own; and what that would take."""

from __future__ import annotations

import contextlib
import heapq
import json
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import kdcache
from kdcache.console.progress import Progress, duration
from kdcache.console.tables import count
from kdcache.errors import TrainingError, UsageError
from kdcache.experiments.sweep_file import ScoredText, Student, Sweep
from kdcache.experiments.sweep_folders import Checker, find_folders, locked
from kdcache.experiments.sweep_report import write_report
from kdcache.files.atomic import storage_errors
from kdcache.files.run_records import LOG_FILE, METRICS_FILE, log, write_log_to
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.scoring.score_config import MetricSettings, bootstrap_seed
from kdcache.scoring.scorers import check_counts, make_scorers
from kdcache.text.lines import read_sentences

CONSOLE = "log"
THREADS, DEVICES = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"
_POLL_SECONDS = 0.2
_KILL_SECONDS = 10.0
_LOG_LINES = 5
_TAIL_BYTES = 8_192
# The share of a run's time that training is taken to need, for the estimate of the time left; the texts need the rest.
_TRAINING_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Division:
    """How a machine is divided among runs.

    Attributes:
        environments: variables that say what a run may use, one dictionary for each run at a time.
        description: the same for people.
    """

    environments: tuple[dict[str, str], ...]
    description: str


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that did not finish: its name, which command failed and how, and the last lines that it wrote."""

    name: str
    reason: str
    lines: list[str]


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The table as text, the number of runs, and those that failed."""

    table: str
    n_runs: int
    failures: list[Failure]

    def check(self) -> None:
        """Raise TrainingError if runs failed."""
        if self.failures:
            raise TrainingError(
                f"{len(self.failures)} of {count(self.n_runs, 'run')} failed. Correct what their last lines say and "
                "run the same command again: it repeats only what is not finished."
            )


def run_sweep(sweep: Sweep, jobs: int | None = None) -> SweepResult:
    """Train, generate and score what is not finished, and write tables and page; a run that fails stops no other.

    Meanwhile the working directory is the folder of the sweep's file.

    Raises:
        DataError: a text to be scored is missing, or has another number of lines than its source.
        UsageError: `jobs` is below 1, or the seed of the bootstrap is unusable.
        OutputError: another sweep works in the output folder.
        StoppedError: a signal asked to stop; the runs have saved what they had.
    """
    division = _divide_this_machine(sweep, jobs)
    with contextlib.chdir(sweep.file.parent), stop_on_signals() as stop:
        check_texts(sweep.tests)
        with locked(sweep.output, stop) as handle:
            write_log_to(sweep.output / LOG_FILE)
            checker = Checker()
            sweep, others = find_folders(sweep, checker)
            failures = _train_all(sweep, division, handle, stop, checker)
            table = write_report(sweep, others, checker, stop)
        for failure in failures:
            lines = "".join(f"\n    {line}" for line in failure.lines)
            console = sweep.output / f"{failure.name}.{CONSOLE}"
            log.warning("%s failed: %s; %s ends with:%s", failure.name, failure.reason, console, lines)
    return SweepResult(table, len(sweep.students), failures)


def forecast_sweep(sweep: Sweep, jobs: int | None) -> list[tuple[str, ...]]:
    """Names, steps and times of all runs, a header before them and the time of all behind; nothing is written.

    Some steps are taken for each row, whose seeds take the same time, with as many threads as a run would have. Not
    counted are validation, generation, scoring, and the time that runs side by side take from each other.

    Raises:
        UsageError, DataError, CorruptError: as in `run_sweep` and `training_forecast.forecast`.
    """
    import torch

    from kdcache.student.training_forecast import Forecast, forecast

    division = _divide_this_machine(sweep, jobs)
    before = torch.get_num_threads()
    torch.set_num_threads(int(division.environments[0][THREADS]))
    by_row: dict[str, Forecast] = {}
    rows: list[tuple[str, ...]] = [("run", "steps", "time")]
    seconds = []
    try:
        with contextlib.chdir(sweep.file.parent):
            check_texts(sweep.tests)
            checker = Checker()
            for student in find_folders(sweep, checker)[0].students:
                if checker.trained(student):
                    rows.append((student.name, "", "trained"))
                    continue
                if student.row not in by_row:
                    by_row[student.row] = forecast(student.config)
                seconds.append(by_row[student.row].seconds)
                rows.append((student.name, f"{by_row[student.row].steps:,}", duration(seconds[-1])))
    finally:
        torch.set_num_threads(before)
    total = time_of_all(seconds, len(division.environments))
    return [*rows, (f"all, {division.description}", "", duration(total))]


def time_of_all(seconds: Sequence[float], n_at_a_time: int) -> float:
    """When the last run ends if the runs start in their order, each as soon as one before it has ended."""
    ends = [0.0] * n_at_a_time
    for run in seconds:
        heapq.heapreplace(ends, ends[0] + run)
    return max(ends)


def _divide_this_machine(sweep: Sweep, jobs: int | None) -> Division:
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}.")
    gpus = _visible_gpus() if any(student.config.training.device != "cpu" for student in sweep.students) else []
    return divide(jobs, len(sweep.students), gpus, len(os.sched_getaffinity(0)), os.environ)


def divide(jobs: int | None, n_runs: int, gpus: Sequence[str], cores: int, environment: Mapping[str, str]) -> Division:
    """Divide a machine among the runs: one run for each GPU; without GPUs, one for each core or group of cores.

    The number of threads depends on all runs, not on those that are left: a run that was stopped is continued bit by
    bit only with the same number of threads.

    Args:
        jobs: runs at a time, or None.
        n_runs: runs altogether.
        gpus: names as in CUDA_VISIBLE_DEVICES; if there are none, the runs use the CPU.
        cores: number of cores that this process may use.
        environment: its OMP_NUM_THREADS is kept.
    """
    given = environment.get(THREADS, "")
    kept = int(given) if given.isdecimal() and int(given) > 0 else None
    if jobs is None:
        jobs = min(n_runs, len(gpus) or max(1, cores // (kept or 1)))
    threads = kept or max(1, cores // jobs)
    environments = [{THREADS: str(threads)} for _ in range(jobs)]
    for number, variables in enumerate(environments if gpus else []):
        variables[DEVICES] = gpus[number % len(gpus)]
    where = f"on {min(jobs, len(gpus))} of {count(len(gpus), 'GPU')}" if gpus else "on the CPU"
    return Division(tuple(environments), f"{jobs} at a time {where}, {count(threads, 'thread')} each")


def _visible_gpus() -> list[str]:
    """The GPUs that PyTorch sees here, by names for CUDA_VISIBLE_DEVICES."""
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    named = [name.strip() for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
    return named[:count] if named else [str(number) for number in range(count)]


def check_texts(texts: Sequence[ScoredText]) -> None:
    """Refuse before anything runs what scoring would refuse.

    Raises:
        DataError: a text cannot be read, or its references have not as many lines as its source.
        UsageError: the seed of the bootstrap is unusable, or a metric does not suit the script of a text.
    """
    if texts:
        bootstrap_seed()
    for text in texts:
        source = read_sentences(Path(text.source))
        references = [read_sentences(Path(path)) for path in text.references]
        check_counts(source, references)
        make_scorers(text.metrics, references, MetricSettings(text.lowercase))


def _train_all(sweep: Sweep, division: Division, handle: int, stop: StopRequest, checker: Checker) -> list[Failure]:
    """Run what is not finished, as many runs at a time as there are environments; return those that failed.

    Raises:
        StoppedError: a signal asked to stop.
    """
    n_runs = len(sweep.students)
    waiting = deque(one for one in sweep.students if next(_commands(one, sweep.tests, checker), None) is not None)
    done = n_runs - len(waiting)
    log.info("%s, %s of them finished; %s.", count(n_runs, "run"), done, division.description)
    free = list(reversed(division.environments))
    jobs: list[tuple[Student, dict[str, str], Generator[str, None, Failure | None]]] = []
    failures: list[Failure] = []
    try:
        with Progress("sweep", n_runs, "runs", done) as progress:
            while waiting or jobs:
                while waiting and free:
                    student, environment = waiting.popleft(), free.pop()
                    jobs.append((student, environment, _run(student, sweep.tests, environment, handle, stop, checker)))
                    progress.inherit(_share_done(student))
                notes = [f"{len(failures)} failed"] if failures else []
                running = []
                for job in jobs:
                    try:
                        notes.append(next(job[2]))
                        running.append(job)
                    except StopIteration as end:
                        free.append(job[1])
                        failures.extend(filter(None, [end.value]))
                ended, jobs = len(jobs) - len(running), running
                progress.advance(ended, "; ".join(notes), sum(_share_done(student) for student, *_ in jobs))
                if stop.number is not None:
                    waiting.clear()
                time.sleep(_POLL_SECONDS if jobs else 0)
    finally:
        for *_, run in jobs:
            run.close()
    stop.check()
    return failures


def _run(
    student: Student,
    texts: Sequence[ScoredText],
    environment: Mapping[str, str],
    handle: int,
    stop: StopRequest,
    checker: Checker,
) -> Generator[str, None, Failure | None]:
    """Run a student's commands one after the other; yield how far it is, return the failure that ended it, if any."""
    console = student.beside(CONSOLE)
    for arguments in _commands(student, texts, checker):
        asked = False
        process = _start(arguments, environment, console, handle)
        try:
            while process.poll() is None:
                if stop.number is not None and not asked:
                    log.info("Stopping %s; it saves a checkpoint.", student.name)
                    process.terminate()
                    asked = True
                step, total = _last_step(student), student.config.training.max_steps
                steps = f"step {step:,}" + (f"/{total:,}" if total else "") if step else "starting"
                yield f"{student.name} {steps if arguments[0] == 'student-train' else arguments[0]}"
        finally:
            _end(process)
        code = process.returncode
        if code != 0:
            written = _tail(console).decode("utf-8", "replace")
            lines = [line.rstrip() for line in written.splitlines() if line.strip()]
            reason = f"{arguments[0]}, " + (f"signal {-code}" if code < 0 else f"exit code {code}")
            return Failure(student.folder.name, reason, lines[-_LOG_LINES:])
        if stop.number is not None:
            break
    return None


def _last_step(student: Student) -> int:
    """The last step in the student's metrics, 0 if there is none."""
    lines = _tail(student.folder / METRICS_FILE).split(b"\n")[:-1]
    try:
        return int(json.loads(lines[-1])["step"])
    except (IndexError, KeyError, TypeError, ValueError):
        return 0


def _share_done(student: Student) -> float:
    """Which part of a run is done, by the steps that its training has taken."""
    total = student.config.training.max_steps
    return _TRAINING_SHARE * _last_step(student) / total if total else 0.0


def _commands(student: Student, texts: Sequence[ScoredText], checker: Checker) -> Iterator[list[str]]:
    """The commands that a student still needs; each is decided on when those before it are done."""
    if not checker.trained(student):
        yield student.arguments
    for text in texts:
        if not checker.generated(student, text):
            output, generation = student.hypotheses(text), student.generation(text)
            if output.exists():
                log.info("%s: made with other settings, by another student, or changed since; made anew.", output)
                output.unlink()
            yield [
                *("generate", "--student", generation.student, "--source", generation.source, "--output", str(output)),
                *("--beam-size", str(generation.beam_size), "--length-penalty", str(generation.length_penalty)),
                *("--device", generation.device),
            ]


def _start(
    arguments: Sequence[str], environment: Mapping[str, str], console: Path, handle: int
) -> subprocess.Popen[bytes]:
    """Start a kdcache command that inherits `handle`, writes to `console`, and stops when this process is gone."""
    package = str(Path(kdcache.__file__).parent.parent)
    path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    with storage_errors(console), console.open("wb") as file:
        # The child has a process group of its own, so that Ctrl-C reaches only this process, which then asks each run
        # once. A second request some seconds later would make a run stop without a checkpoint.
        return subprocess.Popen(  # noqa: S603 (no shell; the arguments were read as options before)
            [sys.executable, "-m", "kdcache.experiments.child_command", *arguments],
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=subprocess.STDOUT,
            # The working directory belongs to the user, so no module may be imported from there.
            env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
            pass_fds=(handle,),
            process_group=0,
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop and wait for its end; kill it if it takes too long."""
    process.terminate()
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _tail(file: Path) -> bytes:
    """The last bytes of a file, none if it cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            return stream.read()
    except OSError:
        return b""
