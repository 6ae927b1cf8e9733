"""Checkpoints: complete or absent, exact, and no other run's."""

from __future__ import annotations

import dataclasses
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
from conftest import ROOT
from models import parameters, same_parameters, wait_until
from safetensors.torch import load_file
from torch import nn

from kdcache.errors import TrainingError
from kdcache.files import sha256
from kdcache.records import canonical_json
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position, Tally
from kdcache.training.config import TrainingConfig
from kdcache.training.step import make_optimizer, seed_streams

FILES = ("model.safetensors", "optimizer.safetensors", "state.json")


class Run:
    """A model whose parameters change with every step, and its optimizer."""

    def __init__(self, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))
        self.optimizer = make_optimizer(self.model, TrainingConfig(0.01, "linear", 100, max_steps=9))
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01

    def step(self) -> None:
        self.model(torch.randn(5, 4)).square().sum().backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def save(self, folder: Path, step: int, **more: object) -> None:
        position = Position(step=step, epoch=step // 4, consumed=step % 4, **more)
        checkpoint.save(folder, position, "run", self.model, self.optimizer)

    def restore(self, folder: Path, run: str = "run") -> Position | None:
        position = checkpoint.restore(folder, run, self.model, self.optimizer)
        if position is not None:
            checkpoint.set_aside_after(folder, position)
        return position


def saved_run(folder: Path, steps: int) -> tuple[Run, list[dict[str, torch.Tensor]]]:
    """A run that saved after each step, and its parameters after each."""
    run, history = Run(), []
    for step in range(1, steps + 1):
        run.step()
        run.save(folder, step)
        history.append(parameters(run.model))
    return run, history


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def flip(path: Path, bit: int) -> None:
    """Turn one bit of a file over."""
    data = bytearray(path.read_bytes())
    data[bit // 8 % len(data)] ^= 1 << bit % 8
    path.write_bytes(data)


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Parameters, moments and position are restored so that the next steps are bitwise the same."""
    first = Run()
    first.step()
    position = Position(7, 1, 2, 5, 5, 0.1 + 0.2, unlogged=(Tally("loss", 1 / 3), Tally("n_tokens", 12.0)))
    checkpoint.save(tmp_path, position, "run", first.model, first.optimizer)
    for step in range(8, 11):
        seed_streams(1, step, 0)
        first.step()
    other = Run(seed=9)
    assert other.restore(tmp_path) == position
    for step in range(8, 11):
        seed_streams(1, step, 0)
        other.step()
    assert same_parameters(parameters(first.model), parameters(other.model))
    assert Run().restore(tmp_path / "absent") is None


def test_a_checkpoint_is_safetensors_and_json(tmp_path: Path) -> None:
    """Nothing in a checkpoint can run code when it is opened."""
    saved_run(tmp_path, 1)
    assert names(tmp_path) == ["step-00000001"]
    assert names(tmp_path / "step-00000001") == sorted(FILES)
    assert "0.exp_avg" in load_file(tmp_path / "step-00000001" / "optimizer.safetensors")
    assert json.loads((tmp_path / "step-00000001" / "state.json").read_text())["position"]["step"] == 1


def test_the_last_two_and_the_best_are_kept(tmp_path: Path) -> None:
    """Older checkpoints go, except the best of either of the two that may be resumed from."""
    run = Run()
    kept = []
    for step, best in ((1, None), (2, 2), (3, 2), (4, 2), (5, 5), (6, 5), (7, 5)):
        run.save(tmp_path, step, best_step=best)
        kept.append([int(path.name[5:]) for path in checkpoint.saved(tmp_path)])
    assert kept == [[1], [2, 1], [3, 2], [4, 3, 2], [5, 4, 2], [6, 5], [7, 6, 5]]


def test_checkpoints_to_be_averaged_are_kept(tmp_path: Path) -> None:
    """The steps of `recent` stay until neither of the two newest checkpoints names them, and their mean is a mean."""
    run, history, kept = Run(), [], []
    for step, recent in ((1, (1,)), (2, (1, 2)), (3, (1, 2)), (4, (2, 4)), (5, (2, 4)), (6, (4, 6)), (7, (4, 6))):
        run.step()
        run.save(tmp_path, step, recent=recent)
        history.append(parameters(run.model))
        kept.append([int(path.name[5:]) for path in checkpoint.saved(tmp_path)])
    assert kept == [[1], [2, 1], [3, 2, 1], [4, 3, 2, 1], [5, 4, 2], [6, 5, 4, 2], [7, 6, 4]]
    checkpoint.load_mean(tmp_path, [4, 6], run.model)
    for name, found in parameters(run.model).items():
        torch.testing.assert_close(found, (history[3][name] + history[5][name]) / 2)


def test_the_same_step_again_only_moves_the_position(tmp_path: Path) -> None:
    """Saving a step twice keeps its tensors and takes over what its validation said."""
    run, history = saved_run(tmp_path, 2)
    run.step()
    run.save(tmp_path, 2, validated=2, best_step=2, best_loss=0.5)
    other = Run(seed=1)
    assert other.restore(tmp_path).best_loss == 0.5
    assert same_parameters(parameters(other.model), history[1])


def test_fault_38_state_of_another_run(tmp_path: Path) -> None:
    """A checkpoint of other data or settings is refused, and nothing is loaded or moved."""
    saved_run(tmp_path, 2)
    other = Run(seed=5)
    before = parameters(other.model)
    with pytest.raises(TrainingError, match="belongs to other data or settings"):
        other.restore(tmp_path, run="another")
    assert same_parameters(parameters(other.model), before)
    assert names(tmp_path) == ["step-00000001", "step-00000002"]


def test_a_checkpoint_of_another_shape_is_refused(tmp_path: Path) -> None:
    """Parameters that do not fit are named."""
    run, _ = saved_run(tmp_path, 1)
    run.model[2] = nn.Linear(8, 4)
    with pytest.raises(TrainingError, match=r"does not fit the model at 2\.bias"):
        run.restore(tmp_path)


SAVERS = """
import os, sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.config import TrainingConfig
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


def test_position_survives_json(tmp_path: Path) -> None:
    """Every field of a position, awkward floats included, is read back as it was."""
    run = Run()
    position = Position(3, 2, 1, 3, 3, 1e-300, 2, (1, 3), (Tally("soft", -0.1), Tally("n_tokens", float(1 << 52))))
    checkpoint.save(tmp_path, position, "run", run.model, run.optimizer)
    assert dataclasses.asdict(run.restore(tmp_path)) == dataclasses.asdict(position)
    assert os.listdir(tmp_path) == ["step-00000003"]
