"""One optimizer step: forward and backward passes, one sum over all processes, one update. The host waits for nothing.

All gradients are views of one flat buffer. The sums of the loss and the flags follow them in it, so that one all-reduce
brings all processes everything. A step whose loss or gradient is not finite is skipped by the device itself.
"""

import signal
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.compute.device import autocast, resolve_precision
from kdcache.training.group import Group
from kdcache.training.loader import B, MicroBatches, Task
from kdcache.training.training_config import TrainingConfig

# What follows the gradients: target positions, loss, two signals, whether to save, then the named parts of the loss.
_TAIL = 16
_ALIGNMENT = 16
_N_TOKENS, _LOSS, _SIGINT, _SIGTERM, _SAVE, _PARTS = range(6)

# The most steps for which the learning rate rises where --warmup is not given.
WARMUP_MOST = 4_000


@dataclass(frozen=True, slots=True)
class StepRequests:
    """A process's requests to all processes: the signal that it got, and whether a checkpoint is due."""

    signal: int | None = None
    save: bool = False


GetRequests = Callable[[], StepRequests]


@dataclass(frozen=True, slots=True)
class Report:
    """The results of a step, as tensors on the device.

    Attributes:
        step: its number, from 1.
        names: the names of `sums`, "n_tokens" and "loss" first.
        sums: sums over all processes, [names]; zeros if the step was skipped.
        norm: norm of the gradient of the mean loss before clipping, a scalar.
    """

    step: int
    names: tuple[str, ...]
    sums: Tensor
    norm: Tensor
    _flags: Tensor
    _ready: torch.cuda.Event | None

    def outcome(self) -> tuple[bool, StepRequests]:
        """Whether loss or gradient was not finite, so that the step changed nothing; and what any process requested.

        Both are the same in all processes. On a GPU this waits for the step to end.
        """
        if self._ready is not None:
            self._ready.synchronize()
        sigint, sigterm, save, skipped = self._flags.tolist()
        number = signal.SIGTERM if sigterm > 0 else signal.SIGINT if sigint > 0 else None
        return skipped > 0, StepRequests(None if number is None else int(number), save > 0)


class Stepper:
    """Takes the optimizer steps of one process of a group.

    Attributes:
        gradients: the gradients of all parameters, flat, a view of the buffer that is summed.
    """

    def __init__(self, model: nn.Module, config: TrainingConfig, device: torch.device, group: Group) -> None:
        self._config, self._device, self._group = config, device, group
        self._precision = resolve_precision(config.precision, device)
        self.optimizer = make_optimizer(model, config)
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        size = sum(_aligned(parameter.numel()) for parameter in parameters)
        self._buffer = torch.zeros(size + _TAIL, dtype=parameters[0].dtype, device=device)
        self.gradients, self._tail = self._buffer[:size], self._buffer[size:]
        start = 0
        for parameter in parameters:
            # Backward passes add to a gradient that is there, so they fill the buffer.
            parameter.grad = self.gradients[start : start + parameter.numel()].view_as(parameter)
            start += _aligned(parameter.numel())
        self._names: tuple[str, ...] = ("n_tokens", "loss")

    def take(
        self, task: Task[B], micro_batches: MicroBatches[B], step: int, rate: float, requests: GetRequests
    ) -> Report:
        """Step `step` (from 1) with learning rate `rate`; returns before a GPU has done it.

        `requests` is called as late as possible, just before the sum over all processes.

        Raises:
            TrainingError: another process is gone.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        norm = self.compute(task, micro_batches, step, requests)
        skipped = ~(torch.isfinite(norm) & torch.isfinite(self._tail[_LOSS]))
        # PyTorch's gradient scaler sets this flag: where it is 1, the fused update leaves parameters and moments alone.
        self.optimizer.found_inf = skipped.float()  # type: ignore[attr-defined]
        self.optimizer.step()
        return self._report(step, norm, skipped)

    def compute(self, task: Task[B], micro_batches: MicroBatches[B], step: int, requests: GetRequests) -> Tensor:
        """Leave clipped gradients of the mean over the target positions of all processes; return their norm before."""
        self._buffer.zero_()
        for number, batch in micro_batches:
            seed_streams(self._config.seed, step, number)
            with autocast(self._device, self._precision):
                sums = task.loss(batch, step)
            sums.total.backward()  # type: ignore[no-untyped-call]
            parts = torch.stack([part.to(self._tail) for part in sums.parts.values()])
            self._tail[_N_TOKENS] += sums.n_tokens
            self._tail[_LOSS] += sums.total.detach()
            self._tail[_PARTS : _PARTS + len(parts)] += parts
            self._names = ("n_tokens", "loss", *sums.parts)
        asked = requests()
        for slot, requested in (
            (_SIGINT, asked.signal == signal.SIGINT),
            (_SIGTERM, asked.signal == signal.SIGTERM),
            (_SAVE, asked.save),
        ):
            # Assigning a number to an item would copy it to a GPU from ordinary memory, and the host would wait.
            self._tail[slot].fill_(float(requested))
        self._group.add_up(self._buffer)
        n_tokens = self._tail[_N_TOKENS]
        norm: Tensor = torch.linalg.vector_norm(self.gradients) / n_tokens
        self.gradients.mul_(torch.clamp(self._config.clip / (norm + 1e-6), max=1.0) / n_tokens)
        return norm

    def _report(self, step: int, norm: Tensor, skipped: Tensor) -> Report:
        n_parts = len(self._names) - 2
        sums = torch.cat([self._tail[:_SIGINT], self._tail[_PARTS : _PARTS + n_parts]])
        sums = torch.where(skipped, torch.zeros_like(sums), sums)
        flags = torch.cat([self._tail[_SIGINT:_PARTS], skipped[None].to(self._tail)])
        ready = None
        if self._device.type == "cuda":
            flags = torch.empty(flags.shape, dtype=flags.dtype, pin_memory=True).copy_(flags, non_blocking=True)
            ready = torch.cuda.Event()  # type: ignore[no-untyped-call]
            ready.record()
        return Report(step, self._names, sums, norm, flags, ready)


def _aligned(size: int) -> int:
    # Kernels read several numbers at once where a tensor begins at a multiple of 16 bytes.
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def seed_streams(seed: int, step: int, number: int) -> None:
    """Seed the random streams for micro-batch `number` of optimizer step `step`; dropout is a function of the three.

    So no state of a generator needs to be saved, and processes with the same micro-batches draw what one draws.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, step, number)).generate_state(1, np.uint64)[0]))


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019); the schedule sets its learning rate before each step."""
    # Biases and normalisation weights are vectors; decay is for matrices.
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, config.beta2), eps=1e-9, fused=True)


def learning_rate(config: TrainingConfig, step: int, width: int, total: int) -> float:
    """The learning rate of optimizer step `step` (from 1) of `total`; `width` is the model's.

    "noam" is rate · width^-0.5 · min(step^-0.5, step · warmup^-1.5) (Vaswani et al. 2017, equation 3). "linear" goes
    from 0 up to the rate at step `warmup`, then down to 0 after step `total`.
    """
    rate = config.learning_rate
    warmup = min(WARMUP_MOST, total // 10) if config.warmup is None else config.warmup
    if config.schedule == "noam":
        return float(rate * width**-0.5 * min(step**-0.5, step * max(1, warmup) ** -1.5))
    if step <= warmup:
        return rate * step / warmup
    return rate * max(0, total - step + 1) / max(1, total - warmup)
