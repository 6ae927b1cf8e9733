"""From shards to batches: the order of an epoch, and padding by array arithmetic.

The order is a pure function of (seed, epoch): shards are shuffled and taken a window at a time; inside a window pairs
are shuffled, sorted by length, cut into batches of at most `max_tokens` padded tokens, and the batches are shuffled.
So the state of a run is (seed, epoch, batches consumed), however far a thread reads ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcache.compute.device import moved
from kdcache.labels import soft_labels
from kdcache.labels.counter_random import INPUTS, keys, uniforms
from kdcache.labels.soft_labels import SoftArrays, SoftLabels
from kdcache.text import encoded_pairs, ragged
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds

WINDOW_PAIRS = 32_768
_LOOKAHEAD = 4_096
_VALID_TOKENS = 4_096


@dataclass(frozen=True, slots=True)
class Section:
    """Some pairs and, if they come from a cache, their soft labels: one row for each target position.

    With soft labels, `numbers` int64 [n] are the places of the pairs in the text, from 0.
    """

    pairs: EncodedPairs
    soft: SoftArrays | None = None
    numbers: ragged.Ints | None = None


class Sections(Protocol):
    """Where pairs come from, in parts that are loaded whole: a cache's shards, or runs of a text in memory."""

    @property
    def sizes(self) -> list[int]:
        """Pairs in each section."""

    def read(self, order: Sequence[int], give_up: Callable[[], None]) -> Generator[Section, None, None]:
        """Read the sections `order`, one after the other.

        `give_up` is called now and then while one is waited for; what it raises ends the wait.
        """


def some_pairs(sections: Sections) -> list[EncodedPairs]:
    """The pairs of the first, the middle and the last section."""
    last = len(sections.sizes) - 1
    return [section.pairs for section in sections.read(sorted({0, last // 2, last}), lambda: None)]


@dataclass(frozen=True, slots=True)
class TextSections:
    """Encoded text in memory."""

    parts: list[EncodedPairs]

    @property
    def sizes(self) -> list[int]:
        """Pairs in each section."""
        return [part.n_pairs for part in self.parts]

    def read(self, order: Sequence[int], _give_up: Callable[[], None]) -> Generator[Section, None, None]:
        """The parts `order`."""
        return (Section(self.parts[index]) for index in order)


@dataclass(frozen=True, slots=True)
class Selection:
    """The pairs of one optimizer step: `rows` int64 [pairs] of a window, and which step of the epoch it is."""

    window: Section
    rows: ragged.Ints
    epoch: int
    index: int


def epoch_order(
    sections: Sections,
    max_tokens: int,
    seed: int,
    epoch: int,
    consumed: int = 0,
    give_up: Callable[[], None] = lambda: None,
) -> Iterator[Selection]:
    """Yield the selections of one epoch, each usable pair once, leaving out the first `consumed`.

    `give_up` is called now and then while a section is waited for; what it raises ends the wait.
    """
    sizes = sections.sizes
    shuffled, following = (
        np.random.default_rng((seed, number)).permutation(len(sizes)).tolist() for number in (epoch, epoch + 1)
    )
    index = 0
    # The first sections of the next epoch can be prepared while the last window is used.
    with closing(sections.read([*shuffled, *following], give_up)) as stream:
        for number, window in enumerate(_windows(shuffled, sizes)):
            section = _join([next(stream) for _ in window])
            generator = np.random.default_rng((seed, epoch, number + 1))
            for rows in window_batches(section.pairs, max_tokens, generator):
                if index >= consumed:
                    yield Selection(section, rows, epoch, index)
                index += 1
            # Otherwise this window would stay in memory beside the next one.
            del section


def _windows(shuffled: list[int], sizes: list[int]) -> Iterator[list[int]]:
    """Consecutive shards of at most WINDOW_PAIRS pairs together, at least one."""
    window: list[int] = []
    held = 0
    for section in shuffled:
        if window and held + sizes[section] > WINDOW_PAIRS:
            yield window
            window, held = [], 0
        window.append(section)
        held += sizes[section]
    if window:
        yield window


def _join(parts: list[Section]) -> Section:
    if len(parts) == 1:
        return parts[0]
    pairs = encoded_pairs.concatenate([part.pairs for part in parts])
    labels = [part.soft for part in parts if part.soft is not None]
    numbers = [part.numbers for part in parts if part.numbers is not None]
    parts.clear()
    joined = soft_labels.concatenate(labels) if labels else None
    return Section(pairs, joined, np.concatenate(numbers) if numbers else None)


def window_batches(pairs: EncodedPairs, max_tokens: int, generator: np.random.Generator) -> list[ragged.Ints]:
    """Cut the usable pairs of a window into batches of at most `max_tokens` tokens, padding of both sides included.

    A pair that is longer is a batch of its own.
    """
    usable = generator.permutation(np.flatnonzero(pairs.target_lengths > 0))
    sources, targets = pairs.source_lengths[usable], pairs.target_lengths[usable]
    order = np.lexsort((targets, sources))
    rows, sources, targets = usable[order], sources[order], targets[order]
    batches = []
    start = 0
    while start < len(rows):
        ahead = slice(start, start + _LOOKAHEAD)
        longest = np.maximum.accumulate(sources[ahead]) + np.maximum.accumulate(targets[ahead])
        cost = longest * np.arange(1, len(longest) + 1)
        stop = start + max(1, int(np.searchsorted(cost, max_tokens, side="right")))
        batches.append(rows[start:stop])
        start = stop
    return [batches[i] for i in generator.permutation(len(batches))]


def micro_bounds(selection: Selection, micro_tokens: int, count: int) -> list[tuple[int, int]]:
    """Cut the rows of a step into micro-batches (start, stop) of at most `micro_tokens` padded tokens each.

    Their number is a multiple of `count`, the number of processes that share them, as long as there are rows; a pair
    that is longer is a micro-batch of its own. Rows are in order of length, so neighbours stay together.
    """
    pairs, rows = selection.window.pairs, selection.rows
    longest = int(pairs.source_lengths[rows].max() + pairs.target_lengths[rows].max())
    needed = -(-len(rows) // max(1, micro_tokens // longest))
    parts = min(len(rows), -(-needed // count) * count)
    return list(pairwise(len(rows) * i // parts for i in range(parts + 1)))


def valid_selections(pairs: EncodedPairs, generator: np.random.Generator) -> list[Selection]:
    """Batches of a validation text, which do not depend on the settings of training, so that losses of runs compare."""
    batches = window_batches(pairs, _VALID_TOKENS, generator)
    return [Selection(Section(pairs), rows, 0, index) for index, rows in enumerate(batches)]


@dataclass(frozen=True, slots=True)
class Resampling:
    """Which words of a decoder's input give way to words that the teacher draws in their place.

    The draws are a function of seed, epoch, pair and position, whatever the batches are.

    Attributes:
        share: probability that a word gives way.
        seed: that of the training.
        special: what is never drawn.
    """

    share: float
    seed: int
    special: SpecialIds

    def words(self, selection: Selection, written: ragged.Ints, soft: SoftArrays) -> ragged.Ints:
        """The `written` words int64 [targets] of a selection with some replaced; `soft` are their labels.

        Each draw inverts the distribution of the stored words, at temperature 1 and without the special ones.
        """
        pairs, rows, numbers = selection.window.pairs, selection.rows, selection.window.numbers
        if numbers is None:
            return written
        lengths = ragged.lengths_at(pairs.target_offsets, rows)
        places = ragged.positions(ragged.offsets_of(lengths), np.arange(len(rows)))
        places -= np.repeat(ragged.offsets_of(lengths)[:-1], lengths)
        key = keys(INPUTS, self.seed, selection.epoch, np.repeat(numbers[rows], lengths), places)
        chance, points = uniforms(key, 2).T
        chosen = np.flatnonzero(chance < self.share)
        special = self.special
        never = (special.pad, special.unk, special.mask, special.start, special.end, *special.joint)
        drawn, known = soft.take(chosen).draw(points[chosen], never)
        words = written.copy()
        words[chosen[known]] = drawn[known]
        return words


@dataclass(frozen=True, slots=True)
class Batch:
    """One batch for a student. Source and decoder input are padded; labels and soft labels are flat.

    Attributes:
        source_ids: int64 [pairs, S].
        source_mask: int64 [pairs, S], 1 on tokens, 0 on padding.
        decoder_ids: int64 [pairs, N]: start token, then the target without its end token, some words resampled.
        positions: int64 [targets], the places of the target positions in the flattened [pairs · N].
        labels: int64 [targets], the words to predict.
        soft: soft labels of the target positions with ids int32 and all else as stored, or None.
    """

    source_ids: Tensor
    source_mask: Tensor
    decoder_ids: Tensor
    positions: Tensor
    labels: Tensor
    soft: SoftLabels[Tensor] | None

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device, copied asynchronously out of pinned memory."""
        return Batch(
            moved(self.source_ids, device),
            moved(self.source_mask, device),
            moved(self.decoder_ids, device),
            moved(self.positions, device),
            moved(self.labels, device),
            None if self.soft is None else self.soft.map(lambda tensor: moved(tensor, device)),
        )


def collate(selection: Selection, special: SpecialIds, topk: int | None, resampling: Resampling | None = None) -> Batch:
    """Pad one selection; `topk` is how many of the stored words to take (None: all)."""
    pairs, rows = selection.window.pairs, selection.rows
    target_rows = ragged.positions(pairs.target_offsets, rows)
    source_ids, source_mask = _pad(ragged.lengths_at(pairs.source_offsets, rows), special.pad)
    source_ids[source_mask] = pairs.source_ids[ragged.positions(pairs.source_offsets, rows)]
    decoder_ids, target_mask = _pad(ragged.lengths_at(pairs.target_offsets, rows), special.pad)
    labels = pairs.target_ids[target_rows].astype(np.int64)
    soft = selection.window.soft
    if soft is not None:
        soft = (soft if topk is None else soft.select(topk)).take(target_rows)
    decoder_ids[target_mask] = (
        labels if resampling is None or soft is None else resampling.words(selection, labels, soft)
    )
    # The decoder's input is the target shifted right by one; what is lost at the end is an end token or padding.
    decoder_ids[:, 1:] = np.where(target_mask[:, 1:], decoder_ids[:, :-1], special.pad)
    decoder_ids[:, 0] = special.start
    if soft is not None:
        # PyTorch computes with few kinds of unsigned numbers.
        soft = replace(soft, token_ids=soft.token_ids.astype(np.int32))
    return Batch(
        torch.from_numpy(source_ids),
        torch.from_numpy(source_mask.astype(np.int64)),
        torch.from_numpy(decoder_ids),
        torch.from_numpy(np.flatnonzero(target_mask)),
        torch.from_numpy(labels),
        None if soft is None else soft.map(torch.from_numpy),
    )


def _pad(lengths: ragged.Ints, pad: int) -> tuple[ragged.Ints, npt.NDArray[np.bool_]]:
    """A grid of padding [rows, longest] and where its tokens go."""
    mask = np.arange(int(lengths.max())) < lengths[:, None]
    return np.full(mask.shape, pad, dtype=np.int64), mask
