"""Run a training program in this process and note when each optimizer step ended and how many targets it had.

`python peers_probe.py TOOL REPORT CORES ARGUMENT…`; it runs in the toolkit's own environment, where kdcache is not.
Targets are target positions that are no padding, the end token included. For kdcache they are left out: the order of
its batches says them.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


class Record:
    """Ends of the optimizer steps in seconds, and the targets of each."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.targets: list[int] = []
        self._pending = 0

    def count(self, targets: int) -> None:
        """Add targets to the step in progress."""
        self._pending += targets

    def end(self, *_arguments: object) -> None:
        """Note the end of a step."""
        self.ends.append(time.perf_counter())
        self.targets.append(self._pending)
        self._pending = 0


def _wrap(owner: Any, name: str, look: Callable[..., None]) -> None:
    """Let `look` see the arguments of a method before it runs."""
    inner = getattr(owner, name)

    def outer(*arguments: Any, **named: Any) -> Any:
        look(*arguments, **named)
        return inner(*arguments, **named)

    setattr(owner, name, outer)


def _joeynmt(record: Record) -> Callable[[], object]:
    training = importlib.import_module("joeynmt.training")
    _wrap(training.TrainManager, "_train_step", lambda _self, batch: record.count(batch.ntokens))
    return importlib.import_module("joeynmt.__main__").main  # type: ignore[no-any-return]


def _eole(record: Record) -> Callable[[], object]:
    trainer = importlib.import_module("eole.trainer")

    def look(self: Any, batches: list[Any], *_rest: object, **_named: object) -> None:
        for batch in batches:
            record.count(int(batch["tgt"][:, 1:].ne(self.train_loss.padding_idx).sum()))

    _wrap(trainer.Trainer, "_process_accumulated_batches", look)
    return importlib.import_module("eole.bin.main").main  # type: ignore[no-any-return]


def _trainer(record: Record) -> Callable[[], object]:
    library = importlib.import_module("transformers")

    def look(_self: Any, _model: Any, inputs: Any, *_rest: object, **_named: object) -> None:
        record.count(int((inputs["labels"] >= 0).sum()))

    _wrap(library.Trainer, "training_step", look)
    return importlib.import_module("peers_trainer").main  # type: ignore[no-any-return]


def _kdcache(_record: Record) -> Callable[[], object]:
    return importlib.import_module("kdcache.cli").main  # type: ignore[no-any-return]


TOOLS = {"joeynmt": _joeynmt, "eole": _eole, "trainer": _trainer, "kdcache": _kdcache}


def main(tool: str, report: Path, cores: int, arguments: list[str]) -> None:
    """Run the tool on the first `cores` cores and write the report, also if it exits by itself."""
    # Before torch looks at the machine; helper threads and processes of a toolkit share these cores.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])
    record = Record()
    run = TOOLS[tool](record)
    optimizer = importlib.import_module("torch.optim.optimizer")
    optimizer.register_optimizer_step_post_hook(record.end)
    sys.argv = [tool, *arguments]
    try:
        run()
    finally:
        report.write_text(json.dumps({"ends": record.ends, "targets": record.targets}), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
