"""Row 50 of the fault matrix, as far as checkpoints go: nothing in them is ever run."""

import dataclasses
import io
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from kdcache.errors import ModelError, TrainingError
from kdcache.files.atomic import sha256
from kdcache.teacher.masked_lm import Teacher
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.step import make_optimizer
from kdcache.training.training_config import TrainingConfig


class Bomb:
    """Whoever unpickles it creates a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.mark,)


def test_the_bomb_goes_off(tmp_path: Path) -> None:
    """Unpickling it does create the file: what the tests below wait for can happen."""
    pickle.loads(pickle.dumps(Bomb(tmp_path / "mark")))  # noqa: S301 - our own bytes
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize("legacy", [True, False])
def test_fault_50_pickle_as_a_teacher(small_teacher: Path, tmp_path: Path, legacy: bool) -> None:
    """A teacher whose weights are a pickle with code in it is refused, and the code does not run."""
    folder, mark = tmp_path / "teacher", tmp_path / "mark"
    shutil.copytree(small_teacher, folder)
    weights: dict[str, object] = dict(load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()
    torch.save({**weights, "bomb": Bomb(mark)}, folder / "pytorch_model.bin", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(ModelError, match="cannot be opened"):
        Teacher.load(folder)
    assert not mark.exists()


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("zipped", [True, False])
def test_fault_50_pickle_in_a_checkpoint(tmp_path: Path, name: str, zipped: bool) -> None:
    """A pickle in the place of a checkpoint's tensors, with all hashes put right, is refused and not run."""
    model, folder, mark = nn.Linear(3, 2), tmp_path / "checkpoints", tmp_path / "mark"
    optimizer = make_optimizer(model, TrainingConfig(0.01, "linear", 100, max_steps=9))
    checkpoint.save(folder, Position(step=1), "run", model, optimizer)
    (step,) = folder.iterdir()
    buffer = io.BytesIO()
    torch.save(Bomb(mark), buffer)
    data = buffer.getvalue() if zipped else pickle.dumps(Bomb(mark))
    (step / name).write_bytes(data)
    # As an enemy would who can hash.
    field = "model_sha256" if name.startswith("model") else "optimizer_sha256"
    state = dataclasses.replace(checkpoint._read_state(step), **{field: sha256(data)})
    (step / "state.json").write_bytes(checkpoint._sealed(state))
    with pytest.raises(TrainingError, match="none of its 1 checkpoints is sound"):
        checkpoint.restore(folder, "run", model, optimizer)
    assert not mark.exists()
