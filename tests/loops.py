"""Small training runs, and what can happen to them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from models import parameters
from torch import nn

from kdcache.batches import Selection
from kdcache.cache.reader import CacheReader
from kdcache.corpus import Corpus
from kdcache.errors import StoppedError
from kdcache.losses.sums import LossSums
from kdcache.student.config import StudentConfig
from kdcache.student.train import CacheSections, StudentTask, make_task
from kdcache.training.loop import FitResult, Task, fit

RUN = "run"
EPOCHS = 2


class CrashError(Exception):
    """Something that nobody expected."""


@dataclass
class Disturbed:
    """A task to which something happens: `before[n]` is called before its n-th loss, `spoiled` losses are infinite."""

    task: Task
    before: dict[int, Callable[[], None]] = field(default_factory=dict)
    spoiled: frozenset[int] = frozenset()
    calls: int = 0

    @property
    def model(self) -> nn.Module:
        return self.task.model

    @property
    def width(self) -> int:
        return self.task.width

    def loss(self, selection: Selection, step: int, device: torch.device) -> LossSums:
        self.calls += 1
        self.before.get(self.calls, lambda: None)()
        sums = self.task.loss(selection, step, device)
        return replace(sums, total=sums.total * float("inf")) if self.calls in self.spoiled else sums

    def valid_losses(self, device: torch.device) -> Iterator[LossSums] | None:
        return self.task.valid_losses(device)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise CrashError


@dataclass
class Trainer:
    """A student on the small cache, dropout on, made afresh for every process that is imitated."""

    config: StudentConfig

    def task(self) -> StudentTask:
        valid = None if self.config.valid is None else Corpus(self.config.valid)
        return make_task(self.config, CacheReader(Path(self.config.cache)), valid)

    @property
    def sections(self) -> CacheSections:
        return CacheSections(CacheReader(Path(self.config.cache)), soft=True)

    def run(
        self, output: Path, before: dict[int, Callable[[], None]] | None = None, **changes: object
    ) -> tuple[FitResult, dict[str, torch.Tensor]]:
        output.mkdir(exist_ok=True)
        task = Disturbed(self.task(), before or {})
        result = fit(task, self.sections, replace(self.config.training, **changes), output, RUN)
        return result, parameters(task.model)

    def interrupted(self, output: Path, *moments: int) -> tuple[FitResult, dict[str, torch.Tensor]]:
        """Ask to stop before the n-th loss of each process in turn, then let it finish."""
        for moment in moments:
            with pytest.raises(StoppedError):
                self.run(output, {moment: terminate})
        return self.run(output)


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
