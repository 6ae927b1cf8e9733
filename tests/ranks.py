"""What each process of a group does in the tests of training; started by torchrun.

`python -m torch.distributed.run … ranks.py SCENARIO FOLDER CACHE VALID_SOURCE VALID_TARGET` writes what it found into
`FOLDER/SCENARIO-RANK.json`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from loops import RUN, Disturbed, Trainer, metrics, terminate
from models import NANO, parameters, steps

from kdcache.batches import epoch_order
from kdcache.corpus import TextFiles
from kdcache.errors import KDCacheError
from kdcache.objective import ObjectiveConfig
from kdcache.processes import Process
from kdcache.student.config import SIZES, StudentConfig
from kdcache.training import checkpoint
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group, training_group
from kdcache.training.loader import step_batches
from kdcache.training.loop import fit
from kdcache.training.step import Stepper, Wishes

MAX_TOKENS = 1_100
CPU = torch.device("cpu")


def make_trainer(cache: str, valid: TextFiles | None, dropout: float) -> Trainer:
    SIZES["nano"] = NANO
    training = steps(1, max_tokens=MAX_TOKENS, max_steps=None, epochs=2, valid_every=4)
    return Trainer(
        StudentConfig(cache, ObjectiveConfig(temperature=2.0), training, valid, size="nano", dropout=dropout)
    )


def numbers(task: Disturbed) -> list[list[str]]:
    """The pairs whose losses this process computed, as their source ids, step by step of the whole run."""
    found = []
    for one in task.seen:
        pairs = one.window.pairs
        for row in one.rows:
            ids = pairs.source_ids[pairs.source_offsets[row] : pairs.source_offsets[row + 1]].tolist()
            found.append([one.epoch, one.index, str(ids)])
    return found


def digest(task: Disturbed) -> str:
    return str([float(value.double().sum()) for value in parameters(task.model).values()])


def first_gradients(trainer: Trainer, group: Group, micro_tokens: int | None = None) -> tuple[torch.Tensor, float]:
    """Gradients of the first step in float64, and their norm."""
    config = replace(trainer.config.training, micro_tokens=micro_tokens)
    task = trainer.task()
    task.model.double().train()
    stepper = Stepper(task.model, config, CPU, group)
    batches = next(step_batches(task, trainer.sections, config, Position(), group, CPU))
    norm = stepper.compute(task, batches.micros, 1, Wishes)
    return stepper.gradients, float(norm)


def attempt(work: Callable[[], Any]) -> str:
    try:
        return str(work().steps)
    except KDCacheError as error:
        return f"{type(error).__name__}: {error}"


def train(
    trainer: Trainer, output: Path, group: Group, disturb: Callable[[Disturbed], None], **changes: Any
) -> dict[str, Any]:
    """Train, with `disturb` done to the task of the last rank."""
    if group.leads:
        output.mkdir(exist_ok=True)
    group.gather(None)
    task = Disturbed(trainer.task())
    if group.process.rank == group.count - 1:
        disturb(task)
    config = replace(trainer.config.training, **changes)
    outcome = attempt(lambda: fit(task, trainer.sections, config, output, RUN, group))
    return {"outcome": outcome, "pairs": numbers(task), "digest": digest(task), "calls": task.calls}


def scenario_arithmetic(folder: Path, cache: str, valid: TextFiles, group: Group) -> dict[str, Any]:
    trainer = make_trainer(cache, None, 0.0)
    found: dict[str, Any] = {}
    together, norm = first_gradients(trainer, group)
    for name, micro_tokens in (("whole", None), ("micro", 150)):
        alone, alone_norm = first_gradients(trainer, Group(), micro_tokens)
        scale = float(alone.abs().max())
        found[name] = {"difference": float((together - alone).abs().max()) / scale, "norms": [norm, alone_norm]}
    # One pair a step: the second process has nothing to do.
    lonely = replace(trainer, config=replace(trainer.config, training=replace(trainer.config.training, max_tokens=1)))
    one, _ = first_gradients(lonely, group)
    other, _ = first_gradients(lonely, Group())
    found["lonely"] = {"difference": float((one - other).abs().max()), "size": float(other.abs().max())}

    # One pair in each micro-batch, so that two processes and one have the same: dropout must then fall alike.
    noisy = make_trainer(cache, valid, 0.3)
    config = {"micro_tokens": 1, "max_tokens": 1_100, "epochs": None, "max_steps": 6}
    found["two"] = train(noisy, folder / "two", group, lambda _task: None, **config)
    if group.leads:
        found["one"] = train(noisy, folder / "one", Group(), lambda _task: None, **config)
        found["losses"] = [line.get("loss", line.get("valid_nll")) for line in metrics(folder / "two")]
        found["losses_alone"] = [line.get("loss", line.get("valid_nll")) for line in metrics(folder / "one")]
    order = epoch_order(noisy.sections, MAX_TOKENS, noisy.config.training.seed, 0)
    found["rows"] = [len(one.rows) for one in order]
    return found


def scenario_faults(folder: Path, cache: str, valid: TextFiles, group: Group) -> dict[str, Any]:
    trainer = make_trainer(cache, valid, 0.3)
    found: dict[str, Any] = {}

    def spoil(*calls: int) -> Callable[[Disturbed], None]:
        return lambda task: setattr(task, "spoiled", frozenset(calls))

    many = {"epochs": None, "max_steps": 14}
    found["skip"] = train(trainer, folder / "skip", group, spoil(2, 3), **many)
    found["abort"] = train(trainer, folder / "abort", group, spoil(*range(2, 12)), **many)

    def signalled(task: Disturbed) -> None:
        task.before = {3: terminate}

    found["stopped"] = train(trainer, folder / "stopped", group, signalled)
    found["saved"] = [path.name for path in checkpoint.saved(folder / "stopped" / "checkpoints")]

    def signalled_in_validation(task: Disturbed) -> None:
        task.before_valid = terminate_once()

    found["stopped_valid"] = train(trainer, folder / "valid", group, signalled_in_validation)
    found["saved_valid"] = [path.name for path in checkpoint.saved(folder / "valid" / "checkpoints")]

    if group.leads:
        (folder / "unwritable").mkdir()
        # A file where the folder of checkpoints should be: the leader's save fails, whoever runs the test.
        (folder / "unwritable" / "checkpoints").write_text("in the way")
    group.gather(None)
    found["unwritable"] = train(trainer, folder / "unwritable", group, lambda _task: None)

    other = replace(trainer.config, training=replace(trainer.config.training, seed=1 + group.process.rank))
    found["different"] = train(Trainer(other), folder / "different", group, lambda _task: None)
    return found


def terminate_once() -> Callable[[], None]:
    done: list[int] = []

    def act() -> None:
        if not done:
            done.append(1)
            os.kill(os.getpid(), signal.SIGTERM)

    return act


def scenario_resume(folder: Path, cache: str, valid: TextFiles, group: Group) -> dict[str, Any]:
    """Two epochs on 2, then 1, then 2 processes, stopped in between; and at once on one."""
    trainer = make_trainer(cache, valid, 0.3)

    def stop_at(call: int) -> Callable[[Disturbed], None]:
        return lambda task: setattr(task, "before", {call: terminate})

    found = {"first": train(trainer, folder / "run", group, stop_at(3))}
    if group.leads:
        found["second"] = train(trainer, folder / "run", Group(Process()), stop_at(5))
    group.gather(None)
    found["third"] = train(trainer, folder / "run", group, lambda _task: None)
    if group.leads:
        found["whole"] = train(trainer, folder / "whole", Group(Process()), lambda _task: None)
        found["lines"] = [[*sorted(line), line["step"]] for line in metrics(folder / "run")]
        found["lines_alone"] = [[*sorted(line), line["step"]] for line in metrics(folder / "whole")]
    return found


def main(scenario: str, folder: Path, cache: str, source: str, target: str) -> None:
    with training_group("cpu") as group:
        work = {"arithmetic": scenario_arithmetic, "faults": scenario_faults, "resume": scenario_resume}[scenario]
        found = work(folder, cache, TextFiles(source, target), group)
        (folder / f"{scenario}-{group.process.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
