"""How far long work has come, how fast it goes, and how long it will still take.

On a terminal one line is redrawn; elsewhere a plain line is written now and then.
"""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType
from typing import Self

_REDRAW_SECONDS = 0.2
_LINE_SECONDS = 15.0
_BAR_CELLS = 24

# Set by the command line's --quiet.
quiet = False


def duration(seconds: float) -> str:
    """A time span as people write it: `42s`, `3m 05s`, `2h 10m`, `4d 06h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    for unit, size, below, below_size in (("m", 60, "s", 1), ("h", 3600, "m", 60), ("d", 86400, "h", 3600)):
        if whole < size * (60 if unit == "m" else 24) or unit == "d":
            return f"{whole // size}{unit} {whole % size // below_size:02d}{below}"
    return f"{whole}s"


class Progress:
    """Progress of `total` units of work, written to standard error.

    `done` units were finished by an earlier run: they count as progress, not in the rate. One that is not `shown`
    only counts.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, *, shown: bool = True) -> None:
        self._shown_at_all = shown
        self._what, self._total, self._unit = what, total, unit
        self._done = done
        self._first: float = done
        self._start = self._shown = time.monotonic()
        self._terminal = sys.stderr.isatty()
        self._note = ""
        self._begun = 0.0

    def advance(self, amount: int, note: str = "", begun: float = 0.0) -> None:
        """Count `amount` more units; `note` is shown behind the numbers.

        Units that take long are `begun` before they are done: what is done of those under way, in units.
        """
        self._done += amount
        self._begun = begun
        self._note = note or self._note
        if time.monotonic() - self._shown >= (_REDRAW_SECONDS if self._terminal else _LINE_SECONDS):
            self._show()

    def inherit(self, share: float) -> None:
        """Leave a part of a unit that an earlier run did, and that `begun` will hold, out of the rate."""
        self._first += share

    def message(self) -> str:
        """Counts, rate and time left, without the bar."""
        elapsed = time.monotonic() - self._start
        done = self._done + self._begun
        rate = (done - self._first) / elapsed if elapsed > 0 else 0.0
        text = f"{self._what}: {self._done:,}/{self._total:,} {self._unit}"
        if rate > 0:
            text += f", {_rate(rate, self._unit)}, {duration((self._total - done) / rate)} left"
        return f"{text}, {self._note}" if self._note else text

    def _show(self) -> None:
        self._shown = time.monotonic()
        if quiet or not self._shown_at_all:
            return
        if self._terminal:
            filled = _BAR_CELLS * self._done // max(1, self._total)
            line = f"[{'#' * filled}{'.' * (_BAR_CELLS - filled)}] {self.message()}"
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{line[:width]:<{width}}", end="", file=sys.stderr, flush=True)
        else:
            print(self.message(), file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Take the line off the terminal, so that something else can be printed there."""
        if self._terminal and self._shown_at_all and not quiet:
            width = shutil.get_terminal_size().columns - 1
            print(f"\r{'':<{width}}\r", end="", file=sys.stderr, flush=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()


def _rate(rate: float, unit: str) -> str:
    """Units a second, or a minute or an hour where that gives a number that can be read."""
    for name, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        count = rate * seconds
        if count >= 0.1 or name == "h":
            break
    return f"{count:,.0f} {unit}/{name}" if count >= 10 else f"{count:.2g} {unit}/{name}"
