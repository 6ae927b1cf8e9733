"""Experiment trackers, which get the lines of `metrics.jsonl`: TensorBoard, Weights & Biases, MLflow and trackio.

The trackers are those of the accelerate library. Each of them works in a thread of its own: one that fails, or that
does not answer for a while, is given up with a warning, and training goes on.
"""

import os
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from kdcache.files.run_records import log
from kdcache.training.checkpoint import Position

FOLDER = "tensorboard"
THREAD_NAME = "kdcache-tracker"
LIMIT_SECONDS = 30.0
_VALIDATION = "valid_"

# A line of the metrics, without the values that are not finite.
Line = Mapping[str, float]
# What takes a line, and what ends the tracker.
_Tracker = tuple[Callable[[Line], None], Callable[[], None]]


class Reporter:
    """One tracker, and the thread that hands it one line of the metrics after the other.

    `begin` starts the tracker, in that thread. The tracker is given up where it takes more than `limit` seconds to
    begin, for one line, or to end.
    """

    def __init__(self, name: str, begin: Callable[[], _Tracker], limit: float = LIMIT_SECONDS) -> None:
        self._name, self._begin, self._limit = name, begin, limit
        self._lines: queue.SimpleQueue[Line | None] = queue.SimpleQueue()
        self._busy_since: float | None = time.monotonic()
        self._given_up = threading.Event()
        # A tracker that hangs must not keep the process alive.
        self._thread = threading.Thread(target=self._serve, name=f"{THREAD_NAME}-{name}", daemon=True)
        self._thread.start()

    def write(self, line: Line) -> None:
        """Hand on one line; returns at once."""
        since = self._busy_since
        if since is not None and time.monotonic() - since > self._limit:
            self._give_up(f"it has not answered for {self._limit:g} seconds")
        if not self._given_up.is_set():
            self._lines.put(line)

    def close(self) -> None:
        """Wait until the tracker has taken all lines, for a limited time."""
        self._lines.put(None)
        if not self._given_up.is_set():
            self._thread.join(self._limit)
        if self._thread.is_alive():
            self._give_up(f"it has not taken the last lines within {self._limit:g} seconds")

    def _serve(self) -> None:
        try:
            log_line, finish = self._begin()
            self._busy_since = None
            while (line := self._lines.get()) is not None:
                if self._given_up.is_set():
                    return
                self._busy_since = time.monotonic()
                log_line(line)
                self._busy_since = None
            self._busy_since = time.monotonic()
            finish()
        except BaseException as error:  # whatever a tracker raises, training goes on
            self._give_up(f"{type(error).__name__}: {error}")

    def _give_up(self, reason: str) -> None:
        if not self._given_up.is_set():
            self._given_up.set()
            log.warning("No more is reported to %s, metrics.jsonl has all values: %s.", self._name, reason)


def start_reporters(names: Sequence[str], output: Path, position: Position) -> list[Reporter]:
    """Begin to report a training in `output`, which goes on at `position`, to the trackers `names`.

    TensorBoard's files lie in OUTPUT/tensorboard, and a resumed training takes back what stands there after `position`.
    Every other tracker gets a run of its own for each process that trains, named after the folder and the step.
    """
    try:
        if names:
            _make_state()
    except Exception as error:  # an installation that is broken costs no training
        log.warning("Nothing is reported to %s, metrics.jsonl has all values: %s.", ", ".join(names), error)
        return []
    return [
        Reporter(name, partial(_tensorboard if name == "tensorboard" else partial(_hosted, name), output, position))
        for name in dict.fromkeys(names)
    ]


# How the variables begin by which torchrun and MPI tell a process of the others.
_LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "PMI_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


def _make_state() -> None:
    """Make the state of accelerate, which its trackers ask, as if this process were alone.

    By the variables of torchrun or MPI it would find other processes and wait for them, or form a group before ours.
    """
    from accelerate.state import PartialState

    before = dict(os.environ)
    for name in before:
        if name.startswith(_LAUNCHERS):
            del os.environ[name]
    try:
        PartialState(cpu=True)
    finally:
        # It sets some of them itself.
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _tensorboard(output: Path, position: Position) -> _Tracker:
    """Training and validation in two folders, so that TensorBoard draws both curves of a metric into one chart.

    The two go on after different steps: a process can die after a step was saved and before its validation was.
    """
    from accelerate.tracking import TensorBoardTracker

    trackers = {
        kind: TensorBoardTracker(kind, output / FOLDER, purge_step=step + 1)
        for kind, step in (("training", position.step), ("validation", position.validated))
    }
    for tracker in trackers.values():
        tracker.start()

    def log_line(line: Line) -> None:
        kind = "validation" if any(name.startswith(_VALIDATION) for name in line) else "training"
        values = {name.removeprefix(_VALIDATION): value for name, value in line.items() if name != "step"}
        trackers[kind].log(values, step=int(line["step"]))

    def finish() -> None:
        for tracker in trackers.values():
            tracker.finish()

    return log_line, finish


def _hosted(name: str, output: Path, position: Position) -> _Tracker:
    from accelerate.tracking import MLflowTracker, TrackioTracker, WandBTracker

    run = output.resolve().name + (f" from step {position.step}" if position.step else "")
    # The first argument is the name of the project, or of the experiment.
    if name == "mlflow":
        tracker = MLflowTracker("kdcache", run_name=run)
    else:
        tracker = {"wandb": WandBTracker, "trackio": TrackioTracker}[name]("kdcache", name=run)
    tracker.start()

    def log_line(line: Line) -> None:
        tracker.log({key: value for key, value in line.items() if key != "step"}, step=int(line["step"]))

    return log_line, tracker.finish
