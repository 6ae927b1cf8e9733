"""How far long work has come, how fast it goes, and how long it will still take.

On a terminal tqdm draws a bar on standard error; elsewhere a plain line is written there now and then. The level of the
logger `kdcache.progress` decides whether anything is shown: above INFO nothing is.
"""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from tqdm import tqdm

_LINE_SECONDS = 15.0
# The first units take longer than others (caches are cold, buffers are made), so that no estimate counts them.
_START_SECONDS = 3.0
_log = logging.getLogger("kdcache.progress")


def duration(seconds: float) -> str:
    """A time span as people write it: `42s`, `3m 05s`, `2h 10m`, `4d 06h`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    for unit, size, below, below_size in (("m", 60, "s", 1), ("h", 3600, "m", 60), ("d", 86400, "h", 3600)):
        if whole < size * (60 if unit == "m" else 24) or unit == "d":
            return f"{whole // size}{unit} {whole % size // below_size:02d}{below}"
    return f"{whole}s"


@contextmanager
def above_bars() -> Iterator[None]:
    """Take a bar off the terminal while something is printed, and draw it below that again."""
    # Only a bar imports tqdm, which takes as long as the rest of `kdcache --help`.
    library = sys.modules.get("tqdm")
    with library.tqdm.external_write_mode(file=sys.stderr) if library else nullcontext():
        yield


class Progress:
    """Progress of `total` units of work.

    `done` units were finished by an earlier run: they count as progress, not in the rate. One that is not `shown`
    only counts.
    """

    def __init__(self, what: str, total: int, unit: str, done: int = 0, *, shown: bool = True) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._done, self._begun, self._note = done, 0.0, ""
        self._first: float = done
        self._start = self._printed = time.monotonic()
        self._started = False
        shown = shown and _log.level <= logging.INFO
        terminal = sys.stderr.isatty()
        self._prints = shown and not terminal
        self._bar = _bar(total, done) if shown and terminal else None

    def advance(self, amount: int, note: str = "", begun: float = 0.0) -> None:
        """Count `amount` more units; `note` is shown behind the numbers.

        Units that take long are `begun` before they are done: what is done of those under way, in units.
        """
        self._done += amount
        self._begun, self._note = begun, note or self._note
        now = time.monotonic()
        if not self._started and now - self._start >= _START_SECONDS:
            self._started, self._start, self._first = True, now, self._done + begun
        if self._bar is not None:
            self._bar.set_description_str(self.message(), refresh=False)
            self._bar.update(amount)
        elif self._prints and now - self._printed >= _LINE_SECONDS:
            self._printed = now
            print(self.message(), file=sys.stderr, flush=True)

    def inherit(self, share: float) -> None:
        """Leave a part of a unit that an earlier run did, and that `begun` will hold, out of the rate."""
        self._first += share

    def message(self) -> str:
        """Counts, rate and time left, without the bar."""
        done, elapsed = self._done + self._begun, time.monotonic() - self._start
        rate = (done - self._first) / elapsed if self._started and elapsed > 0 else 0.0
        text = f"{self._what}: {self._done:,}/{self._total:,} {self._unit if self._total != 1 else self._unit[:-1]}"
        if rate > 0:
            text += f", {_rate(rate, self._unit)}, {duration(math.ceil((self._total - done) / rate))} left"
        return f"{text}, {self._note}" if self._note else text

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(total: int, done: int) -> tqdm[Any]:
    from tqdm import tqdm

    # The text comes first: where a line is too short for both, the bar shrinks.
    layout = {"bar_format": "{desc} |{bar}|", "dynamic_ncols": True, "leave": False}
    return tqdm(total=total, initial=done, miniters=0, delay=0.2, disable=False, **layout)


def _rate(rate: float, unit: str) -> str:
    """Units a second, or a minute or an hour where that gives a number that can be read."""
    for name, seconds in (("s", 1), ("min", 60), ("h", 3600)):
        count = rate * seconds
        if count >= 0.1 or name == "h":
            break
    text = f"{count:,.0f}" if count >= 10 else f"{count:.2g}"
    return f"{text} {unit[:-1] if text == '1' else unit}/{name}"
