"""Optimizer steps: a student's with soft labels against the same without, its wait for batches, and a teacher's."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from benchmarks.memory import peak_mib
from benchmarks.report import alternate, ratio, seconds, spread
from benchmarks.synthetic import label_text, text_tokenizer
from kdcache.cache.reader import CacheReader
from kdcache.compute.device import resolve_device
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.cached_labels import CacheSections
from kdcache.student.student_config import SIZES, StudentConfig
from kdcache.student.train_student import StudentTask, make_task, train_student
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encode_corpus import encode_sections
from kdcache.training.batches import Sections, Selection, TextSections, epoch_order
from kdcache.training.group import Group
from kdcache.training.loader import Task
from kdcache.training.step import Stepper, StepRequests
from kdcache.training.training_config import TrainingConfig

TOKENS = 4_096
ALPHAS = {"soft": 0.5, "hard": 1.0}
_STEPS = 3
_TRAINED = 60


class Trainer:
    """Steps of one student on the first batches of a cache."""

    def __init__(self, cache: Path, size: str, alpha: float, tokens: int = TOKENS, precision: str = "auto") -> None:
        training = _training(SIZES[size].learning_rate, tokens, precision)
        config = StudentConfig(str(cache), ObjectiveConfig(alpha=alpha, name="chen2020"), training, size=size)
        reader = CacheReader(cache)
        self._start(make_task(config, reader), CacheSections(reader, soft=alpha < 1), training)

    def _start(self, task: StudentTask | TeacherTask, sections: Sections, training: TrainingConfig) -> None:
        self.task, self.device, self._number = task, resolve_device("auto"), 0
        model = task.model.to(self.device).train()
        self._stepper = Stepper(model, training, self.device, Group())
        self.selections = list(islice(epoch_order(sections, training.max_tokens, 1, 0), _STEPS))

    def steps(self) -> None:
        """All selections once, collation included."""
        for selection in self.selections:
            self.step(selection)

    def step(self, selection: Selection) -> None:
        """One optimizer step."""
        self._number += 1
        task: Task[Any] = self.task
        (batch,) = task.collate(selection, [(0, len(selection.rows))])
        micros = [(0, task.move(batch, self.device))]
        self._stepper.take(task, micros, self._number, 1e-4, StepRequests).outcome()


class TeacherTrainer(Trainer):
    """The same of a teacher on the first batches of a text."""

    def __init__(self, folder: Path, text: TextFiles, precision: str) -> None:
        teacher = Teacher.load(folder)
        parts = encode_sections(Corpus(text), teacher.tokenizer, teacher.positions, skip_bad=True)
        training = _training(1e-4, TOKENS, precision)
        self._start(TeacherTask(teacher, 1, None), TextSections(list(parts)), training)


def _training(rate: float, tokens: int, precision: str) -> TrainingConfig:
    return TrainingConfig(rate, "linear", tokens, max_steps=1_000, precision=precision)


def measure(folder: Path, text: TextFiles, rounds: int) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Rows and figures for tiny and small students."""
    cache = make_cache(folder, text)
    rows, figures = [], {}
    for size in ("tiny", "small"):
        trainers = {arm: Trainer(cache, size, alpha) for arm, alpha in ALPHAS.items()}
        arms: dict[str, Callable[[], float]] = {
            arm: lambda one=one: seconds(one.steps)  # type: ignore[misc]
            for arm, one in trainers.items()
        }
        times = alternate(arms, rounds)
        del trainers, arms
        peaks = {arm: _peak_alone(cache, size, arm) for arm in ALPHAS}
        rows += [(f"{size}, {arm}: s for {_STEPS} steps", spread(times[arm])) for arm in ALPHAS]
        rows += [(f"{size}, {arm}: MiB, model and optimizer included", f"{peaks[arm]:,.1f}") for arm in ALPHAS]
        suffix = "" if size == "tiny" else f"_{size}"
        figures[f"soft_over_hard_time{suffix}"] = ratio(times["soft"], times["hard"])
        figures[f"soft_over_hard_memory{suffix}"] = peaks["soft"] / peaks["hard"]
    return rows, figures


def make_cache(folder: Path, text: TextFiles) -> Path:
    """A cache of real text whose distributions are made up: their values cost nothing here."""
    cache = folder / "cache"
    if not cache.exists():
        label_text(cache, text, text_tokenizer(text))
    return cache


def _peak_alone(cache: Path, size: str, arm: str) -> float:
    command = [sys.executable, "-m", "benchmarks.student_step", str(cache), size, arm]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def loader_share(folder: Path, text: TextFiles) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """The share of its time that a real run of the smallest student waits for batches, after its first lines."""
    training = TrainingConfig(SIZES["tiny"].learning_rate, "linear", TOKENS, max_steps=_TRAINED)
    config = StudentConfig(str(make_cache(folder, text)), ObjectiveConfig(name="chen2020"), training)
    train_student(config, folder / "student")
    lines = [json.loads(line) for line in (folder / "student" / "metrics.jsonl").read_text().splitlines()]
    shares = [line["loader_wait"] for line in lines if "loader_wait" in line][1:]
    return [("tiny: share of time waiting for batches", spread(shares, 5))], {
        "loader_wait_share": statistics.median(shares)
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(peak_mib(lambda: Trainer(Path(sys.argv[1]), sys.argv[2], ALPHAS[sys.argv[3]]).steps()))
