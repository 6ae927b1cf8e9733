"""What several processes train together: a program for torchrun, which tells a test in files what it saw."""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from loops import Disturbed, Trainer, terminate
from models import NANO, parameters

from kdcache.cache.reader import CacheReader
from kdcache.errors import KDCacheError
from kdcache.files.atomic import sha256
from kdcache.student.student_config import SIZES
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.text.corpus import TextFiles
from kdcache.training.batches import TextSections
from kdcache.training.checkpoint import Position
from kdcache.training.group import training_group
from kdcache.training.loader import step_batches
from kdcache.training.step import Stepper, StepRequests

CPU = torch.device("cpu")


def digest(model: torch.nn.Module) -> str:
    return sha256(b"".join(tensor.numpy().tobytes() for tensor in parameters(model).values()))


def gradients(trainer: Trainer, teacher: Path) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Gradients and their norms in float64 without dropout: of student and teacher, whole, small and lone batches."""
    student = replace(trainer, config=replace(trainer.config, dropout=0.0)).task()
    reader = CacheReader(Path(trainer.config.cache))
    texts = TextSections([reader.shard(i).pairs for i in range(reader.plan.n_shards)])
    found = []
    for task, sections in ((student, trainer.sections), (TeacherTask(Teacher.load(teacher), 1, None), texts)):
        task.model.double().eval()
        # The last: a pair for each step, so that all processes but one have none.
        for tokens, micro in ((1_100, None), (1_100, 150), (1, None)):
            config = replace(trainer.config.training, max_tokens=tokens, micro_tokens=micro)
            stepper = Stepper(task.model, config, CPU, trainer.group)
            stream = step_batches(task, sections, config, Position(), trainer.group, CPU)
            for step, batches in enumerate(islice(stream, 3), 1):
                norm = stepper.compute(task, batches.micro_batches, step, StepRequests)
                found.append((stepper.gradients.clone(), norm))
    return found


def attempt(trainer: Trainer, task: Disturbed, output: Path, **changes: object) -> dict[str, object]:
    """Train, and say how it ended, with which parameters, after how many losses and on which pairs of each step."""
    ended = "finished"
    try:
        trainer.train(task, output, **changes)
    except KDCacheError as error:
        ended = f"{type(error).__name__}: {error}"
    seen = [(one.epoch, one.index, int(one.window.pairs.source_ids[:9].sum()), one.rows.tolist()) for one in task.seen]
    finite = all(bool(tensor.isfinite().all()) for tensor in parameters(task.model).values())
    return {"ended": ended, "parameters": digest(task.model), "finite": finite, "calls": task.calls, "seen": seen}


def first_half(trainer: Trainer, output: Path, teacher: Path) -> dict[str, object]:
    """Everything that one start of two processes can show."""
    last = trainer.group.process.rank == trainer.group.count - 1
    found: dict[str, object] = {}
    torch.save(gradients(trainer, teacher), output / f"gradients-{trainer.group.process.rank}.pt")

    def run(name: str, prepare: Callable[[Disturbed], None] | None = None, **changes: object) -> None:
        task = Disturbed(trainer.task())
        if prepare is not None:
            prepare(task)
        folder = output / name.split(".")[0]
        found[name] = attempt(trainer, task, folder, **changes)

    def stop_in_step(task: Disturbed, number: int) -> None:
        task.before = {number: terminate} if last else {}

    def stop_in_validation(task: Disturbed) -> None:
        once = iter([terminate])
        task.before_valid = (lambda: next(once, lambda: None)()) if last else (lambda: None)

    def spoil(task: Disturbed, first: int, stop: int) -> None:
        task.spoiled = frozenset(range(first, stop)) if last else frozenset()

    def block(task: Disturbed) -> None:
        task.before = {3: lambda: (output / "unsaved" / "checkpoints").touch()} if not last else {}

    run("whole")
    run("step.1", functools.partial(stop_in_step, number=3))
    run("step.2")
    run("validation.1", stop_in_validation)
    run("validation.2")
    run("mixed", functools.partial(stop_in_step, number=3))
    run("spoiled", functools.partial(spoil, first=3, stop=6))
    run("hopeless", functools.partial(spoil, first=2, stop=12), epochs=None, max_steps=25)
    run("unsaved", block)
    seed = 1 + trainer.group.process.rank
    other = replace(trainer, config=replace(trainer.config, training=replace(trainer.config.training, seed=seed)))
    found["different"] = attempt(other, Disturbed(other.task()), output / "different")
    return found


def second_half(trainer: Trainer, output: Path, _teacher: Path) -> dict[str, object]:
    """The rest of a run that was continued by one process in between; then one process dies."""
    found = {"mixed": attempt(trainer, Disturbed(trainer.task()), output / "mixed")}
    task = Disturbed(trainer.task())
    if trainer.group.process.rank == 1:
        task.before = {3: lambda: os.kill(os.getpid(), signal.SIGKILL)}
    # The others' pairs, since the process that has them will not tell.
    found["other"] = trainer.group.gather(found["mixed"]["seen"])[1]
    found["died"] = attempt(trainer, task, output / "died")
    return found


HALVES = {"first": first_half, "second": second_half}


def main(half: str, *arguments: str) -> None:
    cache, source, target, teacher, output = arguments
    SIZES["nano"] = NANO
    with training_group("cpu") as group:
        trainer = Trainer.on(Path(cache), TextFiles(source, target), "nano", group)
        found = HALVES[half](trainer, Path(output), Path(teacher))
        (Path(output) / f"{half}-{group.process.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
