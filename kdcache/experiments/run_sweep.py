"""Running a sweep's students, several at a time, each command in a process of its own; and what that would take."""

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
from kdcache.errors import UsageError
from kdcache.experiments.sweep_file import ScoredText, Student, Sweep
from kdcache.experiments.sweep_folders import Checker, find_folders, locked
from kdcache.experiments.sweep_report import write_report
from kdcache.experiments.sweep_results import collect
from kdcache.files.atomic import storage_errors
from kdcache.files.run_records import LOG_FILE, METRICS_FILE, log, write_log_to
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.scoring.score_config import MetricSettings, bootstrap_seed
from kdcache.scoring.scorers import check_counts, make_scorers
from kdcache.text.lines import read_sentences

CONSOLE = "log"
THREADS, DEVICES = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"
_POLL_SECONDS, _KILL_SECONDS = 0.2, 10.0
_LOG_LINES, _TAIL_BYTES = 5, 8_192
# The share of a run's time that training is taken to need, for the estimate of the time left; the texts need the rest.
_TRAINING_SHARE = 0.9

# Variables that say what a run may use.
Environment = dict[str, str]


def run_sweep(sweep: Sweep, jobs: int | None = None) -> tuple[str, list[str]]:
    """Train, generate and score what is not finished, and write tables and page; a run that fails stops no other.

    Meanwhile the working directory is the folder of the sweep's file.

    Returns:
        The tables as text; and for each run that failed its name, why, and the last lines that it wrote.

    Raises:
        DataError: a text to be scored is missing, or has another number of lines than its source.
        UsageError: `jobs` is below 1, or the seed of the bootstrap is unusable.
        OutputError: another sweep works in the output folder.
        StoppedError: a signal asked to stop; the runs have saved what they had.
    """
    environments, description = _divide_this_machine(sweep, jobs)
    with contextlib.chdir(sweep.file.parent), stop_on_signals() as stop:
        check_texts(sweep.tests)
        with locked(sweep.output, stop) as handle:
            write_log_to(sweep.output / LOG_FILE)
            checker = Checker()
            sweep, others = find_folders(sweep, checker)
            failures = _Runs(sweep, checker, stop, handle).train_all(environments, description)
            table = write_report(sweep, collect(sweep, others, checker, stop))
        for failure in failures:
            log.warning("%s", failure)
    return table, failures


def forecast_sweep(sweep: Sweep, jobs: int | None) -> list[tuple[str, ...]]:
    """Names, steps and times of all runs, a header before them and the time of all behind; nothing is written.

    Some steps are taken for each row, whose seeds take the same time, with as many threads as a run would have. Not
    counted are validation, generation, scoring, and the time that runs side by side take from each other.

    Raises:
        UsageError, DataError, CorruptError: as in `run_sweep` and `training_forecast.forecast`.
    """
    import torch

    from kdcache.student.training_forecast import Forecast, forecast

    environments, description = _divide_this_machine(sweep, jobs)
    before = torch.get_num_threads()
    torch.set_num_threads(int(environments[0][THREADS]))
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
    return [*rows, (f"all, {description}", "", duration(time_of_all(seconds, len(environments))))]


def time_of_all(seconds: Sequence[float], n_at_a_time: int) -> float:
    """When the last run ends if the runs start in their order, each as soon as one before it has ended."""
    ends = [0.0] * n_at_a_time
    for run in seconds:
        heapq.heapreplace(ends, ends[0] + run)
    return max(ends)


def _divide_this_machine(sweep: Sweep, jobs: int | None) -> tuple[list[Environment], str]:
    if jobs is not None and jobs < 1:
        raise UsageError(f"--jobs must be at least 1, not {jobs}.")
    gpus: list[str] = []
    if any(student.config.training.device != "cpu" for student in sweep.students):
        import torch

        visible = torch.cuda.device_count() if torch.cuda.is_available() else 0
        named = [name.strip() for name in os.environ.get(DEVICES, "").split(",") if name.strip()]
        gpus = named[:visible] if named else [str(number) for number in range(visible)]
    return divide(jobs, len(sweep.students), gpus, len(os.sched_getaffinity(0)), os.environ)


def divide(
    jobs: int | None, n_runs: int, gpus: Sequence[str], cores: int, environment: Mapping[str, str]
) -> tuple[list[Environment], str]:
    """Divide a machine among the runs: one run for each GPU; without GPUs, one for each core or group of cores.

    The number of threads depends on all runs, not on those that are left: a run that was stopped is continued bit by
    bit only with the same number of threads.

    Args:
        jobs: runs at a time, or None.
        n_runs: runs altogether.
        gpus: names as in CUDA_VISIBLE_DEVICES; if there are none, the runs use the CPU.
        cores: number of cores that this process may use.
        environment: its OMP_NUM_THREADS is kept.

    Returns:
        The environment of each run at a time, and the division in words.
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
    return environments, f"{jobs} at a time {where}, {count(threads, 'thread')} each"


def check_texts(texts: Sequence[ScoredText]) -> None:
    """Refuse before anything runs what scoring would refuse.

    Raises:
        DataError: a text cannot be read, or its references have not as many lines as its source.
        UsageError: the seed of the bootstrap is unusable, or a metric does not suit the script of a text.
    """
    if texts:
        bootstrap_seed()
    for text in texts:
        references = [read_sentences(Path(path)) for path in text.references]
        check_counts(read_sentences(Path(text.source)), references)
        make_scorers(text.metrics, references, MetricSettings(text.lowercase))


@dataclass(frozen=True, slots=True)
class _Runs:
    """The runs of a sweep in processes of their own, which inherit `handle`, the lock of its folder."""

    sweep: Sweep
    checker: Checker
    stop: StopRequest
    handle: int

    def train_all(self, environments: Sequence[Environment], description: str) -> list[str]:
        """Run what is not finished, as many runs at a time as there are environments; return those that failed.

        Raises:
            StoppedError: a signal asked to stop.
        """
        students = self.sweep.students
        waiting = deque(student for student in students if next(self._commands(student), None) is not None)
        done = len(students) - len(waiting)
        log.info("%s, %s of them finished; %s.", count(len(students), "run"), done, description)
        free = list(reversed(environments))
        # The runs that are under way, each with its student and the environment that its end sets free.
        running: dict[Generator[str, None, str | None], tuple[Student, Environment]] = {}
        failures: list[str] = []
        with contextlib.ExitStack() as started, Progress("sweep", len(students), "runs", done) as progress:
            while waiting or running:
                while waiting and free:
                    student, environment = waiting.popleft(), free.pop()
                    run = started.enter_context(contextlib.closing(self._run(student, environment)))
                    running[run] = student, environment
                    progress.inherit(_share_done(student))
                notes = [f"{len(failures)} failed"] if failures else []
                before = len(running)
                for run, (_, environment) in list(running.items()):
                    try:
                        notes.append(next(run))
                    except StopIteration as end:
                        del running[run]
                        free.append(environment)
                        failures += filter(None, [end.value])
                shares = sum(_share_done(student) for student, _ in running.values())
                progress.advance(before - len(running), "; ".join(notes), shares)
                if self.stop.number is not None:
                    waiting.clear()
                time.sleep(_POLL_SECONDS if running else 0)
        self.stop.check()
        return failures

    def _run(self, student: Student, environment: Environment) -> Generator[str, None, str | None]:
        """Run a student's commands one after the other; yield how far it is, return how it failed, if it did."""
        console = student.beside(CONSOLE)
        for arguments in self._commands(student):
            asked = False
            process = self._start(arguments, environment, console)
            try:
                while process.poll() is None:
                    if self.stop.number is not None and not asked:
                        log.info("Stopping %s; it saves a checkpoint.", student.name)
                        process.terminate()
                        asked = True
                    step, total = _last_step(student), student.config.training.max_steps
                    steps = f"step {step:,}" + (f"/{total:,}" if total else "") if step else "starting"
                    yield f"{student.name} {steps if arguments[0] == 'student-train' else arguments[0]}"
            finally:
                _end(process)
            if code := process.returncode:
                lines = [
                    line.rstrip() for line in _tail(console).decode("utf-8", "replace").splitlines() if line.strip()
                ]
                reason = f"{arguments[0]}, " + (f"signal {-code}" if code < 0 else f"exit code {code}")
                last = "".join(f"\n    {line}" for line in lines[-_LOG_LINES:])
                return f"{student.folder.name} failed: {reason}; {console} ends with:{last}"
            if self.stop.number is not None:
                break
        return None

    def _commands(self, student: Student) -> Iterator[list[str]]:
        """The commands that a student still needs; each is decided on when those before it are done."""
        if not self.checker.trained(student):
            yield student.arguments
        for text in self.sweep.tests:
            if not self.checker.generated(student, text):
                output, generation = student.hypotheses(text), student.generation(text)
                if output.exists():
                    log.info("%s: made with other settings, by another student, or changed since; made anew.", output)
                    output.unlink()
                yield [
                    *("generate", "--student", generation.student, "--source", generation.source),
                    *("--output", str(output), "--device", generation.device),
                    *("--beam-size", str(generation.beam_size), "--length-penalty", str(generation.length_penalty)),
                ]

    def _start(self, arguments: Sequence[str], environment: Environment, console: Path) -> subprocess.Popen[bytes]:
        """Start a kdcache command that writes to `console` and stops when this process is gone."""
        package = str(Path(kdcache.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with storage_errors(console), console.open("wb") as file:
            # The child has a process group of its own, so that Ctrl-C reaches only this process, which then asks each
            # run once. A second request some seconds later would make a run stop without a checkpoint.
            return subprocess.Popen(  # noqa: S603 (no shell; the arguments were read as options before)
                [sys.executable, "-m", "kdcache.experiments.child_command", *arguments],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                # The working directory belongs to the user, so no module may be imported from there.
                env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
                pass_fds=(self.handle,),
                process_group=0,
            )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop and wait for its end; kill it if it takes too long."""
    process.terminate()
    with process:
        try:
            process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()


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


def _tail(file: Path) -> bytes:
    """The last bytes of a file, none if it cannot be read."""
    try:
        with file.open("rb") as stream:
            stream.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            return stream.read()
    except OSError:
        return b""
