"""Work done ahead of whoever takes its results, in threads that end with the block that uses them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import CancelledError, Future, wait
from queue import SimpleQueue
from types import TracebackType
from typing import Generic, Self, TypeVar

# Several, since most of fetching a small file is waiting for its first byte.
THREADS = 4
THREAD_NAME = "kdcache-fetch"
_POLL_SECONDS = 0.1
# A thread that waits for a server that says nothing cannot be ended; then it ends itself, later.
_JOIN_SECONDS = 1.0

T = TypeVar("T")
R = TypeVar("R")


class Ahead(Generic[T, R]):
    """Does `work` on the next `depth` items ahead of whoever takes the results, which come in the items' order.

    `work` gets the item and a function that waits some seconds; when the block is left, that function raises.
    """

    def __init__(self, work: Callable[[T, Callable[[float], None]], R], items: Iterable[T], depth: int) -> None:
        self._work, self._items = work, iter(items)
        self._leaving = threading.Event()
        self._jobs: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
        self._results: deque[Future[R]] = deque()
        for _ in range(depth):
            self._submit()
        # They must not keep a process alive that was asked to stop.
        self._threads = [
            threading.Thread(target=self._serve, name=f"{THREAD_NAME}-{number}", daemon=True)
            for number in range(min(depth, THREADS))
        ]
        for thread in self._threads:
            thread.start()

    def take(self, give_up: Callable[[], None]) -> R:
        """The next item's result, or what `work` raised; while it is waited for, `give_up` is called now and then."""
        future = self._results.popleft()
        while not wait([future], timeout=_POLL_SECONDS).done:
            give_up()
        self._submit()
        return future.result()

    def _submit(self) -> None:
        for item in self._items:
            future: Future[R] = Future()
            self._results.append(future)
            self._jobs.put((item, future))
            return

    def _serve(self) -> None:
        while (job := self._jobs.get()) is not None:
            item, future = job
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(self._work(item, self._pause))
                except BaseException as error:
                    future.set_exception(error)
            # Otherwise the last result would stay in memory until the next job.
            del job, item, future

    def _pause(self, seconds: float) -> None:
        if self._leaving.wait(seconds):
            raise CancelledError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._leaving.set()
        for future in self._results:
            future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        latest = time.monotonic() + _JOIN_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, latest - time.monotonic()))
