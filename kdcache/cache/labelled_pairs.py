"""A cache pair by pair, for those who look at labels or train with a loop of their own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import numpy as np
import numpy.typing as npt

from kdcache.cache import reader
from kdcache.cache.shard import ShardArrays
from kdcache.files.locations import StoreConfig

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """One pair of texts with the teacher's words at each of its N target positions.

    Attributes:
        index: the number of its line, from 0.
        source, target: the texts, as the tokenizer decodes them; empty where the pair was skipped.
        source_ids: int64 [S], from start to end token.
        target_ids: int64 [N], the last one the end token.
        token_ids: int64 [N, k], by falling probability.
        log_probs: float32 [N, k], natural logarithms at temperature 1, over the full vocabulary.
        target_log_probs: float32 [N], of the written words.
    """

    index: int
    source: str
    target: str
    source_ids: npt.NDArray[np.int64]
    target_ids: npt.NDArray[np.int64]
    token_ids: npt.NDArray[np.int64]
    log_probs: npt.NDArray[np.float32]
    target_log_probs: npt.NDArray[np.float32]

    def to_torch(self) -> "dict[str, torch.Tensor]":
        """The five arrays by their names, as tensors that share their memory."""
        import torch

        names = ("source_ids", "target_ids", "token_ids", "log_probs", "target_log_probs")
        return {name: torch.from_numpy(getattr(self, name)) for name in names}


class CachedPairs(Sequence[LabelledPair]):
    """The pairs of a complete cache, skipped ones included, so that an index is a number of a line.

    A shard is read and checked when a pair of it is asked for, and the last one is kept: going through a cache in order
    reads each shard once.

    Attributes:
        reader: the cache by shards.
        tokenizer: that of teacher and students.
    """

    def __init__(self, cache: reader.CacheReader) -> None:
        self.reader, self.tokenizer = cache, cache.tokenizer()
        self._last: tuple[int, ShardArrays] | None = None

    def __len__(self) -> int:
        return self.reader.plan.n_pairs

    @overload
    def __getitem__(self, index: int) -> LabelledPair: ...
    @overload
    def __getitem__(self, index: slice) -> list[LabelledPair]: ...
    def __getitem__(self, index: int | slice) -> LabelledPair | list[LabelledPair]:
        """One pair, or a list of those of a slice.

        Raises:
            IndexError: there is no such pair.
            CorruptError: the shard is not the bytes that were committed.
        """
        if isinstance(index, slice):
            return [self[one] for one in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"pair {index} of {len(self):,}")
        number, row = divmod(index % len(self), self.reader.plan.shard_pairs)
        if self._last is None or self._last[0] != number:
            self._last = number, self.reader.shard(number)
        return self._pair(self._last[1], row, index % len(self))

    def batches(self, n_pairs: int) -> Iterator[list[LabelledPair]]:
        """All pairs in order, `n_pairs` at a time; the last batch may have fewer."""
        for start in range(0, len(self), n_pairs):
            yield self[start : start + n_pairs]

    def _pair(self, shard: ShardArrays, row: int, index: int) -> LabelledPair:
        pairs, soft = shard.pairs, shard.soft
        source = slice(*pairs.source_offsets[row : row + 2])
        target = slice(*pairs.target_offsets[row : row + 2])

        def of(array: Any, where: slice, dtype: type[np.generic]) -> Any:
            return array[where].astype(dtype)

        return LabelledPair(
            index,
            self.tokenizer.decode(pairs.source_ids[source].tolist()),
            self.tokenizer.decode(pairs.target_ids[target].tolist()),
            of(pairs.source_ids, source, np.int64),
            of(pairs.target_ids, target, np.int64),
            of(soft.token_ids, target, np.int64),
            of(soft.log_probs, target, np.float32),
            of(shard.target_log_prob, target, np.float32),
        )


def open_pairs(location: str, store: StoreConfig | None = None) -> CachedPairs:
    """Open the cache in a folder or at a URL, pair by pair.

    Raises:
        CorruptError, CacheError, UsageError, OutputError: as `kdcache.cache.reader.open_cache`.
    """
    return CachedPairs(reader.open_cache(location, store))
