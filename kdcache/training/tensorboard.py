"""The metrics once more, as events for TensorBoard, where that is installed.

::

    OUTPUT/tensorboard/training/events.out.tfevents.…
    OUTPUT/tensorboard/validation/events.out.tfevents.…

Two folders, so that TensorBoard draws both curves of a metric into one chart.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcache.runs import log

FOLDER = "tensorboard"
_VALIDATION = "valid_"


class Events:
    """Events under `output`, going on after training step `step` and after the validation of step `validated`.

    TensorBoard shows no event of an earlier process that is beyond those steps. They differ because a process can
    die after a step was saved and before its validation was.
    """

    def __init__(self, output: Path, step: int, validated: int) -> None:
        self._folder = output / FOLDER
        self._first = {"training": step + 1, "validation": validated + 1}
        self._writers: dict[str, Any] = {}
        self._on = importlib.util.find_spec("tensorboard") is not None

    def write(self, values: Mapping[str, float | None]) -> None:
        """Add the values of one line of the metrics, less those that are None; nothing where TensorBoard is absent."""
        if not self._on:
            return
        try:
            self._add(values)
        except (ImportError, OSError) as error:
            # A picture is not worth a training run, and metrics.jsonl has the same values.
            self._on = False
            log.warning("%s: no more events for TensorBoard: %s", self._folder, error)

    def _add(self, values: Mapping[str, float | None]) -> None:
        kind = "validation" if any(name.startswith(_VALIDATION) for name in values) else "training"
        writer = self._writers.get(kind) or self._open(kind)
        for name, value in values.items():
            if name != "step" and value is not None:
                writer.add_scalar(name.removeprefix(_VALIDATION), value, values["step"])
        # A killed process loses what waits in memory, and its checkpoint would go on after it.
        writer.flush()

    def _open(self, kind: str) -> Any:
        # Imported late: most processes that import the training loop write no events.
        from torch.utils.tensorboard import SummaryWriter

        writer: Any = SummaryWriter(str(self._folder / kind), purge_step=self._first[kind])
        self._writers[kind] = writer
        return writer

    def close(self) -> None:
        """End the threads of the writers and close their files."""
        for writer in self._writers.values():
            # What ends with a full disk has been warned of, or was flushed line by line.
            with suppress(OSError):
                writer.close()
