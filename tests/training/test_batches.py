"""The order of an epoch, and what padding makes of it."""

from collections.abc import Sequence
from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kdcache.errors import UsageError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
from kdcache.training import batches
from kdcache.training.batches import (
    Section,
    Selection,
    TextSections,
    collate,
    epoch_order,
    micro_bounds,
    window_batches,
)

SPECIAL = SpecialIds(pad=0, unk=1, mask=2, start=3, end=4, joint=())
Lengths = tuple[int, int] | None


def encoded(lengths: Sequence[Lengths], first: int = 0) -> EncodedPairs:
    """Pairs of these lengths, None for skipped ones; every source token of pair i is 100 + i, targets count up."""
    sources = [[] if one is None else [100 + first + i] * one[0] for i, one in enumerate(lengths)]
    targets = [[] if one is None else [*range(10, 9 + one[1]), SPECIAL.end] for one in lengths]
    return EncodedPairs(*ragged.from_lists(sources), *ragged.from_lists(targets))


def sections_of(parts: Sequence[Sequence[Lengths]]) -> TextSections:
    """Sections whose pairs are numbered through all of them."""
    firsts = np.cumsum([0, *map(len, parts)])
    return TextSections([encoded(part, int(first)) for part, first in zip(parts, firsts, strict=False)])


def pair_numbers(selection: Selection) -> list[int]:
    """Which pairs a selection holds, read off their source tokens."""
    pairs = selection.window.pairs
    return [int(pairs.source_ids[pairs.source_offsets[row]]) - 100 for row in selection.rows]


LENGTHS = st.one_of(st.none(), st.tuples(st.integers(3, 40), st.integers(1, 40)))
PARTS = st.lists(st.lists(LENGTHS, min_size=1, max_size=12), min_size=1, max_size=6)


@settings(deadline=None)
@given(
    parts=PARTS,
    max_tokens=st.integers(1, 400),
    seed=st.integers(0, 1000),
    epoch=st.integers(0, 50),
    window=st.integers(1, 40),
)
@example(parts=[[None, None], [None]], max_tokens=100, seed=1, epoch=0, window=40)
def test_every_usable_pair_once_within_the_budget(
    parts: list[list[Lengths]], max_tokens: int, seed: int, epoch: int, window: int
) -> None:
    """An epoch holds each pair that was not skipped exactly once, in batches that keep to --max-tokens."""
    flat = [one for part in parts for one in part]
    with patch.object(batches, "WINDOW_PAIRS", window):
        order = list(epoch_order(sections_of(parts), max_tokens, seed, epoch))
    seen = [pair_numbers(selection) for selection in order]
    assert sorted(number for numbers in seen for number in numbers) == [i for i, one in enumerate(flat) if one]
    assert [selection.index for selection in order] == list(range(len(order)))
    assert {selection.epoch for selection in order} <= {epoch}
    for numbers in seen:
        longest = [max(flat[number][side] for number in numbers) for side in (0, 1)]
        assert len(numbers) == 1 or len(numbers) * sum(longest) <= max_tokens


def random_parts(seed: int, sizes: Sequence[int]) -> list[list[Lengths]]:
    """Parts of these sizes with random lengths, every tenth pair skipped."""
    generator = np.random.default_rng(seed)
    draws = [generator.integers((3, 1), (30, 30), (size, 2)).tolist() for size in sizes]
    return [[None if i % 10 == 9 else (s, t) for i, (s, t) in enumerate(part)] for part in draws]


@pytest.mark.parametrize("sizes", [[30, 30, 17], [77]])
def test_order_is_a_function_of_seed_and_epoch(sizes: list[int]) -> None:
    """The same seed and epoch give the same batches, whatever random state surrounds them; others differ."""
    sections = sections_of(random_parts(0, sizes))

    def order(seed: int, epoch: int) -> list[list[int]]:
        return [pair_numbers(selection) for selection in epoch_order(sections, 200, seed, epoch)]

    first = order(7, 3)
    np.random.seed(99)
    torch.manual_seed(99)
    assert order(7, 3) == first
    assert len({str(order(seed, epoch)) for seed, epoch in ((7, 3), (7, 4), (8, 3), (8, 2), (3, 7))}) == 5


@pytest.mark.parametrize("window", [10, 65_536])
def test_fault_34_order_resumes_at_every_batch(monkeypatch: pytest.MonkeyPatch, window: int) -> None:
    """Leaving out the first n batches gives exactly the rest, for every n of an epoch."""
    monkeypatch.setattr(batches, "WINDOW_PAIRS", window)
    sections = sections_of(random_parts(1, [9, 8, 11, 4]))
    whole = [(one.index, pair_numbers(one)) for one in epoch_order(sections, 120, 5, 2)]
    assert len(whole) > 8
    for consumed in range(len(whole) + 2):
        rest = [(one.index, pair_numbers(one)) for one in epoch_order(sections, 120, 5, 2, consumed)]
        assert rest == whole[consumed:]


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(3, 40), st.integers(1, 40)), min_size=1, max_size=40),
    micro_tokens=st.integers(1, 400),
    count=st.integers(1, 5),
)
def test_micro_batches_divide_a_step(lengths: list[tuple[int, int]], micro_tokens: int, count: int) -> None:
    """Micro-batches hold each row of a step once, in order, keep to --micro-tokens, and suffice for all processes."""
    pairs = encoded(lengths)
    (rows,) = window_batches(pairs, 1 << 20, np.random.default_rng(0))
    bounds = micro_bounds(Selection(Section(pairs), rows, 0, 0), micro_tokens, count)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(len(rows)))
    assert len(bounds) % count == 0 or len(bounds) == len(rows)
    sizes = [stop - start for start, stop in bounds]
    assert max(sizes) - min(sizes) <= 1
    for start, stop in bounds:
        longest = [max(lengths[row][side] for row in rows[start:stop]) for side in (0, 1)]
        assert stop - start == 1 or (stop - start) * sum(longest) <= micro_tokens


def test_windows_bound_what_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """No window holds more pairs than allowed, except where one section alone is larger."""
    monkeypatch.setattr(batches, "WINDOW_PAIRS", 20)
    sections = sections_of([[(5, 5)] * size for size in (8, 8, 8, 30, 3)])
    # The windows themselves are kept: the address of one that is gone may be that of the next.
    windows = {id(one.window): one.window for one in epoch_order(sections, 60, 1, 0)}
    held = [window.pairs.n_pairs for window in windows.values()]
    assert all(n <= 20 or n == 30 for n in held)
    assert sum(held) == 57


def test_batches_are_cut_by_length() -> None:
    """Pairs of similar length stand together: little of the batches is padding, and none is far below the budget."""
    generator = np.random.default_rng(3)
    lengths = np.clip(np.exp(generator.normal(2.6, 0.5, 3_000)).astype(int), 3, 80)
    ratio = np.clip(lengths * generator.normal(1.1, 0.15, 3_000), 2, 90).astype(int)
    pairs = encoded(list(zip(lengths.tolist(), ratio.tolist(), strict=True)))
    cut = window_batches(pairs, 2_000, np.random.default_rng(0))
    tokens = int(pairs.source_lengths.sum() + pairs.target_lengths.sum())
    padded = sum(len(rows) * int(pairs.source_lengths[rows].max() + pairs.target_lengths[rows].max()) for rows in cut)
    assert tokens / padded > 0.85
    assert tokens / len(cut) > 0.7 * 2_000


def slow_collate(
    selection: Selection, topk: int | None
) -> tuple[list[list[int]], list[list[int]], list[list[int]], list[int], list[int], list[list[int]], list[list[float]]]:
    """What `collate` should give, one token at a time."""
    pairs, soft = selection.window.pairs, selection.window.soft
    source_at, target_at = pairs.source_offsets, pairs.target_offsets
    sources = [pairs.source_ids[source_at[r] : source_at[r + 1]].tolist() for r in selection.rows]
    targets = [pairs.target_ids[target_at[r] : target_at[r + 1]].tolist() for r in selection.rows]
    width, height = max(map(len, sources)), max(map(len, targets))
    ids, mask, decoder, positions, labels, best, log_probs = [], [], [], [], [], [], []
    for i, (row, source, target) in enumerate(zip(selection.rows, sources, targets, strict=True)):
        ids.append(source + [SPECIAL.pad] * (width - len(source)))
        mask.append([1] * len(source) + [0] * (width - len(source)))
        decoder.append([SPECIAL.start, *target[:-1]] + [SPECIAL.pad] * (height - len(target)))
        for t, word in enumerate(target):
            positions.append(i * height + t)
            labels.append(word)
            if soft is not None:
                best.append(soft.token_ids[target_at[row] + t][:topk].tolist())
                log_probs.append(soft.log_probs[target_at[row] + t][:topk].tolist())
    return ids, mask, decoder, positions, labels, best, log_probs


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(3, 9), st.integers(1, 9)), min_size=1, max_size=9),
    topk=st.sampled_from([None, 1, 3]),
    data=st.data(),
)
def test_collate_equals_a_slow_loop(lengths: list[tuple[int, int]], topk: int | None, data: st.DataObject) -> None:
    """Padding, shifted decoder input, masks, labels and soft rows are those of a loop over tokens."""
    pairs = encoded(lengths)
    # Each soft label says at which position it belongs.
    n = pairs.n_targets
    ids = (np.arange(n)[:, None] * 4 + np.arange(4)).astype(np.uint16)
    soft = SoftLabels(ids, (-ids / 64).astype(np.float16))
    rows = np.array(data.draw(st.permutations(range(len(lengths)))))[: data.draw(st.integers(1, len(lengths)))]
    selection = Selection(Section(pairs, soft), rows, epoch=0, index=0)
    batch = collate(selection, SPECIAL, topk)
    expected = slow_collate(selection, topk)
    hard = (batch.source_ids, batch.source_mask, batch.decoder_ids, batch.positions, batch.labels)
    found = (*hard, batch.soft.token_ids, batch.soft.log_probs)
    assert [tensor.tolist() for tensor in found] == list(expected)
    assert {tensor.dtype for tensor in hard} == {torch.int64}
    # A row of soft labels belongs to the word it stands beside.
    assert [row[0] // 4 for row in batch.soft.token_ids.tolist()] == ragged.positions(
        pairs.target_offsets, rows
    ).tolist()


def test_collate_without_soft_labels() -> None:
    """Without soft labels the batch has none, and asking for more words than stored is refused."""
    pairs = encoded([(4, 3), (5, 2)])
    plain = collate(Selection(Section(pairs), np.array([1, 0]), 0, 0), SPECIAL, None)
    assert plain.soft is None
    assert plain.decoder_ids.tolist() == [[3, 10, 0], [3, 10, 11]]
    soft = SoftLabels(np.zeros((5, 2), np.uint16), np.zeros((5, 2), np.float16))
    with pytest.raises(UsageError, match="between 1 and the 2"):
        collate(Selection(Section(pairs, soft), np.array([0]), 0, 0), SPECIAL, 3)
