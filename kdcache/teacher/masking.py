"""The masked views of a pair: what the teacher reads.

A view is `start x end joint… y end` with some target positions replaced by the mask token. The source is never
masked; the target's end token is a target position like any other. Pass p of P masks target positions p, p+P, p+2P, …,
so that every position is masked in exactly one of the min(P, N) passes of a pair with N positions (C-MLM, Chen et
al. 2020, section 3.1, with a fixed partition in place of random draws). Further partitions assign the positions of each
target to the same passes in another, pseudo-random order.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from kdcache.errors import UsageError
from kdcache.labels import counter_random
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
from kdcache.text.ragged import Ints, positions

MASKED_SHARE = 0.15
# Kernels work on so many rows at a time, and oneDNN prepares one for another number three times as long.
_BLOCK = 32


@dataclass(frozen=True, slots=True)
class MaskedViews:
    """Some views, padded to the longest.

    Attributes:
        input_ids: int64 [views, length].
        segment_ids: int64 [views, length], 0 up to the target, 1 on it, 0 on padding.
        lengths: int64 [views], tokens that are not padding.
        masked: int64 [masked], flat positions (row · length + column) that hold the mask token, ascending.
        labels: int64 [masked], the ids that were there.
        target_rows: int64 [masked], the place of each masked position in the pairs' flat `target_ids`.
    """

    input_ids: Ints
    segment_ids: Ints
    lengths: Ints
    masked: Ints
    labels: Ints
    target_rows: Ints

    @property
    def shape(self) -> tuple[int, int]:
        """Views, and the tokens that each has with its padding."""
        count, longest = self.input_ids.shape
        return count, longest

    def rows(self, start: int, stop: int) -> MaskedViews:
        """Views `start` to `stop` (exclusive, at least one), padded to the longest among them."""
        width = self.input_ids.shape[1]
        longest = int(self.lengths[start:stop].max())
        first, last = np.searchsorted(self.masked, (start * width, stop * width))
        masked = self.masked[first:last] - start * width
        return MaskedViews(
            np.ascontiguousarray(self.input_ids[start:stop, :longest]),
            np.ascontiguousarray(self.segment_ids[start:stop, :longest]),
            self.lengths[start:stop],
            masked // width * longest + masked % width,
            self.labels[first:last],
            self.target_rows[first:last],
        )

    def of_one_length(self) -> Iterator[MaskedViews]:
        """Runs of neighbouring views that have the same length, without any padding."""
        starts = np.flatnonzero(np.diff(self.lengths, prepend=-1))
        for start, stop in pairwise([*starts.tolist(), len(self.lengths)]):
            yield self.rows(start, stop)


def view_lengths(pairs: EncodedPairs, special: SpecialIds) -> Ints:
    """Tokens in a view of each pair, int64 [n]; 0 for skipped pairs."""
    targets = pairs.target_lengths
    return np.where(targets > 0, pairs.source_lengths + len(special.joint) + targets, 0)


def view_counts(pairs: EncodedPairs, passes: int, maskings: int = 1) -> Ints:
    """Views of each pair over all partitions, int64 [n]; 0 for skipped pairs."""
    return np.minimum(pairs.target_lengths, passes) * maskings


def passes_of_positions(pairs: EncodedPairs, passes: int, masking: int, seed: int, indices: Ints) -> Ints:
    """The pass in which each target position is masked in one partition: int64 [ΣN], from 0.

    In partition 0 that is p modulo P. In a later one the positions of each target are first put into an order that is a
    pure function of seed, `masking` and the pair's index in the corpus, `indices` int64 [n].
    """
    targets = pairs.target_lengths
    within = np.arange(pairs.n_targets, dtype=np.int64) - np.repeat(pairs.target_offsets[:-1], targets)
    if masking == 0:
        return within % passes
    owner = np.repeat(indices, targets)
    noise = counter_random.keys(counter_random.MASKINGS, seed, masking, owner, within)
    places = np.empty_like(within)
    # Pairs stay where they are, and the positions inside them are sorted.
    places[np.lexsort((noise, np.repeat(np.arange(pairs.n_pairs), targets)))] = within
    return places % passes


def partition_views(pairs: EncodedPairs, passes: int) -> tuple[Ints, Ints]:
    """All (pair, pass) of some pairs: two int64 [views], the longest pairs first, a pair's views side by side.

    Raises:
        UsageError: `passes` is not positive.
    """
    if passes < 1:
        raise UsageError(f"--passes must be at least 1, not {passes}.")
    targets = pairs.target_lengths
    order = np.argsort(-(pairs.source_lengths + targets), kind="stable")
    counts = np.minimum(targets[order], passes)
    chosen = np.repeat(order, counts)
    firsts = np.repeat(np.cumsum(counts) - counts, counts)
    return chosen, np.arange(len(chosen), dtype=np.int64) - firsts


def partition_batches(
    pairs: EncodedPairs, passes: int, max_tokens: int, special: SpecialIds, in_pass: Ints | None = None
) -> Iterator[MaskedViews]:
    """Yield every view of every pair once, in batches of at most `max_tokens` tokens, padding included.

    A single view that is longer is a batch of its own. Batches are cut from views in order of length, so that little
    of them is padding. `in_pass` is the result of `passes_of_positions`, by default that for partition 0.
    """
    chosen, residues = partition_views(pairs, passes)
    if in_pass is None:
        in_pass = passes_of_positions(pairs, passes, 0, 0, np.arange(pairs.n_pairs))
    lengths = view_lengths(pairs, special)[chosen]
    start = 0
    while start < len(chosen):
        stop = start + _views_at_once(max_tokens, int(lengths[start]))
        grid = _lay_out(pairs, chosen[start:stop], special)
        hidden = np.zeros_like(grid.in_target)
        # Boolean assignment runs row by row, as in `_lay_out`.
        assigned = in_pass[positions(pairs.target_offsets, chosen[start:stop])]
        hidden[grid.in_target] = assigned == np.repeat(residues[start:stop], pairs.target_lengths[chosen[start:stop]])
        yield _mask(grid, hidden, special)
        start = stop


def _views_at_once(max_tokens: int, length: int) -> int:
    """As many as fit, if possible a whole number of `_BLOCK` tokens."""
    most, unit = max(1, max_tokens // length), _BLOCK // math.gcd(_BLOCK, length)
    return most // unit * unit or most


def random_views(
    pairs: EncodedPairs, rows: npt.NDArray[np.integer], generator: np.random.Generator, special: SpecialIds
) -> MaskedViews:
    """One view of each pair in `rows` [views] with 15 % of the target positions masked at random, at least one.

    `rows` are pairs that were not skipped. Where 15 % of N is not whole, it is rounded up or down at random, so that
    the mean is 15 %.
    """
    grid = _lay_out(pairs, rows, special)
    targets = pairs.target_lengths[rows]
    wanted = np.maximum(1, np.floor(MASKED_SHARE * targets + generator.random(len(rows)))).astype(np.int64)
    noise = np.where(grid.in_target, generator.random(grid.within.shape), 2.0)
    # The wanted-th smallest draw of each row is the largest that is masked.
    limits = np.take_along_axis(np.sort(noise, axis=1), wanted[:, None] - 1, axis=1)
    return _mask(grid, (noise <= limits) & grid.in_target, special)


@dataclass(frozen=True, slots=True)
class _Grid:
    """Unmasked views: ids, lengths, each cell's position within the target, and whether it lies in it."""

    input_ids: Ints
    lengths: Ints
    within: Ints
    in_target: npt.NDArray[np.bool_]
    target_starts: Ints


def _lay_out(pairs: EncodedPairs, rows: npt.NDArray[np.integer], special: SpecialIds) -> _Grid:
    sources, targets = pairs.source_lengths[rows], pairs.target_lengths[rows]
    heads = sources + len(special.joint)
    lengths = heads + targets
    column = np.arange(int(lengths.max(initial=0)), dtype=np.int64)
    input_ids = np.full((len(rows), len(column)), special.pad, dtype=np.int64)
    in_source = column < sources[:, None]
    within = column - heads[:, None]
    in_target = (within >= 0) & (within < targets[:, None])
    # Boolean assignment runs row by row, in the order in which the flat arrays are gathered.
    input_ids[in_source] = pairs.source_ids[positions(pairs.source_offsets, rows)]
    input_ids[in_target] = pairs.target_ids[positions(pairs.target_offsets, rows)]
    for i, joint in enumerate(special.joint):
        input_ids[np.arange(len(rows)), sources + i] = joint
    return _Grid(input_ids, lengths, within, in_target, pairs.target_offsets[rows])


def _mask(grid: _Grid, hidden: npt.NDArray[np.bool_], special: SpecialIds) -> MaskedViews:
    masked = np.flatnonzero(hidden)
    flat = grid.input_ids.reshape(-1)
    labels = flat[masked].copy()
    flat[masked] = special.mask
    target_rows = grid.target_starts[masked // max(1, grid.within.shape[1])] + grid.within.reshape(-1)[masked]
    return MaskedViews(grid.input_ids, grid.in_target.astype(np.int64), grid.lengths, masked, labels, target_rows)
