"""Some of a cache's pairs, wherever its shards begin and end."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.text import encoded_pairs
from kdcache.text.ragged import positions


class PairRanges:
    """Reads contiguous ranges of pairs; the shard that was read last stays in memory, and no other.

    Ranges in rising order read each shard once.
    """

    def __init__(self, reader: CacheReader) -> None:
        self.reader = reader
        self._index: int | None = None
        self._shard: ShardArrays

    def read(self, first: int, stop: int) -> ShardArrays:
        """The pairs `first` to `stop` (exclusive, at least one).

        Raises:
            CorruptError: a shard is not the bytes that were committed.
        """
        plan = self.reader.plan
        parts = []
        for index in range(first // plan.shard_pairs, (stop - 1) // plan.shard_pairs + 1):
            start, end = plan.bounds(index)
            parts.append(take(self._read(index), np.arange(max(first, start), min(stop, end)) - start))
        return concatenate(parts)

    def _read(self, index: int) -> ShardArrays:
        if index != self._index:
            # Not two shards at the same time.
            self._index = None
            self._shard = self.reader.shard(index)
            self._index = index
        return self._shard


def take(arrays: ShardArrays, pairs: npt.NDArray[np.integer]) -> ShardArrays:
    """The pairs `pairs` [m] of a shard, in that order, with all that is stored at their target positions."""
    rows = positions(arrays.pairs.target_offsets, pairs)
    chosen: ShardArrays = _at_positions([arrays], lambda columns: columns[0].take(rows, axis=0))
    return dataclasses.replace(chosen, pairs=arrays.pairs.take(pairs))


def concatenate(parts: Sequence[ShardArrays]) -> ShardArrays:
    """Put several runs of pairs one after the other."""
    if len(parts) == 1:
        return parts[0]
    joined: ShardArrays = _at_positions(parts, np.concatenate)
    return dataclasses.replace(joined, pairs=encoded_pairs.concatenate([part.pairs for part in parts]))


def _at_positions(parts: Sequence[Any], combine: Callable[[Sequence[npt.NDArray[Any]]], npt.NDArray[Any]]) -> Any:
    """Apply `combine` to all that has a row for each target position, wherever it lies in a shard's arrays."""
    first = parts[0]
    if isinstance(first, np.ndarray):
        return combine(parts)
    if first is None or isinstance(first, encoded_pairs.EncodedPairs):
        return first
    names = [field.name for field in dataclasses.fields(first)]
    return type(first)(**{name: _at_positions([getattr(part, name) for part in parts], combine) for name in names})
