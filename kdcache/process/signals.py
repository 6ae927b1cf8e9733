"""Stopping in an orderly way: SIGINT and SIGTERM ask, the work stops at its next safe point."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdcache.errors import StoppedError

# Seconds after a request to stop in which another one is taken for the same. What a sweep has started sets it: a
# scheduler may signal every process of a job, and the sweep hands the signal on.
grace_seconds = 0.0


class StopRequest:
    """Whether a signal asked to stop."""

    def __init__(self) -> None:
        self.number: int | None = None

    def check(self) -> None:
        """Raise `StoppedError` if a signal asked to stop."""
        if self.number is not None:
            raise StoppedError(self.number)


_requests: list[StopRequest] = []


def stop_asked() -> bool:
    """Whether a signal has asked the work that is in progress to stop."""
    return any(one.number is not None for one in _requests)


@contextmanager
def stop_on_signals(*, repeated: bool = False) -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block; a second signal of either kind stops at once.

    Not so where signals come `repeated`: torchrun hands on to its processes what the terminal has sent them already,
    and kills them if they take too long. Nor within `grace_seconds` of the first.
    """
    request = StopRequest()
    asked_at = 0.0

    def on_signal(number: int, _frame: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if request.number is None:
            request.number, asked_at = number, now
        elif not repeated and now - asked_at >= grace_seconds:
            raise StoppedError(number)

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    _requests.append(request)
    try:
        yield request
    finally:
        _requests.remove(request)
        for number, handler in before.items():
            signal.signal(number, handler)
