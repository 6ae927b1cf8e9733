"""Shards of drawn words and of normalizers: they come back bit for bit, and every rule of theirs is held."""

from __future__ import annotations

import dataclasses
from typing import Any

import caches
import h5py
import numpy as np
import pytest
from caches import drawn_arrays, drawn_plan, log_probs_of, make_pairs, make_plan
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache import schema
from kdcache.cache.hdf5 import _chunk_shape, write_image
from kdcache.cache.plan import Plan
from kdcache.cache.shard import ShardArrays, decode_shard, encode_shard
from kdcache.errors import CorruptError
from kdcache.labels.soft_labels import SoftLabels, from_counts

TEMPERATURES = (0.5, 2.0, 10.0)


def normalized(temperatures: tuple[float, ...], topk: int = 4) -> tuple[Plan, ShardArrays]:
    """The k best words with the normalizers of the distributions that they come from."""
    plan = dataclasses.replace(make_plan(8, 8, topk), temperatures=temperatures)
    pairs = make_pairs(plan, 0)
    dense = log_probs_of(plan, pairs.n_targets, 5)
    ids = np.argsort(-dense, axis=1, kind="stable")[:, :topk]
    values = np.take_along_axis(dense, ids, axis=1).astype(np.float16)
    normalizers = np.stack([np.logaddexp.reduce(dense / t, axis=1) for t in temperatures], axis=1)
    labels = SoftLabels(ids.astype(np.uint16), values, normalizers.astype(np.float32))
    own = dense[np.arange(pairs.n_targets), pairs.target_ids].astype(np.float16)
    return plan, ShardArrays(pairs, labels, own)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([1, 3, 50, 255, 256, 1_000]),
    st.sampled_from([8, 40, 300]),
    st.sampled_from([0.0, 0.5, 1.0]),
    st.integers(0, 99),
)
def test_drawn_words_come_back_bit_for_bit(draws: int, vocabulary: int, skipped: float, seed: int) -> None:
    """Decoding gives exactly what was encoded, with counts of one byte up to 255 draws, of two beyond."""
    plan = drawn_plan(draws, 5, vocabulary)
    arrays = drawn_arrays(plan, seed, skipped)
    assert caches.equal(decode_shard(encode_shard(arrays, plan, 0), plan, 0, "here"), arrays)
    dtype, shape = schema.datasets(plan, 1, 2, 3)["counts"]
    assert (dtype.itemsize, shape) == (1 if draws < 256 else 2, (3, plan.topk))


def test_what_is_stored_of_drawn_words() -> None:
    """On disk unused columns are 0 in ids and counts, and the sums say nothing of words that only fill columns."""
    plan = drawn_plan(50)
    arrays = drawn_arrays(plan)
    with h5py.File(h5py.h5f.open_file_image(encode_shard(arrays, plan, 0))) as file:
        ids, counts = file["topk_ids"][()], file["counts"][()]
        assert set(file) == set(schema.datasets(plan, 0, 0, 0))
        assert "topk_log_probs" not in file
    assert (counts.sum(axis=1) == 50).all()
    assert (counts == 0).any()
    assert (ids[counts == 0] == 0).all()
    sums = arrays.sums(1, plan)
    words = [set(i[c > 0].tolist()) for i, c in zip(ids, counts, strict=True)]
    assert sums.known == sum(int(t) in w for t, w in zip(arrays.pairs.target_ids, words, strict=True))
    assert sums.best == int((ids[:, 0] == arrays.pairs.target_ids).sum())
    assert sums.mass == pytest.approx(arrays.pairs.n_targets, rel=1e-6)
    assert sums.rounding == 0


BROKEN: dict[str, tuple[str, int | tuple[int, int], int, str]] = {
    "a count too many": ("counts", (0, 0), 1, "do not add up to 20 draws"),
    "an id outside": ("topk_ids", (0, 0), 5_000, "outside the vocabulary"),
    "an id without a count": ("topk_ids", (0, -1), 3, "not drawn has an id other than 0"),
    "more than all draws": ("counts", (0, 0), 200, "above the 20 draws"),
}


def image(plan: Plan, index: int, arrays: ShardArrays, change: Any) -> bytes:
    """The bytes of a shard whose stored arrays were changed."""
    with h5py.File(h5py.h5f.open_file_image(encode_shard(arrays, plan, index))) as file:
        values = {name: file[name][()] for name in file}
    change(values)
    return write_image(caches.attributes(plan, index), values, plan.encoding.filters)


@pytest.mark.parametrize("rule", BROKEN)
def test_each_broken_rule_of_draws_is_refused(rule: str) -> None:
    """Counts and ids that no draw gives are refused, and the rule is named."""
    name, place, more, message = BROKEN[rule]
    plan = drawn_plan(20)

    def change(values: dict[str, Any]) -> None:
        values[name][place] += more

    with pytest.raises(CorruptError, match=message):
        decode_shard(image(plan, 0, drawn_arrays(plan), change), plan, 0, "here")


@pytest.mark.parametrize(("columns", "message"), [((0, 0), "a word twice"), ((1, 0), "falling count and rising id")])
def test_drawn_words_have_one_order(columns: tuple[int, int], message: str) -> None:
    """A word that stands twice, and words whose order is another, are refused."""
    plan = drawn_plan(20)

    def change(values: dict[str, Any]) -> None:
        row = int(np.flatnonzero((values["counts"][:, 0] > values["counts"][:, 1]) & (values["counts"][:, 1] > 0))[0])
        ids, counts = values["topk_ids"][row].copy(), values["counts"][row].copy()
        values["topk_ids"][row, :2] = ids[list(columns)]
        if columns[0] != columns[1]:
            values["counts"][row, :2] = counts[list(columns)]

    with pytest.raises(CorruptError, match=message):
        decode_shard(image(plan, 0, drawn_arrays(plan), change), plan, 0, "here")


def sure(n_pairs: int, draws: int) -> tuple[Plan, ShardArrays]:
    """Pairs of three equal words, of each of which a teacher that is sure always draws word 0."""
    plan = dataclasses.replace(drawn_plan(draws, n_pairs, draws), positions=8)
    offsets = 3 * np.arange(n_pairs + 1)
    ids = np.zeros(3 * n_pairs, dtype=np.uint16)
    counts = np.zeros((len(ids), plan.topk), dtype=np.uint8 if draws < 256 else np.uint16)
    counts[:, 0] = draws
    soft = from_counts(np.zeros((len(ids), plan.topk), dtype=np.uint16), counts, draws)
    return plan, ShardArrays(caches.EncodedPairs(ids, offsets, ids, offsets), soft, np.zeros(len(ids), np.float16))


@pytest.mark.parametrize(("n_pairs", "draws"), [(31_000, 255), (1, 40_000)])
def test_sure_draws_can_be_read_again(n_pairs: int, draws: int) -> None:
    """Where a teacher always draws one word, arrays of 71 MB compress to nothing; the file is as large as needed.

    That is a sixteenth of what the arrays have beyond 64 MiB, so that the reader's guard accepts it; that of a single
    pair, whose arrays are below 64 MiB, may be small.
    """
    plan, arrays = sure(n_pairs, draws)
    data = encode_shard(arrays, plan, 0)
    total = arrays.soft.token_ids.size * (2 + (1 if draws < 256 else 2))
    assert len(data) > (total - (64 << 20)) / 16
    assert len(data) < 10_000 or n_pairs > 1
    assert caches.equal(decode_shard(data, plan, 0, "here"), arrays)


def test_chunks_stay_below_what_hdf5_takes() -> None:
    """Rows of 120 KB come in chunks of fewer rows, each below 4 GiB; ordinary rows in chunks of up to 65,536."""
    assert _chunk_shape((65_536, 60_000), np.dtype("u2")) == (32_768, 60_000)
    assert _chunk_shape((65_536, 32_767), np.dtype("u2")) == (65_536, 32_767)
    assert _chunk_shape((65_537, 8), np.dtype("u2")) == (32_769, 8)


@pytest.mark.parametrize("k", [1, 4, 40])
def test_normalizers_come_back_bit_for_bit(k: int) -> None:
    """Decoding gives exactly the normalizers that were encoded, at one temperature or several."""
    for count in (1, 3):
        plan, arrays = normalized(TEMPERATURES[:count], k)
        back = decode_shard(encode_shard(arrays, plan, 0), plan, 0, "here")
        assert caches.equal(back, arrays)
        assert back.soft.log_normalizers is not None
        assert back.soft.log_normalizers.shape == (arrays.pairs.n_targets, count)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (1, np.nan, "log_normalizers at temperature 2.0 outside"),
        (1, -0.01, "log_normalizers at temperature 2.0 outside"),
        (0, 0.01, "log_normalizers at temperature 0.5 outside"),
        (2, 50.0, "log_normalizers at temperature 10.0 outside"),
        (2, 0.0, "hold a mass of .* at T = 10.0"),
    ],
)
def test_normalizers_that_no_distribution_has_are_refused(column: int, value: float, message: str) -> None:
    """A normalizer outside what a vocabulary allows, or one at which the k words hold more than 1, is refused."""
    plan, arrays = normalized(TEMPERATURES)
    found = arrays.soft.log_normalizers
    assert found is not None
    found[0, column] = value
    with pytest.raises(CorruptError, match=message):
        encode_shard(arrays, plan, 0)


def test_normalizers_must_be_what_the_plan_says() -> None:
    """Normalizers that the plan does not name, none where it names some, and too few columns are refused."""
    plan, arrays = normalized(TEMPERATURES)
    without = dataclasses.replace(arrays, soft=dataclasses.replace(arrays.soft, log_normalizers=None))
    fewer = dataclasses.replace(plan, temperatures=TEMPERATURES[:2])
    for bad_plan, bad in ((plan, without), (fewer, arrays), (dataclasses.replace(plan, temperatures=()), arrays)):
        with pytest.raises(CorruptError, match="log_normalizers"):
            encode_shard(bad, bad_plan, 0)
