"""Work that threads do ahead of use; they end with the block that uses its results."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, wait
from queue import SimpleQueue
from typing import Generic, Self, TypeVar

THREAD_NAME = "kdcache-prefetch"
_POLL_SECONDS = 0.1

T = TypeVar("T")
R = TypeVar("R")


class Prefetch(Generic[T, R]):
    """Does `work` on the next `depth` items in threads, ahead of the results' use; results come in the items' order.

    `work` gets an item and a function that waits some seconds, which raises `CancelledError` once the block is left.
    Leaving the block waits for the threads, at most `leave_seconds` where given: a thread that waits for a silent
    server cannot be ended, and ends by itself later.

    Attributes:
        waited: seconds for which results have been waited for.
    """

    def __init__(
        self,
        work: Callable[[T, Callable[[float], None]], R],
        items: Iterable[T],
        depth: int,
        *,
        threads: int = 1,
        name: str = THREAD_NAME,
        prepare: Callable[[], None] = lambda: None,
        leave_seconds: float | None = None,
    ) -> None:
        self.waited = 0.0
        self._work, self._items, self._prepare = work, iter(items), prepare
        self._leave_seconds = leave_seconds
        self._leaving = threading.Event()
        self._jobs: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
        self._results: deque[Future[R]] = deque()
        for _ in range(depth):
            self._submit()
        # They must not keep a process alive that was asked to stop.
        self._threads = [
            threading.Thread(target=self._serve, name=f"{name}-{number}", daemon=True)
            for number in range(min(depth, threads))
        ]
        for thread in self._threads:
            thread.start()

    def ready(self, seconds: float) -> bool:
        """Wait for the next result, at most `seconds`; return whether it, or what was raised in its place, is there."""
        start = time.perf_counter()
        done = wait([self._results[0]], timeout=seconds).done
        self.waited += time.perf_counter() - start
        return bool(done)

    def take(self, give_up: Callable[[], None] = lambda: None) -> R:
        """The next result, or what `work` raised; while it is waited for, `give_up` is called now and then."""
        while not self.ready(_POLL_SECONDS):
            give_up()
        future = self._results.popleft()
        self._submit()
        return future.result()

    def __iter__(self) -> Iterator[R]:
        return self

    def __next__(self) -> R:
        if not self._results:
            raise StopIteration
        return self.take()

    def _submit(self) -> None:
        for item in self._items:
            future: Future[R] = Future()
            self._results.append(future)
            self._jobs.put((item, future))
            return

    def _serve(self) -> None:
        prepared = False
        while (job := self._jobs.get()) is not None:
            item, future = job
            if future.set_running_or_notify_cancel():
                try:
                    if not prepared:
                        self._prepare()
                        prepared = True
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

    def __exit__(self, *_error: object) -> None:
        self._leaving.set()
        for future in self._results:
            future.cancel()
        for _ in self._threads:
            self._jobs.put(None)
        latest = None if self._leave_seconds is None else time.monotonic() + self._leave_seconds
        for thread in self._threads:
            thread.join(None if latest is None else max(0.0, latest - time.monotonic()))
