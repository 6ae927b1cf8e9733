"""Training on several processes, in real ones: the same arithmetic, one order, and faults that all share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from loops import metrics
from models import wait_until

from kdcache.corpus import TextFiles

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}


def run_ranks(scenario: str, folder: Path, cache: Path, valid: TextFiles) -> list[dict[str, Any]]:
    """What both processes of a scenario of ranks.py found."""
    arguments = [scenario, folder, cache, *valid.paths()]
    done = subprocess.run(
        [*TORCHRUN, str(Path(__file__).with_name("ranks.py")), *map(str, arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads((folder / f"{scenario}-{rank}.json").read_text()) for rank in range(2)]


def test_two_processes_compute_what_one_does(tmp_path: Path, small_cache: Path, small_valid: TextFiles) -> None:
    """Gradients over micro-batches and processes equal those of one batch in float64, and the curves agree."""
    both = run_ranks("arithmetic", tmp_path, small_cache, small_valid)
    for found in both:
        for name in ("whole", "micro"):
            assert found[name]["difference"] < 1e-6
            assert found[name]["norms"][0] == pytest.approx(found[name]["norms"][1], rel=1e-9)
        assert found["lonely"]["difference"] < 1e-6 * found["lonely"]["size"]
    leader, other = both
    assert leader["two"]["outcome"] == other["two"]["outcome"] == leader["one"]["outcome"] == "6"
    assert leader["two"]["digest"] == other["two"]["digest"]
    # Both did about half of every step, nobody did what the other did, and dropout fell alike.
    assert len(leader["two"]["pairs"]) + len(other["two"]["pairs"]) == len(leader["one"]["pairs"])
    shares = [len(found["two"]["pairs"]) for found in both]
    assert 0.4 < shares[0] / sum(shares) < 0.6
    assert len(leader["losses"]) == len(leader["losses_alone"]) > 2
    assert leader["losses"] == pytest.approx(leader["losses_alone"], rel=1e-4)


@pytest.fixture(scope="module")
def faults(
    small_cache: Path, small_valid: TextFiles, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[dict[str, Any]]]:
    """What both processes went through."""
    folder = tmp_path_factory.mktemp("faults")
    return folder, run_ranks("faults", folder, small_cache, small_valid)


def test_fault_46_infinite_loss_on_one_process(faults: tuple[Path, list[dict[str, Any]]]) -> None:
    """A loss that is infinite on one process is skipped by both, and ten in a row end both."""
    folder, both = faults
    assert {found["skip"]["outcome"] for found in both} == {"14"}
    assert len({found["skip"]["digest"] for found in both}) == 1
    assert "nan" not in both[0]["skip"]["digest"]
    for found in both:
        assert found["abort"]["outcome"].startswith("TrainingError: Loss or gradient were not finite in 10 steps")
    assert "NaN" not in (folder / "abort" / "metrics.jsonl").read_text()


def test_fault_45_sigterm_to_one_process(faults: tuple[Path, list[dict[str, Any]]]) -> None:
    """SIGTERM to one process, in a step or in validation, stops both after the same step, with one checkpoint."""
    _, both = faults
    for found in both:
        assert "Stopped by SIGTERM" in found["stopped"]["outcome"]
        assert "Stopped by SIGTERM" in found["stopped_valid"]["outcome"]
        assert found["saved"] == ["step-00000003"]
        assert found["saved_valid"] == ["step-00000004"]
    assert both[0]["stopped"]["digest"] == both[1]["stopped"]["digest"]
    assert {found["stopped"]["calls"] for found in both} == {3}


def test_fault_41_one_process_cannot_save(faults: tuple[Path, list[dict[str, Any]]]) -> None:
    """When the process that writes cannot, it says why, and the other stops with it instead of waiting."""
    _, (leader, other) = faults
    assert leader["unwritable"]["outcome"].startswith("OutputError: ")
    assert other["unwritable"]["outcome"].startswith("TrainingError: Process 0 of 2 failed, so all stop. There: Output")
    assert leader["unwritable"]["calls"] == other["unwritable"]["calls"] == 4


def test_processes_that_differ_are_refused(faults: tuple[Path, list[dict[str, Any]]]) -> None:
    """Processes whose models are not the same from the start do not train."""
    for found in faults[1]:
        assert "start from different checkpoints or models" in found["different"]["outcome"]
        assert found["different"]["calls"] == 0


def test_fault_36_another_number_of_processes(tmp_path: Path, small_cache: Path, small_valid: TextFiles) -> None:
    """Two processes, then one, then two take each pair of each step of the epochs once, in one process's order."""
    leader, other = run_ranks("resume", tmp_path, small_cache, small_valid)
    parts = [leader["first"], other["first"], leader["second"], leader["third"], other["third"]]
    taken = sorted(tuple(pair) for part in parts for pair in part["pairs"])
    assert taken == sorted(tuple(pair) for pair in leader["whole"]["pairs"])
    assert "Stopped" in leader["first"]["outcome"]
    assert "Stopped" in leader["second"]["outcome"]
    assert leader["third"]["outcome"] == other["third"]["outcome"] == leader["whole"]["outcome"]
    assert leader["third"]["digest"] == other["third"]["digest"]
    assert leader["lines"] == leader["lines_alone"]


def test_torchrun_trains_and_survives_a_kill(tmp_path: Path, small_cache: Path, small_valid: TextFiles) -> None:
    """One of two processes is killed: the other ends soon with an error; one process alone then finishes the run."""
    output = tmp_path / "student"
    source, target = small_valid.paths()
    command = [str(ROOT / "cli.py"), "student-train", "--cache", small_cache, "--output", output, "--device", "cpu"]
    command += ["--valid-source", source, "--valid-target", target, "--max-steps", 25, "--max-tokens", 300]
    command += ["--valid-every", 5]
    with subprocess.Popen(
        [*TORCHRUN, *map(str, command)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    ) as process:
        assert wait_until(lambda: any((output / "checkpoints").glob("step-*")), process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victims = [int(pid) for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(victims[0], signal.SIGKILL)
        start = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - start < 60
    assert not (output / "model.safetensors").exists()
    done = subprocess.run(
        [sys.executable, *map(str, command)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Continuing after step" in done.stderr
    assert [line["step"] for line in metrics(output)] == [1, 5, 10, 15, 20, 20, 25]
    assert json.loads((output / "run.json").read_text())["result"]["steps"] == 25


def test_torchrun_trains_a_teacher(tmp_path: Path, small_bert: Path, small_text: TextFiles) -> None:
    """A teacher under torchrun masks what one process masks: the losses of the same micro-batches agree."""
    source, target = small_text.paths()
    command = ["--source", source, "--target", target, "--bert", small_bert, "--max-steps", 3, "--device", "cpu"]
    command += ["--valid-source", source, "--valid-target", target, "--max-tokens", 400, "--micro-tokens", 1]
    for name, start in (("one", [sys.executable]), ("two", [*TORCHRUN])):
        arguments = [*start, str(ROOT / "cli.py"), "teacher-train", *command, "--output", tmp_path / name]
        done = subprocess.run(
            [*map(str, arguments)], env=ENVIRONMENT, capture_output=True, text=True, timeout=240, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr.count("is saved") == 1
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
