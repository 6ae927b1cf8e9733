"""The training commands under torchrun, as their users start them."""

import json
import os
import signal
import time
from pathlib import Path

import pytest
from conftest import ROOT, run_here, run_python
from loops import metrics
from models import TORCHRUN, started, wait_until

from kdcache.text.corpus import TextFiles


@pytest.mark.full
def test_torchrun_trains_and_survives_a_kill(tmp_path: Path, small_cache: Path, small_valid: TextFiles) -> None:
    """One of two processes is killed: the other ends soon with an error; one process alone then finishes the run."""
    output = tmp_path / "student"
    source, target = small_valid.paths()
    command = [ROOT / "cli.py", "student-train", "--cache", small_cache, "--output", output, "--device", "cpu"]
    command += ["--valid-source", source, "--valid-target", target, "--max-steps", 25, "--max-tokens", 300]
    command += ["--valid-every", 5]
    with started(*TORCHRUN, *command) as process:
        assert wait_until(lambda: any((output / "checkpoints").glob("step-*")), process)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        victims = [int(pid) for pid in children if b"RANK=1\0" in Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(victims[0], signal.SIGKILL)
        start = time.monotonic()
        process.communicate(timeout=60)
    assert process.returncode != 0
    assert time.monotonic() - start < 60
    assert not (output / "model.safetensors").exists()
    done = run_python(*command)
    assert done.returncode == 0, done.stderr
    assert "Continuing after step" in done.stderr
    assert [line["step"] for line in metrics(output)] == [1, 5, 10, 15, 20, 20, 25]
    assert json.loads((output / "run.json").read_text())["result"]["steps"] == 25


def test_torchrun_trains_a_teacher(tmp_path: Path, small_bert: Path, small_text: TextFiles) -> None:
    """A teacher under torchrun masks what one process masks: the losses of the same micro-batches agree."""
    source, target = small_text.paths()
    command = ["--source", source, "--target", target, "--bert", small_bert, "--max-steps", 3, "--device", "cpu"]
    command += ["--valid-source", source, "--valid-target", target, "--max-tokens", 400, "--micro-tokens", 1]
    command += ["--report-to", "tensorboard"]
    alone = run_here("teacher-train", *command, "--output", tmp_path / "one")
    done = run_python(*TORCHRUN, ROOT / "cli.py", "teacher-train", *command, "--output", tmp_path / "two")
    assert (alone.returncode, done.returncode) == (0, 0), done.stderr
    for name, said in (("one", alone.stderr), ("two", done.stderr)):
        assert said.count("is saved") == 1
        # The first process alone reports.
        assert len(list((tmp_path / name / "tensorboard").glob("*/events.*"))) == 2
    one, two = metrics(tmp_path / "one"), metrics(tmp_path / "two")
    assert [line["step"] for line in one] == [line["step"] for line in two]
    for a, b in zip(one, two, strict=True):
        assert a == pytest.approx(b, rel=1e-4)
