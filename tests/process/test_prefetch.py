"""Work done ahead: results in order and no further ahead than asked, errors in their place, threads that end."""

import threading
import time

import pytest

from kdcache.process.prefetch import Prefetch


def test_results_come_in_order_and_no_further_ahead() -> None:
    """Results come in the order of the items, although later ones are ready first, from `depth` items at a time."""
    begun: list[int] = []

    def work(item: int, _pause: object) -> int:
        begun.append(item)
        time.sleep(0.05 if item % 4 == 0 else 0)
        return item * item

    with Prefetch(work, range(20), 3, threads=3) as ahead:
        time.sleep(0.3)
        assert sorted(begun) == [0, 1, 2]
        assert [ahead.take(lambda: None) for _ in range(20)] == [item * item for item in range(20)]
    assert sorted(begun) == list(range(20))


def test_a_thread_that_cannot_begin_says_so() -> None:
    """What preparing a thread raises reaches whoever takes the first item, and nobody waits for ever."""

    def prepare() -> None:
        raise OSError("no such device")

    with Prefetch(lambda item, _pause: item, range(3), 2, prepare=prepare) as ahead:
        assert ahead.ready(5.0)
        with pytest.raises(OSError, match="no such device"):
            ahead.take()


def test_errors_come_in_their_place() -> None:
    """What the work raised for an item reaches whoever takes that item, and those before it are not lost."""
    with Prefetch(lambda item, _pause: 12 // item, [3, 2, 0, 1], 4, threads=4) as ahead:
        assert [ahead.take(lambda: None) for _ in range(2)] == [4, 6]
        with pytest.raises(ZeroDivisionError):
            ahead.take(lambda: None)


def test_leaving_wakes_those_that_pause() -> None:
    """Leaving the block ends pauses of any length at once, and all threads."""
    before = threading.active_count()
    start = time.monotonic()
    with Prefetch(lambda _item, pause: pause(1_000), range(9), 4, threads=4):
        assert threading.active_count() == before + 4
    assert threading.active_count() == before
    assert time.monotonic() - start < 10
