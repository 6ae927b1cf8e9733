"""Several processes train one model: the same as one would, stopping, failing and going on together."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import together
import torch
from conftest import ROOT, run_python
from loops import EPOCHS, Disturbed, Trainer, metrics, terminate
from models import TORCHRUN, started, wait_until
from together import attempt, gradients

from kdcache.text.corpus import TextFiles
from kdcache.training import checkpoint
from kdcache.training.batches import epoch_order


@dataclass
class Told:
    """What both processes of `together.py` saw, by the name of the run, and where their files are."""

    runs: list[dict[str, Any]]
    folder: Path

    def both(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return self.runs[0][name], self.runs[1][name]


def start(half: str, text: TextFiles, cache: Path, teacher: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return run_python(*TORCHRUN, together.__file__, half, cache, *text.paths(), teacher, folder)


def told(half: str, folder: Path) -> Told:
    return Told([json.loads((folder / f"{half}-{rank}.json").read_text()) for rank in range(2)], folder)


@pytest.fixture(scope="module")
def first(
    small_cache: Path, small_valid: TextFiles, small_teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> Told:
    """One start of two processes, which several tests look at."""
    folder = tmp_path_factory.mktemp("together")
    done = start("first", small_valid, small_cache, small_teacher, folder)
    assert done.returncode == 0, done.stderr
    return told("first", folder)


def test_two_processes_compute_the_gradients_of_one(first: Told, trainer: Trainer, small_teacher: Path) -> None:
    """Two processes, small micro-batches and processes without a pair give the gradients of one, to 1e-6 (float64)."""
    expected = gradients(trainer, small_teacher)
    assert len(expected) == 18
    for student_or_teacher in (0, 9):
        for (gradient, norm), (wanted, wanted_norm) in zip(
            expected[student_or_teacher + 3 :][:3], expected[student_or_teacher:][:3], strict=True
        ):
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(norm, wanted_norm, rtol=1e-6, atol=0)
    for rank in range(2):
        found = torch.load(first.folder / f"gradients-{rank}.pt")
        for (gradient, norm), (wanted, wanted_norm) in zip(found, expected, strict=True):
            assert wanted.abs().max() > 1e-3
            assert norm > 0
            torch.testing.assert_close(gradient, wanted, rtol=1e-6, atol=1e-9)
            torch.testing.assert_close(norm, wanted_norm, rtol=1e-6, atol=0)


def test_processes_stay_the_same_and_dropout_differs(first: Told) -> None:
    """Both end with the same bits, though each drops out its own units of its own pairs."""
    one, other = first.both("whole")
    assert one["ended"] == other["ended"] == "finished"
    assert one["parameters"] == other["parameters"]
    assert one["seen"] != other["seen"]


def order_of(*processes: list[list[Any]]) -> list[tuple[int, int, int, list[int]]]:
    """The pairs of each step over all processes."""
    steps: dict[tuple[int, int, int], list[int]] = {}
    for seen in processes:
        for epoch, index, window, rows in seen:
            steps.setdefault((epoch, index, window), []).extend(rows)
    return [(*key, sorted(rows)) for key, rows in sorted(steps.items())]


def global_order(trainer: Trainer) -> list[tuple[int, int, int, list[int]]]:
    config = trainer.config.training
    return [
        (one.epoch, one.index, int(one.window.pairs.source_ids[:9].sum()), sorted(one.rows.tolist()))
        for epoch in range(EPOCHS)
        for one in epoch_order(trainer.sections, config.max_tokens, config.seed, epoch)
    ]


def test_fault_36_two_processes_one_two_again(
    first: Told, trainer: Trainer, small_cache: Path, small_valid: TextFiles, small_teacher: Path
) -> None:
    """Two processes, then one, then two train on the pairs of each step once, in the order of a run of one process.

    In the last start one process is killed in a step: the other ends soon with an error and does not wait for ever.
    """
    folder = first.folder
    assert order_of(*(run["seen"] for run in first.both("whole"))) == global_order(trainer)
    between = attempt(trainer, Disturbed(trainer.task(), {2: terminate}), folder / "mixed")
    assert between["ended"].startswith("StoppedError")
    done = start("second", small_valid, small_cache, small_teacher, folder)
    assert done.returncode != 0
    rest = json.loads((folder / "second-0.json").read_text())
    assert rest["died"]["ended"].startswith("TrainingError: Another process of this training is gone")
    parts = [*(run["seen"] for run in first.both("mixed")), between["seen"], rest["mixed"]["seen"], rest["other"]]
    assert order_of(*parts) == global_order(trainer)
    assert sum(len(rows) for part in parts for *_, rows in part) == EPOCHS * sum(trainer.sections.sizes)
    steps = len(global_order(trainer))
    assert [line["step"] for line in metrics(folder / "mixed") if "valid_nll" in line][-1] == steps


def test_fault_41_one_process_cannot_save(first: Told) -> None:
    """What one process cannot write fails in both, after the same step, with the reason."""
    one, other = first.both("unsaved")
    assert one["ended"].startswith("OutputError")
    assert other["ended"].startswith("TrainingError: Process 0 of 2 failed, so all stop. There: OutputError")
    assert one["parameters"] == other["parameters"]


@pytest.mark.parametrize("moment", ["step", "validation"])
def test_fault_45_sigterm_to_one_of_two(first: Told, moment: str) -> None:
    """SIGTERM to one process, in a step or in a validation, stops both after the same step; the rest is the same."""
    one, other = first.both(f"{moment}.1")
    assert one["ended"].startswith("StoppedError: Stopped by SIGTERM")
    assert other["ended"] == one["ended"]
    assert one["parameters"] == other["parameters"]
    assert {"step": 3, "validation": 4}[moment] == max(one["calls"], other["calls"])
    for found, whole in zip(first.both(f"{moment}.2"), first.both("whole"), strict=True):
        assert found["ended"] == "finished"
        assert found["parameters"] == whole["parameters"]
    assert metrics(first.folder / moment) == metrics(first.folder / "whole")


def test_fault_46_a_loss_that_is_not_finite_on_one_of_two(first: Told) -> None:
    """An infinite loss in one process is skipped by both; ten in a row end both with the same error."""
    for run in first.both("spoiled"):
        assert run["ended"] == "finished"
        assert run["finite"]
    one, other = first.both("spoiled")
    assert one["parameters"] == other["parameters"] != first.both("whole")[0]["parameters"]
    assert "NaN" not in (first.folder / "spoiled" / "metrics.jsonl").read_text()
    one, other = first.both("hopeless")
    assert one["ended"] == other["ended"]
    assert "10 steps in a row, up to step 11" in one["ended"]


def test_only_the_first_process_writes(first: Told) -> None:
    """Each line of the record is there once, and the checkpoints are those of one process."""
    lines = metrics(first.folder / "whole")
    assert len({(line["step"], "valid_nll" in line) for line in lines}) == len(lines)
    steps = [int(path.name[5:]) for path in checkpoint.saved(first.folder / "whole" / "checkpoints")]
    assert steps == sorted(set(steps), reverse=True)


def test_processes_that_differ_are_refused(first: Told) -> None:
    """Processes whose models are not the same from the start do not train."""
    for found in first.both("different"):
        assert "start from different checkpoints or models" in found["ended"]
        assert found["calls"] == 0


def workers(launcher: subprocess.Popen[str]) -> list[int]:
    """The processes that a torchrun has started, in the order of their ranks."""
    ranks = {}
    for child in Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split():
        with suppress(OSError):
            variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
            ranks.update({int(one.split(b"=")[1]): int(child) for one in variables if one.startswith(b"RANK=")})
    return [ranks[rank] for rank in sorted(ranks)]


@pytest.mark.full
def test_fault_45_the_commands_under_torchrun(small_bert: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """Under torchrun, SIGTERM to the second process of `teacher-train` saves once; the command again finishes it."""
    output = tmp_path / "teacher"
    source, target = small_text.paths()
    options = ["--max-steps", 140, "--max-tokens", 600, "--micro-tokens", 200, "--device", "cpu"]
    command = ["teacher-train", "--source", source, "--target", target, "--bert", small_bert, "--output", output]
    with started(*TORCHRUN, ROOT / "cli.py", *command, *options) as launcher:
        assert wait_until(lambda: (output / "metrics.jsonl").exists() and len(metrics(output)) > 1, launcher)
        os.kill(workers(launcher)[1], signal.SIGTERM)
        _, errors = launcher.communicate(timeout=120)
    assert launcher.returncode != 0
    assert errors.count("Stopped by SIGTERM") >= 1
    assert len(checkpoint.saved(output / "checkpoints")) == 1
    assert not (output / "model.safetensors").exists()
    again = run_python(*TORCHRUN, ROOT / "cli.py", *command, *options)
    assert again.returncode == 0, again.stderr
    assert again.stderr.count("Continuing after step") == 1
    assert "exported_steps" in json.loads((output / "run.json").read_text())["result"]
    assert (output / "kdcache.log").read_text().count("is saved.") == 1
    assert (output / "model.safetensors").exists()
    assert [line["step"] for line in metrics(output)] == [1, *range(20, 141, 20)]
