"""The record of a training run: one JSON object a line, which experiment trackers can get too."""

import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from kdcache.files.atomic import replace_file, storage_errors
from kdcache.training.checkpoint import Position, Tally
from kdcache.training.trackers import start_reporters

_LOG_EVERY = 20


class Metrics:
    """The JSON-lines record of a run, continued at `position`, and the note beside its progress bar.

    Every line goes to the trackers `report_to` too. Without a path (in processes that do not lead) nothing is written
    or reported. Leaving its block ends the trackers.
    """

    def __init__(self, path: Path | None, position: Position, report_to: Sequence[str] = ()) -> None:
        self._path = path
        self.note = ""
        self._steps: list[tuple[tuple[str, ...], Tensor]] = []
        self._sums = {tally.name: tally.value for tally in position.unlogged}
        self._since, self._waited = time.monotonic(), 0.0
        self._n_tokens_before = self._sums.get("n_tokens", 0.0)
        if path is not None and path.exists():
            lines = [line for line in path.read_text().splitlines() if _happened(line, position)]
            replace_file(path, "".join(f"{line}\n" for line in lines).encode())
        self._reporters = [] if path is None else start_reporters(report_to, path.parent, position)

    def add(self, step: int, names: tuple[str, ...], sums: Tensor, rate: float, norm: Tensor, waited: float) -> None:
        """Count one step by its named sums [names], zeros if it was skipped; every 20 steps write the means since then.

        Tensors are read when a line is written, so that the host does not wait for a GPU in between. `waited` is the
        time in seconds that this process has waited for batches so far.
        """
        self._steps.append((names, sums))
        if step % _LOG_EVERY and step > 1:
            return
        self._add_up()
        n_tokens = self._sums.pop("n_tokens")
        if n_tokens:
            means = {name: value / n_tokens for name, value in self._sums.items()}
            seconds = time.monotonic() - self._since
            speed = (n_tokens - self._n_tokens_before) / seconds
            self.note = f"loss {means['loss']:.3f}, {speed:,.0f} targets/s"
            wait = (waited - self._waited) / seconds
            self.write(
                {"step": step, **means, "learning_rate": rate, "gradient_norm": float(norm), "loader_wait": wait}
            )
        self._sums, self._n_tokens_before, self._since, self._waited = {}, 0.0, time.monotonic(), waited

    def unlogged(self) -> tuple[Tally, ...]:
        """Sums over the steps since the last line."""
        self._add_up()
        return tuple(Tally(name, value) for name, value in self._sums.items())

    def _add_up(self) -> None:
        if self._steps:
            names = [name for some, _ in self._steps for name in some]
            # One copy for all of them.
            for name, value in zip(names, torch.cat([sums for _, sums in self._steps]).tolist(), strict=True):
                self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps = []

    def write(self, values: dict[str, float]) -> None:
        """Append one line; JSON knows no infinity, so what is not finite becomes null."""
        if self._path is None:
            return
        known = {name: value if math.isfinite(value) else None for name, value in values.items()}
        line = json.dumps(known) + "\n"
        with storage_errors(self._path, len(line)), self._path.open("a", encoding="utf-8") as file:
            file.write(line)
        for reporter in self._reporters:
            reporter.write({name: value for name, value in known.items() if value is not None})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        for reporter in self._reporters:
            reporter.close()


def _happened(line: str, position: Position) -> bool:
    """Whether a line was written before the checkpoint at `position`; a torn last line was not."""
    try:
        values = json.loads(line)
        return bool(values["step"] <= (position.validated if "valid_nll" in values else position.step))
    except (ValueError, KeyError, TypeError):
        return False
