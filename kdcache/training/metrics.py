"""The record of a training run: one JSON object a line, and events for TensorBoard where that is installed."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

from torch import Tensor

from kdcache.files import replace_file
from kdcache.losses.sums import LossSums

# The loop takes the name from here.
from kdcache.runs import METRICS_FILE as METRICS_FILE
from kdcache.training.checkpoint import Position, Tally
from kdcache.training.tensorboard import Events

_LOG_EVERY = 20


class Metrics:
    """The JSON-lines record of a run, continued at `position`, and the note beside its progress bar."""

    def __init__(self, path: Path, position: Position) -> None:
        self._path = path
        self.note = ""
        self._steps: list[LossSums] = []
        self._sums = {tally.name: tally.value for tally in position.unlogged}
        self._since = time.monotonic()
        self._n_tokens = 0
        if path.exists():
            lines = [line for line in path.read_text().splitlines() if _happened(line, position)]
            replace_file(path, "".join(f"{line}\n" for line in lines).encode())
        self._events = Events(path.parent, position.step, position.validated)

    def add(self, step: int, sums: LossSums | None, rate: float, norm: float) -> None:
        """Count one step, None if it was skipped; now and then write the means of those since the last line."""
        if sums is not None:
            self._steps.append(LossSums(sums.total.detach(), sums.parts, sums.n_tokens))
            self._n_tokens += sums.n_tokens
        if step % _LOG_EVERY and step > 1:
            return
        self._add_up()
        if self._sums:
            n_tokens = self._sums.pop("n_tokens")
            means = {name: value / n_tokens for name, value in self._sums.items()}
            speed = self._n_tokens / (time.monotonic() - self._since)
            self.note = f"loss {means['loss']:.3f}, {speed:,.0f} targets/s"
            self.write({"step": step, **means, "learning_rate": rate, "gradient_norm": norm})
        self._sums, self._n_tokens, self._since = {}, 0, time.monotonic()

    def unlogged(self) -> tuple[Tally, ...]:
        """Sums over the steps since the last line."""
        self._add_up()
        return tuple(Tally(name, value) for name, value in self._sums.items())

    def _add_up(self) -> None:
        for one in self._steps:
            for name, value in _sums_of(one).items():
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
        self._steps = []

    def write(self, values: dict[str, float]) -> None:
        """Append one line; JSON knows no infinity, so what is not finite becomes null."""
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(known) + "\n")
        self._events.write(known)


def _sums_of(one: LossSums) -> dict[str, Tensor | int]:
    return {"n_tokens": one.n_tokens, "loss": one.total, **one.parts}


def _happened(line: str, position: Position) -> bool:
    """Whether a line was written before the checkpoint at `position`; a torn last line was not."""
    try:
        values = json.loads(line)
        return bool(values["step"] <= (position.validated if "valid_nll" in values else position.step))
    except (ValueError, KeyError, TypeError):
        return False
