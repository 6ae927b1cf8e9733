"""Checkpoints of processes that were killed, and damaged ones: the one before loads, or nothing does."""

import json
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from checkpoints import FILES, Run, names, saved_run
from conftest import ROOT
from models import parameters, same_parameters, wait_until
from torch import nn

from kdcache.errors import TrainingError
from kdcache.files.atomic import sha256
from kdcache.files.strict_json import canonical_json
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.step import make_optimizer
from kdcache.training.training_config import TrainingConfig


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


SAVERS = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.training_config import TrainingConfig
from kdcache.training.step import make_optimizer

def save_for_ever(folder):
    model = torch.nn.Linear(500, 500)
    optimizer = make_optimizer(model, TrainingConfig(0.01, "linear", 100, max_steps=9))
    model(torch.ones(1, 500)).sum().backward()
    optimizer.step()
    for step in range(1, 1_000_000):
        with torch.no_grad():
            model.weight.fill_(step)
            model.bias.fill_(-step)
        checkpoint.save(folder, Position(step=step), "run", model, optimizer)

# Forked before any tensor exists, so that no thread of PyTorch is lost.
for folder in sys.argv[2:]:
    child = os.fork()
    if child == 0:
        save_for_ever(Path(folder))
    print(child, flush=True)
for _ in sys.argv[2:]:
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


# First sights of these are the moments to kill at.
WITHIN = ("", "/model.safetensors", "/.tmp-optimizer*", "/optimizer.safetensors", "/state.json")


def _kill_while_saving(folders: list[Path]) -> None:
    """Start one process for each folder that saves for ever; kill each at another moment of a save."""
    command = [sys.executable, "-c", SAVERS, str(ROOT), *map(str, folders)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        generator = random.Random(39)
        children = [int(process.stdout.readline()) for _ in folders]
        try:
            for i, (folder, child) in enumerate(zip(folders, children, strict=True)):
                after, pattern = generator.randint(2, 5), f".tmp-step-*{WITHIN[i % len(WITHIN)]}"
                wait_until(lambda f=folder, n=after: f.is_dir() and _newest(f) >= n, seconds=60)
                wait_until(lambda f=folder, p=pattern: next(f.glob(p), None) is not None, seconds=60)
                os.kill(child, signal.SIGKILL)
        finally:
            for child in children:
                with suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        assert [int(process.stdout.readline()) for _ in folders] == [-signal.SIGKILL] * len(folders)


def _newest(folder: Path) -> int:
    return max((int(path.name[5:]) for path in folder.glob("step-*")), default=0)


def _check_killed(folder: Path) -> None:
    newest = _newest(folder)
    model = nn.Linear(500, 500)
    optimizer = make_optimizer(model, TrainingConfig(0.01, "linear", 100, max_steps=9))
    position = checkpoint.restore(folder, "run", model, optimizer)
    assert position.step == newest
    assert torch.equal(model.weight, torch.full_like(model.weight, newest))
    assert torch.equal(model.bias, torch.full_like(model.bias, -newest))
    # What the dead process left lying is in nobody's way.
    checkpoint.save(folder, Position(step=newest + 1), "run", model, optimizer)
    assert names(folder) == [f"step-{newest:08d}", f"step-{newest + 1:08d}"]


def test_fault_39_killed_while_saving(tmp_path: Path) -> None:
    """After kill -9 at any moment of a save the checkpoint before it loads whole, and saving works again."""
    folders = [tmp_path / str(i) for i in range(5)]
    _kill_while_saving(folders)
    for folder in folders:
        _check_killed(folder)


@pytest.mark.full
def test_fault_39_killed_while_saving_many_times(tmp_path: Path) -> None:
    """The same at 40 moments."""
    for first in range(0, 40, 10):
        folders = [tmp_path / str(first + i) for i in range(10)]
        _kill_while_saving(folders)
        for folder in folders:
            _check_killed(folder)


def test_fault_40_left_over_partial_checkpoint(tmp_path: Path) -> None:
    """Half-written folders of a dead process, of this step or another, are removed by the next save."""
    run, history = saved_run(tmp_path, 2)
    for name in (".tmp-step-00000003", ".tmp-step-00000008"):
        (tmp_path / name / "nested").mkdir(parents=True)
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    other = Run(seed=3)
    assert other.restore(tmp_path).step == 2
    assert same_parameters(parameters(other.model), history[1])
    run.step()
    run.save(tmp_path, 3)
    assert names(tmp_path) == ["step-00000002", "step-00000003"]
    assert other.restore(tmp_path).step == 3


@pytest.mark.parametrize("file", FILES)
def test_fault_42_bit_flip_in_the_newest(tmp_path: Path, file: str, caplog: pytest.LogCaptureFixture) -> None:
    """Any flipped bit in the newest checkpoint is noticed: a warning, and the one before is loaded."""
    _, history = saved_run(tmp_path, 3)
    path = tmp_path / "step-00000003" / file
    whole = path.read_bytes()
    for bit in random.Random(42).sample(range(8 * len(whole)), 25):
        flip(path, bit)
        other = Run(seed=3)
        caplog.clear()
        with caplog.at_level("WARNING", logger="kdcache"):
            position = other.restore(tmp_path)
        # White space and the like may change without changing what the file says.
        if position.step == 2:
            assert "damaged checkpoint is passed over" in caplog.text
            assert same_parameters(parameters(other.model), history[1])
            (aside,) = tmp_path.glob("damaged-*")
            aside.rename(tmp_path / "step-00000003")
        else:
            assert file == "state.json"
            assert same_parameters(parameters(other.model), history[2])
        path.write_bytes(whole)


def test_fault_42_every_number_of_the_state_is_protected(tmp_path: Path) -> None:
    """Changing any value of state.json to another valid one is noticed."""
    saved_run(tmp_path, 3)
    path = tmp_path / "step-00000003" / "state.json"
    whole = json.loads(path.read_text())
    changes = [
        {"position": {**whole["position"], name: value}}
        for name, value in (("step", 4), ("consumed", 9), ("epoch", 1), ("best_step", 2), ("best_loss", 0.5))
    ]
    for change in (*changes, {"run": "other"}, {"model_sha256": "0" * 64}, {"seal": None}):
        path.write_text(json.dumps({**whole, **change}))
        assert Run().restore(tmp_path).step == 2, change
        (aside,) = tmp_path.glob("damaged-*")
        aside.rename(path.parent)


def test_fault_42_a_damaged_step_can_be_saved_again(tmp_path: Path) -> None:
    """After the fallback the lost step is taken again and its new checkpoint is the one that loads."""
    saved_run(tmp_path, 3)
    flip(tmp_path / "step-00000003" / "model.safetensors", 4_000)
    run = Run(seed=8)
    assert run.restore(tmp_path).step == 2
    run.step()
    run.save(tmp_path, 3)
    other = Run(seed=9)
    assert other.restore(tmp_path).step == 3
    assert same_parameters(parameters(other.model), parameters(run.model))


def test_fault_42_no_sound_checkpoint(tmp_path: Path) -> None:
    """Where every checkpoint is damaged, training does not silently begin anew, now or at the next try."""
    saved_run(tmp_path, 2)
    for path in checkpoint.saved(tmp_path):
        (path / "optimizer.safetensors").unlink()
    for _ in range(2):
        with pytest.raises(TrainingError, match="none of its 2 checkpoints is sound"):
            Run().restore(tmp_path)


def test_fault_42_damaged_best_checkpoint(tmp_path: Path) -> None:
    """The parameters of a damaged best step are not exported."""
    run, history = saved_run(tmp_path, 2)
    checkpoint.load_mean(tmp_path, [1], run.model)
    assert same_parameters(parameters(run.model), history[0])
    flip(tmp_path / "step-00000001" / "model.safetensors", 4_000)
    with pytest.raises(TrainingError, match="that is to be exported cannot be used"):
        checkpoint.load_mean(tmp_path, [1], run.model)


def test_fault_44_missing_position(tmp_path: Path) -> None:
    """Random streams follow from the step, so a state that is sound in every way but lacks its step is refused."""
    saved_run(tmp_path, 1)
    path = tmp_path / "step-00000001" / "state.json"
    state = json.loads(path.read_text())
    del state["position"]["step"]
    state["seal"] = sha256(canonical_json({name: value for name, value in state.items() if name != "seal"}))
    path.write_text(json.dumps(state))
    with pytest.raises(TrainingError, match="none of its 1 checkpoints is sound"):
        Run().restore(tmp_path)
