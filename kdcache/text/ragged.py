"""Sequences of different lengths as one flat array and offsets.

Sequence i is `flat[offsets[i] : offsets[i + 1]]`; `offsets` is int64 [n + 1] and starts at 0.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


def offsets_of(lengths: npt.ArrayLike) -> Ints:
    """Offsets int64 [n + 1] of sequences with these `lengths` [n]."""
    counts = np.asarray(lengths, dtype=np.int64)
    offsets = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts, out=offsets[1:])
    return offsets


def lengths_at(offsets: Ints, chosen: npt.NDArray[np.integer]) -> Ints:
    """Lengths int64 [m] of the sequences `chosen` [m]."""
    lengths: Ints = offsets[chosen + 1] - offsets[chosen]
    return lengths


def positions(offsets: Ints, chosen: npt.NDArray[np.integer]) -> Ints:
    """Positions in the flat array of the sequences `chosen` [m], one after the other: int64 [sum of their lengths]."""
    lengths = lengths_at(offsets, chosen)
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    starts: Ints = np.repeat(offsets[chosen] - (ends - lengths), lengths)
    return starts + np.arange(total, dtype=np.int64)


def from_lists(lists: Sequence[Sequence[int]]) -> tuple[npt.NDArray[np.int32], Ints]:
    """Flat int32 array and offsets of Python lists."""
    offsets = offsets_of([len(items) for items in lists])
    flat = np.fromiter((item for items in lists for item in items), dtype=np.int32, count=int(offsets[-1]))
    return flat, offsets


def concatenate_offsets(parts: Iterable[Ints]) -> Ints:
    """Offsets of the sequences of several ragged arrays put one after the other."""
    return offsets_of(np.concatenate([np.diff(part) for part in parts]))
