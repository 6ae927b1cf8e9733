"""The one training loop, for teacher and student."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

from kdcache.batches import Sections, Selection, epoch_order
from kdcache.device import autocast, resolve_device, resolve_precision
from kdcache.errors import TrainingError, UsageError
from kdcache.interrupt import StopRequest, stop_on_signals
from kdcache.losses.sums import LossSums
from kdcache.processes import this_process
from kdcache.progress import Progress
from kdcache.runs import log
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.config import TrainingConfig
from kdcache.training.metrics import METRICS_FILE, Metrics
from kdcache.training.schedule import learning_rate

_BAD_STEPS_MAX = 10


class Task(Protocol):
    """What differs between training a teacher and training a student."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def width(self) -> int:
        """Size of the hidden states, for the schedule."""

    def loss(self, selection: Selection, step: int, device: torch.device) -> LossSums:
        """Loss of the pairs of optimizer step `step`, counted from 1."""

    def valid_losses(self, device: torch.device) -> Iterator[LossSums] | None:
        """Losses over the validation text, plain and without dropout; None if there is no such text."""


@dataclass(frozen=True, slots=True)
class FitResult:
    """What training came to.

    Attributes:
        steps: optimizer steps taken.
        exported_step: the step whose parameters the model now has: of the best validation, or the last.
        best_loss: mean of -log P(word) over the validation targets at that step, in nats, or None.
        seconds: of this process; an interrupted run's earlier part is not counted.
    """

    steps: int
    exported_step: int
    best_loss: float | None
    seconds: float


def count_steps(sections: Sections, config: TrainingConfig) -> int:
    """Optimizer steps of a whole run: `max_steps`, or `epochs` times the batches of epoch 0."""
    if config.max_steps is not None:
        return config.max_steps
    first = sum(1 for _ in epoch_order(sections, config.max_tokens, config.seed, 0))
    return first * (config.epochs or 0)


def fit(task: Task, sections: Sections, config: TrainingConfig, output: Path, run: str) -> FitResult:
    """Train `task.model`, continuing from the newest checkpoint in `output` if there is one.

    `run` identifies data and settings; checkpoints of another run are refused. Interrupted and repeated, training
    takes the same steps as if it had never stopped (bitwise on a CPU with the same number of threads).

    Raises:
        UsageError: this is one of several processes.
        TrainingError: the loss stays non-finite, or a checkpoint is foreign or damaged.
        StoppedError: a signal asked to stop; a checkpoint was saved.
        OutputError: a checkpoint could not be written.
    """
    if this_process().count > 1:
        raise UsageError("Training runs in one process so far; start it without torchrun (unset WORLD_SIZE).")
    start = time.monotonic()
    with stop_on_signals() as stop:
        loop = _Loop(task, sections, config, output, run, stop)
        position = loop.run_all()
    if position.best_step is not None:
        checkpoint.load_parameters(output / checkpoint.FOLDER, position.best_step, task.model)
    exported = position.step if position.best_step is None else position.best_step
    return FitResult(position.step, exported, position.best_loss, time.monotonic() - start)


class _Loop:
    """The state of one process's training."""

    def __init__(
        self, task: Task, sections: Sections, config: TrainingConfig, output: Path, run: str, stop: StopRequest
    ) -> None:
        self.task, self.sections, self.config, self.run, self.stop = task, sections, config, run, stop
        self.device = resolve_device(config.device)
        self.model = task.model.to(self.device)
        self.optimizer = make_optimizer(self.model, config)
        self.checkpoints = output / checkpoint.FOLDER
        self.total = count_steps(sections, config)
        self.position = checkpoint.restore(self.checkpoints, run, self.model, self.optimizer) or Position()
        self.metrics = Metrics(output / METRICS_FILE, self.position)
        self.bad_steps = 0
        self.saved_at = time.monotonic()
        if self.position.step:
            log.info("Continuing after step %s of %s.", f"{self.position.step:,}", f"{self.total:,}")

    def run_all(self) -> Position:
        """Take the remaining steps."""
        with Progress("training", self.total, "steps", self.position.step) as progress:
            while self.position.step < self.total:
                before = self.position.step
                for selection in self._epoch():
                    self._step(selection)
                    progress.advance(1, self.metrics.note)
                    if self.position.step == self.total:
                        break
                if self.position.step == before and not self.position.consumed:
                    raise TrainingError("The training text has no usable pair.")
                self._end_epoch()
        self._validate()
        self._save()
        return self.position

    def _epoch(self) -> Iterator[Selection]:
        position, config = self.position, self.config
        return epoch_order(self.sections, config.max_tokens, config.seed, position.epoch, position.consumed)

    def _step(self, selection: Selection) -> None:
        self.model.train()
        step = self.position.step + 1
        rate = learning_rate(self.config, step, self.task.width, self.total)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        sums, norm = gradients(self.task, selection, step, self.device, self.config)
        finite = bool(torch.isfinite(norm) & torch.isfinite(sums.total))
        self._apply(finite, step)
        self.optimizer.zero_grad(set_to_none=True)
        self.position = replace(self.position, step=step, consumed=selection.index + 1)
        self.metrics.add(step, sums if finite else None, rate, float(norm))
        self._after_step(step)

    def _apply(self, finite: bool, step: int) -> None:
        if finite:
            self.optimizer.step()
            self.bad_steps = 0
            return
        self.bad_steps += 1
        log.warning("Step %s was skipped: its loss or gradient is not finite.", step)
        if self.bad_steps == _BAD_STEPS_MAX:
            raise TrainingError(
                f"Loss or gradient were not finite in {_BAD_STEPS_MAX} steps in a row, up to step {step}. Lower "
                "--learning-rate, lengthen --warmup, or use --precision float32."
            )

    def _after_step(self, step: int) -> None:
        every = self.config.valid_every
        if every is not None and step % every == 0:
            self._validate()
        elif time.monotonic() - self.saved_at >= self.config.save_seconds:
            self._save()
        if self.stop.number is not None:
            self._save()
            self.stop.check()

    def _end_epoch(self) -> None:
        self.position = replace(self.position, epoch=self.position.epoch + 1, consumed=0)
        if self.config.valid_every is None:
            self._validate()

    @torch.no_grad()
    def _validate(self) -> None:
        if self.position.validated == self.position.step:
            return
        self.model.eval()
        with autocast(self.device, resolve_precision(self.config.precision, self.device)):
            losses = self.task.valid_losses(self.device)
            means = None if losses is None else mean_parts(losses)
        if means is None:
            return
        self.metrics.write({"step": self.position.step, **{f"valid_{name}": value for name, value in means.items()}})
        self.position = replace(self.position, validated=self.position.step)
        best = self.position.best_loss
        if means["nll"] < (math.inf if best is None else best):
            self.position = replace(self.position, best_step=self.position.step, best_loss=means["nll"])
        log.info(
            "step %s: validation loss %.4f, accuracy %.1f %%%s",
            f"{self.position.step:,}",
            means["nll"],
            100 * means["correct"],
            " (best)" if self.position.best_step == self.position.step else "",
        )
        self._save()

    def _save(self) -> None:
        self.position = replace(self.position, unlogged=self.metrics.unlogged())
        checkpoint.save(self.checkpoints, self.position, self.run, self.model, self.optimizer)
        self.saved_at = time.monotonic()


def gradients(
    task: Task, selection: Selection, step: int, device: torch.device, config: TrainingConfig
) -> tuple[LossSums, torch.Tensor]:
    """Forward and backward pass over one step's pairs: leaves clipped gradients of the mean over target positions.

    Returns:
        The loss, and the gradient's norm before clipping.
    """
    with autocast(device, resolve_precision(config.precision, device)):
        sums = task.loss(selection, step, device)
    (sums.total / sums.n_tokens).backward()  # type: ignore[no-untyped-call]
    return sums, torch.nn.utils.clip_grad_norm_(task.model.parameters(), config.clip)


def mean_parts(losses: Iterator[LossSums]) -> dict[str, float]:
    """Means over all target positions of the named parts."""
    sums: dict[str, float] = {}
    n_tokens = 0
    for loss in losses:
        n_tokens += loss.n_tokens
        for name, value in loss.parts.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    return {name: value / max(1, n_tokens) for name, value in sums.items()}


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); the schedule sets its learning rate before each step."""
    # Biases and normalisation weights are vectors; decay is for matrices.
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, config.beta2), eps=1e-9, fused=True)
