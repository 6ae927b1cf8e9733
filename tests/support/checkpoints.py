"""A small model that is trained and saved, for tests of checkpoints."""

from __future__ import annotations

from pathlib import Path

import torch
from models import parameters
from torch import nn

from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.step import make_optimizer
from kdcache.training.training_config import TrainingConfig

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
    """Names of what lies in a folder."""
    return sorted(path.name for path in folder.iterdir())
