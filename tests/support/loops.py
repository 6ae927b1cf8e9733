"""Small training runs, and what can happen to them."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from models import parameters, steps
from torch import nn

from kdcache.cache.reader import open_cache
from kdcache.errors import StoppedError
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.losses.projection import LossSums
from kdcache.student.cached_labels import CacheSections
from kdcache.student.student_config import POSITIONS, StudentConfig
from kdcache.student.train_student import StudentTask, make_task
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import concatenate
from kdcache.training.batches import Selection
from kdcache.training.group import Group
from kdcache.training.loader import Task
from kdcache.training.loop import FitResult, fit

RUN = "run"
EPOCHS = 2


class CrashError(Exception):
    """Something that nobody expected."""


@dataclass
class Disturbed:
    """A task to which something happens: `before[n]` is called before its n-th loss, `spoiled` losses are infinite.

    `before_collate[n]` is called before the n-th step's batches are made, `before_valid` before each batch of
    validation. `seen` are the selections whose losses were computed,
    `read` all that the loader made ready.
    """

    task: Task[Any]
    before: dict[int, Callable[[], None]] = field(default_factory=dict)
    spoiled: frozenset[int] = frozenset()
    before_collate: dict[int, Callable[[], None]] = field(default_factory=dict)
    before_valid: Callable[[], None] = lambda: None
    calls: int = 0
    seen: list[Selection] = field(default_factory=list)
    read: list[Selection] = field(default_factory=list)

    @property
    def model(self) -> nn.Module:
        return self.task.model

    @property
    def width(self) -> int:
        return self.task.width

    @property
    def valid(self) -> Sequence[Any] | None:
        return self.task.valid

    def collate(self, selection: Selection, bounds: Sequence[tuple[int, int]]) -> list[Any]:
        self.read.append(selection)
        self.before_collate.get(len(self.read), lambda: None)()
        parts = [replace(selection, rows=selection.rows[start:stop]) for start, stop in bounds]
        return list(zip(parts, self.task.collate(selection, bounds), strict=True))

    def move(self, batch: Any, device: torch.device) -> Any:
        if not isinstance(batch, tuple):
            return self.task.move(batch, device)
        return batch[0], self.task.move(batch[1], device)

    def loss(self, batch: Any, step: int) -> LossSums:
        self.calls += 1
        self.seen.append(batch[0])
        self.before.get(self.calls, lambda: None)()
        sums = self.task.loss(batch[1], step)
        return replace(sums, total=sums.total * float("inf")) if self.calls in self.spoiled else sums

    def valid_loss(self, batch: Any) -> LossSums:
        self.before_valid()
        return self.task.valid_loss(batch)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise CrashError


@dataclass
class Trainer:
    """A student on the small cache, dropout on, made afresh for every process that is imitated."""

    config: StudentConfig
    group: Group = field(default_factory=Group)

    @classmethod
    def on(cls, cache: Path, valid: TextFiles, size: str, group: Group) -> Trainer:
        """Two epochs of a small student with dropout and validation, to be run as often as a test likes."""
        training = steps(1, max_tokens=1_100, max_steps=None, epochs=EPOCHS, valid_every=4)
        objective = ObjectiveConfig(temperature=2.0, name="chen2020")
        return cls(StudentConfig(str(cache), objective, training, valid, size=size, dropout=0.3), group)

    def task(self) -> StudentTask:
        reader, valid = open_cache(self.config.cache, self.config.store), None
        if self.config.valid is not None:
            parts = encode_sections(Corpus(self.config.valid), reader.tokenizer(), POSITIONS, skip_bad=False)
            valid = concatenate(list(parts))
        return make_task(self.config, reader, valid)

    @property
    def sections(self) -> CacheSections:
        return CacheSections(open_cache(self.config.cache, self.config.store), soft=True)

    def run(
        self, output: Path, before: dict[int, Callable[[], None]] | None = None, **changes: object
    ) -> tuple[FitResult, dict[str, torch.Tensor]]:
        task = Disturbed(self.task(), before or {})
        return self.train(task, output, **changes), parameters(task.model)

    def train(self, task: Disturbed, output: Path, **changes: object) -> FitResult:
        output.mkdir(exist_ok=True)
        return fit(task, self.sections, replace(self.config.training, **changes), output, RUN, self.group)

    def interrupted(self, output: Path, *moments: int) -> tuple[FitResult, dict[str, torch.Tensor]]:
        """Ask to stop before the n-th loss of each process in turn, then let it finish."""
        for moment in moments:
            with pytest.raises(StoppedError):
                self.run(output, {moment: terminate})
        return self.run(output)


def metrics(output: Path) -> list[dict[str, float]]:
    """The lines of the record without what was measured with a clock, which no two runs share."""
    lines = all_metrics(output)
    assert all(("loader_wait" in line) == ("loss" in line) for line in lines)
    assert all(0 <= line.pop("loader_wait", 0) <= 1 for line in lines)
    return lines


def all_metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
