"""The metrics once more, as events for TensorBoard, where that is installed.

::

    OUTPUT/tensorboard/training/events.out.tfevents.…
    OUTPUT/tensorboard/validation/events.out.tfevents.…

Two folders, so that TensorBoard draws both curves of a metric into one chart. Its own `SummaryWriter` hands events to a
thread and waits for it without a limit; here they are written at once, by whoever trains.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kdcache.files.run_records import log

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
        self._files: dict[str, Any] = {}
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
        # Imported late: most processes that import the training loop write no events.
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        kind = "validation" if any(name.startswith(_VALIDATION) for name in values) else "training"
        file = self._files.get(kind) or self._open(kind)
        scalars = [
            Summary.Value(tag=name.removeprefix(_VALIDATION), simple_value=value)
            for name, value in values.items()
            if name != "step" and value is not None
        ]
        file.write(_record(Event(step=values["step"], summary=Summary(value=scalars))))
        # A killed process loses what waits in memory, and its checkpoint would go on after it.
        file.flush()

    def _open(self, kind: str) -> Any:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = self._folder / kind
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names.
        name = f"events.out.tfevents.{time.time_ns():019}.{socket.gethostname()}.{os.getpid()}"
        file = RecordWriter((folder / name).open("xb"))
        self._files[kind] = file
        file.write(_record(Event(file_version="brain.Event:2")))
        file.write(_record(Event(step=self._first[kind], session_log=SessionLog(status=SessionLog.START))))
        return file

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            # What ends with a full disk has been warned of, or was flushed line by line.
            with suppress(OSError):
                file.close()


def _record(event: Any) -> bytes:
    event.wall_time = time.time()
    data: bytes = event.SerializeToString()
    return data
