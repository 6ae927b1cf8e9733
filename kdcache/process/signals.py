"""Orderly stops: SIGINT and SIGTERM are requests, and the work stops at its next safe point."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdcache.errors import StoppedError


class StopRequest:
    """Whether a signal asked to stop.

    Attributes:
        number: the signal that asked first, or None.
        asked_at: when it did, by the monotonic clock.
        grace_seconds: how long after the first signal another one is taken for the same request.
        kept: whether what was done until then is kept.
    """

    def __init__(self, grace_seconds: float = 0.0, *, kept: bool = True) -> None:
        self.number: int | None = None
        self.asked_at = 0.0
        self.grace_seconds = grace_seconds
        self.kept = kept

    def check(self) -> None:
        """Raise `StoppedError` if a signal asked to stop."""
        if self.number is not None:
            raise StoppedError(self.number, self.kept)


# Those of the blocks that the program is in, the innermost last: signals are the whole process's.
_requests: list[StopRequest] = []


def stop_asked() -> bool:
    """Whether a signal has asked the work that is in progress to stop."""
    return any(request.number is not None for request in _requests)


@contextmanager
def default_signals() -> Iterator[None]:
    """Let Ctrl-C and a closed pipe end the process inside the block at once and silently, as they end other filters."""
    taken = (signal.SIGINT, signal.SIGPIPE) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, signal.SIG_DFL) for number in taken}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def stop_on_signals(*, repeated: bool = False, grace_seconds: float = 0.0, kept: bool = True) -> Iterator[StopRequest]:
    """Catch SIGINT and SIGTERM inside the block; a second signal of either kind stops at once.

    A second signal does not where signals come `repeated`: torchrun hands on to its processes what the terminal has
    sent them already, and kills them if they take too long. Nor does it within `grace_seconds` of the first: a
    scheduler may signal every process of a job, and a sweep hands the signal on. A block inside another begins with the
    request and the seconds of grace of the outer one. `kept` is what the error says.
    """
    request = StopRequest(grace_seconds, kept=kept)
    if _requests:
        outer = _requests[-1]
        request.number, request.asked_at = outer.number, outer.asked_at
        request.grace_seconds = max(grace_seconds, outer.grace_seconds)

    def on_signal(number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if request.number is None:
            request.number, request.asked_at = number, now
        elif not repeated and now - request.asked_at >= request.grace_seconds:
            raise StoppedError(number, kept)

    # Python takes signals in the main thread only; elsewhere the program around decides.
    taken = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    before = {number: signal.signal(number, on_signal) for number in taken}
    _requests.append(request)
    try:
        yield request
    finally:
        _requests.remove(request)
        for number, handler in before.items():
            signal.signal(number, handler)
