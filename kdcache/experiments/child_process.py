"""A kdcache command as a process: what it writes goes into a file, and how far it is can be seen from outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import kdcache
from kdcache.console.progress import duration
from kdcache.files.atomic import storage_errors
from kdcache.files.run_records import METRICS_FILE

LOG_LINES = 5
_TAIL_BYTES = 8_192
_KILL_SECONDS = 10.0


class Process:
    """A kdcache command at work; it inherits the handle `held`, and stops when this process is gone."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], console: Path, held: int) -> None:
        package = str(Path(kdcache.__file__).parent.parent)
        path = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
        with storage_errors(console), console.open("wb") as file:
            # In a group of its own: Ctrl-C reaches this process alone, which then asks each run once. A second
            # request some seconds later would make a run stop without a checkpoint.
            self._process = subprocess.Popen(  # noqa: S603 (no shell; the arguments were read as options before)
                [sys.executable, "-m", "kdcache.experiments.child_command", *arguments],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                # The folder that it runs in is a user's: no module is imported from there.
                env={**os.environ, **environment, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
                pass_fds=(held,),
                process_group=0,
            )

    def code(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        code = self._process.poll()
        if code is not None and self._process.stdin is not None:
            self._process.stdin.close()
        return code

    def stop(self) -> None:
        """Ask it to stop."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def end(self) -> None:
        """Ask it to stop and wait; kill it if it takes too long."""
        self.stop()
        try:
            self._process.wait(_KILL_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.code()


def last_lines(console: Path) -> list[str]:
    """The last lines that a command has written."""
    try:
        data = console.read_bytes()[-_TAIL_BYTES:]
    except OSError:
        return []
    lines = [line.rstrip() for line in data.decode("utf-8", "replace").splitlines()]
    return [line for line in lines if line][-LOG_LINES:]


class Pace:
    """How far a training is, by its `metrics.jsonl`.

    Attributes:
        share: the part of its steps that were taken when last looked at, to begin with those of earlier runs; 0 where
            their number is unknown.
    """

    def __init__(self, folder: Path, steps: int | None) -> None:
        self._file, self._steps = folder / METRICS_FILE, steps
        self._first: tuple[int, float] | None = None
        self.share = self._share(_last_step(self._file))

    def _share(self, step: int | None) -> float:
        return step / self._steps if step and self._steps else 0.0

    def words(self) -> str:
        """The step, and the time left where the number of steps is known and two of them were seen."""
        step = _last_step(self._file)
        if step is None:
            return "starting"
        self.share = self._share(step)
        now = time.monotonic()
        if self._first is None:
            self._first = (step, now)
        text = f"step {step:,}" if self._steps is None else f"step {step:,}/{self._steps:,}"
        seen, taken = step - self._first[0], now - self._first[1]
        if self._steps is None or seen <= 0:
            return text
        return f"{text}, {duration((self._steps - step) * taken / seen)} left"


def _last_step(file: Path) -> int | None:
    """The step of the last whole line."""
    try:
        with file.open("rb") as handle:
            handle.seek(max(0, file.stat().st_size - _TAIL_BYTES))
            lines = handle.read().split(b"\n")[:-1]
    except OSError:
        return None
    try:
        step = json.loads(lines[-1])["step"] if lines else None
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
