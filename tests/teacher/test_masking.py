"""Masked views against a loop over pairs, passes and positions."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import UsageError
from kdcache.teacher.masking import (
    MASKED_SHARE,
    MaskedViews,
    partition_batches,
    partition_views,
    random_views,
    view_lengths,
)
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds

PAD, MASK, START, END, JOINT = 0, 2, 3, 4, 9
BERT = SpecialIds(PAD, 1, MASK, START, END, ())
ROBERTA = SpecialIds(PAD, 1, MASK, START, END, (JOINT,))

Rows = list[tuple[list[int], list[int]]]


def pack(rows: Rows) -> EncodedPairs:
    """Rows of (source, target) ids, without special tokens; two empty lists are a skipped pair."""
    sources = [[START, *source, END] if target else [] for source, target in rows]
    targets = [[*target, END] if target else [] for _, target in rows]
    offsets = [np.cumsum([0, *map(len, side)]).astype(np.int64) for side in (sources, targets)]
    flat = [np.array([i for one in side for i in one], dtype=np.uint16) for side in (sources, targets)]
    return EncodedPairs(flat[0], offsets[0], flat[1], offsets[1])


@dataclass
class Row:
    """One view, unpadded, as a loop sees it."""

    ids: list[int]
    segments: list[int]
    labels: list[int]
    target_rows: list[int]


def rows_of(views: MaskedViews) -> list[Row]:
    """Take views apart row by row, checking what every batch must satisfy on its own."""
    n, width = views.input_ids.shape
    assert views.segment_ids.shape == (n, width)
    assert views.lengths.max() == width
    assert np.all(np.diff(views.masked) > 0)
    assert {a.dtype for a in (views.input_ids, views.segment_ids, views.masked, views.labels)} == {np.dtype(np.int64)}
    found = []
    for i, length in enumerate(views.lengths.tolist()):
        assert views.input_ids[i, length:].tolist() == [PAD] * (width - length)
        assert views.segment_ids[i, length:].tolist() == [0] * (width - length)
        own = views.masked // width == i
        columns = (views.masked[own] % width).tolist()
        ids = views.input_ids[i, :length].tolist()
        assert columns == [c for c, one in enumerate(ids) if one == MASK]
        found.append(
            Row(
                ids, views.segment_ids[i, :length].tolist(), views.labels[own].tolist(), views.target_rows[own].tolist()
            )
        )
    return found


def slow_view(pairs: EncodedPairs, pair: int, hidden: set[int], special: SpecialIds) -> Row:
    """The view of one pair that masks the target positions `hidden`, one token after the other."""
    source = pairs.source_ids[pairs.source_offsets[pair] : pairs.source_offsets[pair + 1]].tolist()
    first = int(pairs.target_offsets[pair])
    target = pairs.target_ids[first : pairs.target_offsets[pair + 1]].tolist()
    row = Row([*source, *special.joint], [0] * (len(source) + len(special.joint)), [], [])
    for position, token in enumerate(target):
        row.ids.append(MASK if position in hidden else token)
        row.segments.append(1)
        if position in hidden:
            row.labels.append(token)
            row.target_rows.append(first + position)
    return row


IDS = st.lists(st.integers(10, 60_000), min_size=1, max_size=9)
ROWS: st.SearchStrategy[Rows] = st.lists(st.tuples(IDS, IDS) | st.just(([], [])), max_size=7)
SPECIALS = st.sampled_from([BERT, ROBERTA])


@settings(deadline=None)
@given(ROWS, st.integers(1, 12), st.integers(1, 80), SPECIALS)
def test_partition_equals_the_slow_loop(rows: Rows, passes: int, max_tokens: int, special: SpecialIds) -> None:
    """The batches hold the views of a loop over pairs and passes, each once, and every target position once.

    Views come longest first, and no batch ends while another view would have fitted, or as many as make whole blocks of
    32 tokens.
    """
    pairs = pack(rows)
    batches = list(partition_batches(pairs, passes, max_tokens, special))
    found = [row for views in batches for row in rows_of(views)]
    expected = [
        slow_view(pairs, pair, set(range(one, n, passes)), special)
        for pair, n in enumerate(pairs.target_lengths.tolist())
        for one in range(min(passes, n))
    ]
    assert sorted(map(repr, found)) == sorted(map(repr, expected))
    masked = sorted(row for view in found for row in view.target_rows)
    assert masked == list(range(pairs.n_targets))
    for views in batches:
        assert views.labels.tolist() == pairs.target_ids[views.target_rows].tolist()
        assert views.input_ids.size <= max_tokens or len(views.input_ids) == 1
    lengths = [length for views in batches for length in views.lengths.tolist()]
    assert lengths == sorted(lengths, reverse=True)
    for views in batches[:-1]:
        count, length = views.input_ids.shape
        fitting = range(count + 1, max_tokens // length + 1)
        assert not fitting or (count * length % 32 == 0 and all(more * length % 32 for more in fitting))


@settings(deadline=None)
@given(ROWS, st.integers(1, 12))
def test_short_targets_need_no_more_passes_than_positions(rows: Rows, passes: int) -> None:
    """A target of N positions has min(P, N) views, a skipped pair none, and a pair's views lie side by side."""
    pairs = pack(rows)
    chosen, residues = partition_views(pairs, passes)
    for pair, n in enumerate(pairs.target_lengths.tolist()):
        own = np.flatnonzero(chosen == pair)
        assert residues[own].tolist() == list(range(min(passes, n)))
        assert len(own) == 0 or own[-1] - own[0] == len(own) - 1


def test_partition_by_hand() -> None:
    """Two passes over (x = 10 11, y = 20 21) hide y1 and the end token, then y2, in segments 0 and 1."""
    pairs = pack([([], []), ([10, 11], [20, 21])])
    (views,) = partition_batches(pairs, 2, 100, BERT)
    assert views.input_ids.tolist() == [[START, 10, 11, END, MASK, 21, MASK], [START, 10, 11, END, 20, MASK, END]]
    assert views.segment_ids.tolist() == [[0, 0, 0, 0, 1, 1, 1]] * 2
    assert views.masked.tolist() == [4, 6, 12]
    assert views.labels.tolist() == [20, END, 21]
    assert views.target_rows.tolist() == [0, 2, 1]
    (views,) = partition_batches(pairs, 1, 100, ROBERTA)
    assert views.input_ids.tolist() == [[START, 10, 11, END, JOINT, MASK, MASK, MASK]]
    assert views.segment_ids.tolist() == [[0, 0, 0, 0, 0, 1, 1, 1]]
    assert view_lengths(pairs, ROBERTA).tolist() == [0, 8]


@pytest.mark.parametrize("passes", [0, -1])
def test_passes_must_be_positive(passes: int) -> None:
    """No pass at all is a usage error."""
    with pytest.raises(UsageError, match=f"--passes must be at least 1, not {passes}"):
        list(partition_batches(pack([([10], [20])]), passes, 10, BERT))


@settings(deadline=None)
@given(ROWS.filter(lambda rows: any(target for _, target in rows)), SPECIALS, st.integers(0, 2**32), st.data())
def test_random_views_mask_target_positions_only(
    rows: Rows, special: SpecialIds, seed: int, data: st.DataObject
) -> None:
    """For rows in any order: a random view is the loop's view of some target positions, at least one and 15 %."""
    pairs = pack(rows)
    usable = np.flatnonzero(pairs.target_lengths).tolist()
    chosen = data.draw(st.lists(st.sampled_from(usable), min_size=1, max_size=8))
    views = random_views(pairs, np.array(chosen), np.random.default_rng(seed), special)
    for pair, row in zip(chosen, rows_of(views), strict=True):
        n = int(pairs.target_lengths[pair])
        hidden = {position - int(pairs.target_offsets[pair]) for position in row.target_rows}
        assert row == slow_view(pairs, pair, hidden, special)
        assert len(hidden) in {max(1, int(MASKED_SHARE * n)), max(1, int(MASKED_SHARE * n) + 1)}


def test_a_skipped_pair_between_others_gets_no_mask() -> None:
    """A row without tokens stays padding, while its neighbours are masked."""
    pairs = pack([([10], [20, 21]), ([], []), ([10], [20])])
    views = random_views(pairs, np.arange(3), np.random.default_rng(0), BERT)
    assert views.input_ids[1].tolist() == [PAD] * views.input_ids.shape[1]
    assert sorted(views.masked // views.input_ids.shape[1]) == [0, 2]


def test_random_views_follow_their_generator() -> None:
    """The same generator state gives the same masks, the next draw others."""
    pairs = pack([(list(range(10, 40)), list(range(100, 140)))] * 5)
    generator = np.random.default_rng(5)
    first, second = (random_views(pairs, np.arange(5), generator, BERT).masked.tolist() for _ in range(2))
    again = random_views(pairs, np.arange(5), np.random.default_rng(5), BERT).masked.tolist()
    assert first == again != second


def test_random_views_mask_15_percent_on_average() -> None:
    """Where 15 % of N reaches one position, the masked share is 15 %, and every position is as likely as another.

    A row masks floor(0.15 N + U) positions: variance at most 1/4. A position is masked with variance 0.15 · 0.85.
    Bounds are 6 standard deviations.
    """
    lengths = [7, 8, 13, 20, 41] * 4_000
    pairs = pack([([10], [50] * (n - 1)) for n in lengths])
    views = random_views(pairs, np.arange(len(lengths)), np.random.default_rng(11), BERT)
    expected = MASKED_SHARE * sum(lengths)
    assert abs(len(views.masked) - expected) < 6 * np.sqrt(len(lengths)) / 2
    rows, columns = np.divmod(views.masked, views.input_ids.shape[1])
    for n in set(lengths):
        own = np.array(lengths)[rows] == n
        counts = np.bincount(columns[own] - 3, minlength=n)
        assert len(counts) == n
        assert np.all(np.abs(counts - 0.15 * 4_000) < 6 * np.sqrt(4_000 * 0.15 * 0.85))
