"""Ragged arrays against plain lists of lists."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.text import ragged

LISTS = st.lists(st.lists(st.integers(-(2**31), 2**31 - 1), max_size=5), max_size=8)


def unpack(flat: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [flat[start:stop].tolist() for start, stop in pairwise(offsets)]


def test_offsets_by_hand() -> None:
    """Offsets are running sums that start at 0, in int64 whatever the lengths' type."""
    offsets = ragged.offsets_of(np.array([2, 0, 3], dtype=np.uint8))
    assert offsets.tolist() == [0, 2, 2, 5]
    assert offsets.dtype == np.int64
    assert ragged.offsets_of([]).tolist() == [0]
    assert ragged.offsets_of(np.array([200, 200], dtype=np.uint8)).tolist() == [0, 200, 400]


@settings(deadline=None)
@given(LISTS)
def test_lists_survive_packing(lists: list[list[int]]) -> None:
    """Lists come back from their flat form as they were."""
    flat, offsets = ragged.from_lists(lists)
    assert (flat.dtype, offsets.dtype) == (np.int32, np.int64)
    assert len(flat) == sum(map(len, lists))
    assert unpack(flat, offsets) == lists


@settings(deadline=None)
@given(LISTS.filter(bool), st.data())
def test_positions_gather_any_choice(lists: list[list[int]], data: st.DataObject) -> None:
    """Gathering sequences in any order, repeated or left out, equals a loop over lists."""
    chosen = data.draw(st.lists(st.integers(0, len(lists) - 1), max_size=10))
    flat, offsets = ragged.from_lists(lists)
    found = ragged.positions(offsets, np.array(chosen, dtype=np.int64))
    assert found.dtype == np.int64
    assert flat[found].tolist() == [item for i in chosen for item in lists[i]]


@settings(deadline=None)
@given(st.lists(LISTS, min_size=1, max_size=4))
def test_offsets_of_parts_joined(parts: list[list[list[int]]]) -> None:
    """Offsets of joined parts are those of the joined lists."""
    packed = [ragged.from_lists(part) for part in parts]
    offsets = ragged.concatenate_offsets(one for _, one in packed)
    flat = np.concatenate([one for one, _ in packed])
    assert unpack(flat, offsets) == [one for part in parts for one in part]
