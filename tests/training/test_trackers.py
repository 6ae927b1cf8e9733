"""Experiment trackers: they get the values of metrics.jsonl, each step once, and no training fails for their sake."""

import json
import logging
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from conftest import run_python
from loops import EPOCHS, CrashError, Trainer, all_metrics, crash, metrics

from kdcache.errors import UsageError
from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics
from kdcache.training.trackers import THREAD_NAME, Reporter
from kdcache.training.training_config import TrainingConfig

TENSORBOARD = ("tensorboard",)
KINDS = {"training": "", "validation": "valid_"}


def events(output: Path, kind: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard itself reads from a folder: (step, value) of every name, in the order of the file."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(output / "tensorboard" / kind), size_guidance={"tensors": 0, "scalars": 0})
    accumulator.Reload()
    return {
        name: [(event.step, event.value) for event in accumulator.Scalars(name)]
        for name in accumulator.Tags()["scalars"]
    }


def lines(output: Path, kind: str) -> dict[str, list[tuple[int, float]]]:
    """The same out of metrics.jsonl, in float32 as events are."""
    found: dict[str, list[tuple[int, float]]] = {}
    for line in all_metrics(output):
        if ("valid_nll" in line) == (kind == "validation"):
            for name, value in line.items():
                if name != "step" and value is not None:
                    found.setdefault(name.removeprefix(KINDS[kind]), []).append((int(line["step"]), value))
    return found


def assert_the_same(output: Path) -> None:
    for kind in KINDS:
        read, written = events(output, kind), lines(output, kind)
        assert read.keys() == written.keys() != set()
        for name, points in written.items():
            assert [step for step, _ in read[name]] == [step for step, _ in points]
            assert [value for _, value in read[name]] == pytest.approx([value for _, value in points], rel=1e-6)


def test_events_are_the_metrics(trainer: Trainer, tmp_path: Path) -> None:
    """TensorBoard reads the values of metrics.jsonl, training and validation apart under the same names."""
    trainer.run(tmp_path, report_to=TENSORBOARD)
    assert_the_same(tmp_path)
    assert {"nll", "correct"} == events(tmp_path, "validation").keys() < events(tmp_path, "training").keys()


def test_a_resumed_run_has_each_step_once(trainer: Trainer, tmp_path: Path) -> None:
    """After two crashes, one of which loses a line, TensorBoard shows no step twice and misses none."""
    # Checkpoints at 15, 30, …, lines at 20, 40, …: the crash after step 42 loses the line of step 40.
    length = {"epochs": EPOCHS * 6, "valid_every": 15, "report_to": TENSORBOARD}
    trainer.run(tmp_path / "undisturbed", **length)
    output = tmp_path / "disturbed"
    for moment in (43, 14):
        with pytest.raises(CrashError):
            trainer.run(output, {moment: crash}, **length)
        # TensorBoard orders files by the second in their names; another process would take longer to begin.
        time.sleep(1.1)
    trainer.run(output, **length)
    assert_the_same(output)
    for kind in KINDS:
        found, expected = events(output, kind), events(tmp_path / "undisturbed", kind)
        # What was measured with a clock has its steps in common, no more.
        assert _steps(found.pop("loader_wait", [])) == _steps(expected.pop("loader_wait", []))
        assert found == expected


def _steps(points: list[tuple[int, float]]) -> list[int]:
    return [step for step, _ in points]


def test_steps_after_the_checkpoint_are_purged(tmp_path: Path) -> None:
    """Events beyond the checkpoint disappear; a validation can be behind the training step it belongs to."""
    path = tmp_path / "metrics.jsonl"
    with Metrics(path, Position(), TENSORBOARD) as before:
        for step in (20, 40, 60):
            before.write({"step": step, "nll": float(step)})
            before.write({"step": step, "valid_nll": float(step)})
    with Metrics(path, Position(step=40, validated=20), TENSORBOARD) as after:
        after.write({"step": 40, "valid_nll": 41.0})
        after.write({"step": 60, "nll": 61.0})
    assert events(tmp_path, "training") == {"nll": [(20, 20.0), (40, 40.0), (60, 61.0)]}
    assert events(tmp_path, "validation") == {"nll": [(20, 20.0), (40, 41.0)]}
    assert_the_same(tmp_path)


def test_a_value_that_is_not_finite_is_not_reported(tmp_path: Path) -> None:
    """An infinite norm is null in metrics.jsonl and missing from the events."""
    with Metrics(tmp_path / "metrics.jsonl", Position(), TENSORBOARD) as written:
        written.write({"step": 1, "nll": 2.0, "gradient_norm": float("inf")})
    assert events(tmp_path, "training") == {"nll": [(1, 2.0)]}


def test_without_the_option_nothing_is_reported(tmp_path: Path) -> None:
    """Without --report-to there is no folder, no thread and no import of accelerate's trackers."""
    code = f"""
import sys, threading
from pathlib import Path
from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics
with Metrics(Path({str(tmp_path / "metrics.jsonl")!r}), Position()) as metrics:
    metrics.write({{"step": 1, "nll": 2.0}})
    print(threading.active_count(), "accelerate.tracking" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("1 False\n", "")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "nll": 2.0}


def test_a_launcher_of_mpi_is_not_waited_for(tmp_path: Path) -> None:
    """Variables by which MPI tells a process of others make no tracker wait for them, and stay as they are."""
    code = (
        "import os; before = dict(os.environ); from kdcache.training.trackers import _make_state; "
        "_make_state(); print(dict(os.environ) == before)"
    )
    mpi = {"PMI_SIZE": "2", "PMI_RANK": "0", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}
    done = run_python("-c", code, cwd=tmp_path, MASTER_ADDR="127.0.0.1", MASTER_PORT="29511", **mpi)
    assert (done.returncode, done.stdout.strip()) == (0, "True"), done.stderr


def test_only_the_first_process_reports(tmp_path: Path) -> None:
    """Metrics without a path, which are those of all other processes, report to nobody."""
    before = set(threading.enumerate())
    with Metrics(None, Position(), TENSORBOARD) as written:
        written.write({"step": 1, "nll": 2.0})
        assert set(threading.enumerate()) == before
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("moment", ["begin", "line", "end"])
def test_a_tracker_that_hangs_costs_one_warning(moment: str, caplog: pytest.LogCaptureFixture) -> None:
    """A tracker that answers nothing, from whenever on, is given up: no line waits for it, and the process may end."""
    forever, taken = threading.Event(), []

    def begin() -> Any:
        if moment == "begin":
            forever.wait()
        return log_line, forever.wait if moment == "end" else forever.set

    def log_line(line: Any) -> None:
        taken.append(line)
        if moment == "line":
            forever.wait()

    with caplog.at_level(logging.WARNING, logger="kdcache"):
        reporter = Reporter("deaf", begin, limit=0.2)
        reporter.write({"step": 1.0})
        if moment != "end":
            assert not forever.wait(0.3)
            reporter.write({"step": 2.0})
        reporter.close()
    assert len(taken) == (0 if moment == "begin" else 1)
    (record,) = caplog.records
    assert "No more is reported to deaf" in record.getMessage()
    assert "0.2 seconds" in record.getMessage()
    forever.set()
    for thread in [one for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]:
        thread.join(10)


def test_a_place_that_cannot_be_written_ends_the_events_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file where the folder should be: one warning, and all lines of metrics.jsonl."""
    (tmp_path / "tensorboard").write_text("in the way")
    with (
        caplog.at_level(logging.WARNING, logger="kdcache"),
        Metrics(tmp_path / "metrics.jsonl", Position(), TENSORBOARD) as written,
    ):
        for step in (1, 20):
            written.write({"step": step, "nll": 2.0})
    assert [line["step"] for line in metrics(tmp_path)] == [1, 20]
    assert len(caplog.records) == 1
    assert "No more is reported to tensorboard" in caplog.text


def test_a_full_disk_ends_the_events_only(tmp_path: Path) -> None:
    """Where the events' file may grow no further, training goes on with one warning and whole lines."""
    code = f"""
import resource, signal, sys, time
from pathlib import Path
from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics
with Metrics(Path({str(tmp_path / "metrics.jsonl")!r}), Position(), ("tensorboard",)) as metrics:
    metrics.write({{"step": 1, "nll": 2.0}})
    folder = Path({str(tmp_path / "tensorboard" / "training")!r})
    while not folder.is_dir() or not any(file.stat().st_size > 100 for file in folder.iterdir()):
        time.sleep(0.05)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    (events,) = folder.iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size + 10, resource.RLIM_INFINITY))
    for step in (20, 40, 60):
        metrics.write({{"step": step, "nll": 2.0}})
        time.sleep(0.2)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(tmp_path)] == [1, 20, 40, 60]
    assert done.stderr.count("No more is reported to tensorboard") == 1


def test_a_tracker_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown name, and one whose package cannot be imported, are refused before anything is read."""
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb" else name)
    for name, message in (("excel", "must be one of tensorboard, wandb"), ("wandb", "wandb cannot be imported")):
        with pytest.raises(UsageError, match=message):
            TrainingConfig(1e-3, "linear", 100, max_steps=1, report_to=("tensorboard", name)).check()


@pytest.mark.parametrize("name", ["wandb", "trackio", "mlflow"])
def test_other_trackers_get_a_run_for_each_process(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tracker's package is told every line with its step, in a run named after the folder and the step it goes on."""
    said: list[Any] = []
    monkeypatch.setitem(sys.modules, name, package(said))
    path = tmp_path / "student" / "metrics.jsonl"
    path.parent.mkdir()
    for position, step in ((Position(), 20), (Position(step=20), 40)):
        with Metrics(path, position, (name,)) as written:
            written.write({"step": step, "nll": 2.0, "gradient_norm": float("inf")})
            written.write({"step": step, "valid_nll": 3.0})
    lines = [[({"nll": 2.0}, step), ({"valid_nll": 3.0}, step)] for step in (20, 40)]
    assert said == ["student", *lines[0], "finished", "student from step 20", *lines[1], "finished"]


def package(said: list[Any]) -> ModuleType:
    """What accelerate asks of the packages of its trackers; it writes down what it is told."""
    module: Any = ModuleType("tracker")

    def record(values: dict[str, float], step: int) -> None:
        said.append((values, step))

    def begin(**settings: Any) -> Any:
        said.append(settings.get("name", settings.get("run_name")))
        return SimpleNamespace(log=record, finish=end)

    def end() -> None:
        said.append("finished")

    module.init = module.start_run = begin
    module.search_experiments = lambda filter_string: [SimpleNamespace(experiment_id="7")]
    module.log_metrics, module.end_run = record, end
    return module
