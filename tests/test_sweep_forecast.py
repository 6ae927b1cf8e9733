"""What a sweep says and refuses before it trains anything, and what its whole would take."""

from __future__ import annotations

import pytest

from kdcache.sweep.forecast import time_of_all


@pytest.mark.parametrize(
    ("hours", "n_places", "expected"),
    [
        ([1.0, 1.0, 1.0], 8, 1.0),
        ([1.0, 1.0, 1.0], 2, 2.0),
        ([1.0, 1.0, 1.0], 1, 3.0),
        # Two begin, the shorter one's place takes the third, which ends after 1 + 3; then 2 + 2 = 4 as well.
        ([2.0, 1.0, 3.0, 2.0], 2, 4.0),
        # In the order of the file: the long one begins last and is waited for.
        ([1.0, 1.0, 5.0], 2, 6.0),
        ([], 3, 0.0),
    ],
)
def test_the_time_of_all_is_that_of_the_place_that_ends_last(
    hours: list[float], n_places: int, expected: float
) -> None:
    """Runs in their order go to whichever place is free first; the time of all is when the last of them ends."""
    assert time_of_all([3600 * one for one in hours], n_places) == 3600 * expected
