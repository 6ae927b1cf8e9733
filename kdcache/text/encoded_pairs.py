"""Pairs of texts as ids in flat arrays, and the ids that have a meaning of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from kdcache.text import ragged

IdArray = npt.NDArray[np.int32] | npt.NDArray[np.uint16] | npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class SpecialIds:
    """Ids of the special tokens, and how two texts are put together for the teacher.

    A source is `start x end`, a target `y end`; the teacher reads `start x end joint… y end`. `joint` is empty for
    BERT and one more separator for RoBERTa.
    """

    pad: int
    unk: int
    mask: int
    start: int
    end: int
    joint: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class EncodedPairs:
    """Pairs as ids, flat (see `kdcache.text.ragged`). A pair that was skipped has length 0 on both sides.

    Attributes:
        source_ids: [ΣS], each source with its start and end token.
        source_offsets: int64 [n + 1].
        target_ids: [ΣN], each target with its end token and no start token.
        target_offsets: int64 [n + 1].
    """

    source_ids: IdArray
    source_offsets: ragged.Ints
    target_ids: IdArray
    target_offsets: ragged.Ints

    @property
    def n_pairs(self) -> int:
        """Number of pairs, skipped ones included."""
        return len(self.source_offsets) - 1

    @property
    def n_targets(self) -> int:
        """Number of target positions, end tokens included."""
        return len(self.target_ids)

    @property
    def source_lengths(self) -> ragged.Ints:
        """S of each pair, int64 [n]."""
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> ragged.Ints:
        """N of each pair, int64 [n]."""
        return np.diff(self.target_offsets)

    def take(self, rows: npt.NDArray[np.integer]) -> EncodedPairs:
        """The pairs `rows` [m], in that order."""
        return EncodedPairs(
            self.source_ids[ragged.positions(self.source_offsets, rows)],
            ragged.offsets_of(self.source_lengths[rows]),
            self.target_ids[ragged.positions(self.target_offsets, rows)],
            ragged.offsets_of(self.target_lengths[rows]),
        )

    def first_difference(self, other: EncodedPairs) -> int | None:
        """The first pair whose words are not those of the same pair of `other`, from 0; None if there is none."""
        places = []
        for ids, offsets, other_ids, other_offsets in (
            (self.source_ids, self.source_offsets, other.source_ids, other.source_offsets),
            (self.target_ids, self.target_offsets, other.target_ids, other.target_offsets),
        ):
            # Up to the first pair that differs in length, all words lie at the same places.
            most = min(len(ids), len(other_ids))
            ends, words = np.flatnonzero(offsets != other_offsets), np.flatnonzero(ids[:most] != other_ids[:most])
            places += (ends[:1] - 1).tolist()
            places += (np.searchsorted(offsets, words[:1], side="right") - 1).tolist()
        return min(places, default=None)

    def without(self, skipped: npt.NDArray[np.bool_]) -> EncodedPairs:
        """The same pairs with those marked in `skipped` [n] emptied; indices stay."""
        kept = self.take(np.flatnonzero(~skipped))
        return replace(
            kept,
            source_offsets=ragged.offsets_of(np.where(skipped, 0, self.source_lengths)),
            target_offsets=ragged.offsets_of(np.where(skipped, 0, self.target_lengths)),
        )


def concatenate(parts: Sequence[EncodedPairs]) -> EncodedPairs:
    """Put several runs of pairs one after the other."""
    return EncodedPairs(
        np.concatenate([part.source_ids for part in parts]),
        ragged.concatenate_offsets(part.source_offsets for part in parts),
        np.concatenate([part.target_ids for part in parts]),
        ragged.concatenate_offsets(part.target_offsets for part in parts),
    )
