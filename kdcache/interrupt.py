"""Stopping in an orderly way: SIGINT and SIGTERM ask, the work stops at its next safe point."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdcache.errors import StoppedError


class StopRequest:
    """Whether a signal asked to stop."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise `StoppedError` if a signal asked to stop."""
        if self.number is not None:
            raise StoppedError(self.number)


@contextmanager
def stop_on_signals(*, repeated: bool = False) -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block; a second signal of either kind stops at once.

    Not so where signals come `repeated`: torchrun hands on to its processes what the terminal has sent them already,
    and kills them if they take too long.
    """
    request = StopRequest()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if request.number is not None and not repeated:
            raise StoppedError(number)
        request.number = number if request.number is None else request.number

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
