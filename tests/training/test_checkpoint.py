"""Checkpoints: complete or absent, exact, and no other run's."""

import json
from pathlib import Path

import pytest
import torch
from checkpoints import FILES, Run, names, saved_run
from models import parameters, same_parameters
from safetensors.torch import load_file
from torch import nn

from kdcache.errors import TrainingError
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position, Tally
from kdcache.training.step import seed_streams


def test_what_was_saved_comes_back(tmp_path: Path) -> None:
    """Parameters, moments and position, awkward floats included, come back: the next steps are bitwise the same."""
    first = Run()
    first.step()
    tallies = (Tally("soft", -0.1), Tally("loss", 1 / 3), Tally("n_tokens", float(1 << 52)))
    position = Position(7, 1, 2, 5, 5, 1e-300, 2, (1, 3), tallies)
    checkpoint.save(tmp_path, position, "run", first.model, first.optimizer)
    assert names(tmp_path) == ["step-00000007"]
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
