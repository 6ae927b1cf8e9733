"""Events for TensorBoard: the values of metrics.jsonl, each step once, and no training that fails for their sake."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from loops import EPOCHS, CrashError, Trainer, all_metrics, crash, metrics

from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics

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
    trainer.run(tmp_path)
    assert_the_same(tmp_path)
    assert {"nll", "correct"} == events(tmp_path, "validation").keys() < events(tmp_path, "training").keys()


def test_a_resumed_run_has_each_step_once(trainer: Trainer, tmp_path: Path) -> None:
    """After two crashes, one of which loses a line, TensorBoard shows no step twice and misses none."""
    # Checkpoints at 15, 30, …, lines at 20, 40, …: the crash after step 42 loses the line of step 40.
    length = {"epochs": EPOCHS * 6, "valid_every": 15}
    trainer.run(tmp_path / "undisturbed", **length)
    output = tmp_path / "disturbed"
    for moment in (43, 14):
        with pytest.raises(CrashError):
            trainer.run(output, {moment: crash}, **length)
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
    with Metrics(path, Position()) as before:
        for step in (20, 40, 60):
            before.write({"step": step, "nll": float(step)})
            before.write({"step": step, "valid_nll": float(step)})
    with Metrics(path, Position(step=40, validated=20)) as after:
        after.write({"step": 40, "valid_nll": 41.0})
        after.write({"step": 60, "nll": 61.0})
    assert events(tmp_path, "training") == {"nll": [(20, 20.0), (40, 40.0), (60, 61.0)]}
    assert events(tmp_path, "validation") == {"nll": [(20, 20.0), (40, 41.0)]}
    assert_the_same(tmp_path)


def test_a_value_that_is_not_finite_is_no_event(tmp_path: Path) -> None:
    """An infinite norm is null in metrics.jsonl and missing from the events."""
    with Metrics(tmp_path / "metrics.jsonl", Position()) as written:
        written.write({"step": 1, "nll": 2.0, "gradient_norm": float("inf")})
    assert events(tmp_path, "training") == {"nll": [(1, 2.0)]}


def test_events_survive_a_kill(tmp_path: Path) -> None:
    """What was written before kill -9 is on the disk: nothing waits in the memory of the process."""
    code = f"""
import os, signal
from pathlib import Path
from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics
metrics = Metrics(Path({str(tmp_path / "metrics.jsonl")!r}), Position())
metrics.write({{"step": 1, "nll": 2.0}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (-9, "")
    assert events(tmp_path, "training") == {"nll": [(1, 2.0)]}


def test_events_need_no_thread(tmp_path: Path) -> None:
    """Who writes a line writes its events himself: a signal meets no wait for a thread, and no thread meets a fork."""
    before = set(threading.enumerate())
    with Metrics(tmp_path / "metrics.jsonl", Position()) as written:
        written.write({"step": 1, "nll": 2.0})
        assert set(threading.enumerate()) == before
        assert events(tmp_path, "training") == {"nll": [(1, 2.0)]}


def test_without_tensorboard_nothing_is_said(tmp_path: Path) -> None:
    """Where TensorBoard is not installed, metrics.jsonl is written as ever, without a word and without a folder."""
    code = f"""
import importlib.util
found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "tensorboard" else found(name, package)
import logging
logging.basicConfig(level=logging.DEBUG)
from pathlib import Path
from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics
Metrics(Path({str(tmp_path / "metrics.jsonl")!r}), Position()).write({{"step": 1, "nll": 2.0}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert (done.stdout, done.stderr) == ("", "")
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 1, "nll": 2.0}


def test_a_place_that_cannot_be_written_ends_the_events_only(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A file where the folder should be: one warning, and all lines of metrics.jsonl."""
    (tmp_path / "tensorboard").write_text("in the way")
    with (
        Metrics(tmp_path / "metrics.jsonl", Position()) as written,
        caplog.at_level(logging.WARNING, logger="kdcache"),
    ):
        for step in (1, 20):
            written.write({"step": step, "nll": 2.0})
    assert [line["step"] for line in metrics(tmp_path)] == [1, 20]
    assert len(caplog.records) == 1
    assert f"{tmp_path / 'tensorboard'}: no more events for TensorBoard" in caplog.text


def test_a_full_disk_ends_the_events_only(tmp_path: Path) -> None:
    """Where the events' file may grow no further, training goes on with one warning and whole lines."""
    code = f"""
import resource, signal, sys
from pathlib import Path
from kdcache.training.checkpoint import Position
from kdcache.training.metrics import Metrics
with Metrics(Path({str(tmp_path / "metrics.jsonl")!r}), Position()) as metrics:
    metrics.write({{"step": 1, "nll": 2.0}})
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    (events,) = Path({str(tmp_path / "tensorboard" / "training")!r}).iterdir()
    resource.setrlimit(resource.RLIMIT_FSIZE, (events.stat().st_size + 10, resource.RLIM_INFINITY))
    for step in (20, 40, 60):
        metrics.write({{"step": step, "nll": 2.0}})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert [line["step"] for line in metrics(tmp_path)] == [1, 20, 40, 60]
    assert done.stderr.count("no more events for TensorBoard") == 1
