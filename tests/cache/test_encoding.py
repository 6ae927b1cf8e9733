"""How log-probabilities are stored: rounding, order, exact return, and what it costs."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import caches
import h5py
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache.audit import verify_shard
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.number_encoding import NAMES, Encoding
from kdcache.cache.plan import Plan
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays, decode_shard, encode_shard
from kdcache.dump.dump_config import ENCODINGS
from kdcache.errors import CorruptError
from kdcache.inspection.cache_summary import summarize
from kdcache.labels.soft_labels import SoftLabels


def distributions(count: int, size: int, k: int, sharpness: float) -> npt.NDArray[np.float64]:
    """Log-probabilities [count, k] of the best of dense random distributions over `size` words."""
    logits = np.random.default_rng(int(sharpness * 10)).normal(0, sharpness, (count, size))
    log_probs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return -np.sort(-log_probs, axis=1)[:, :k]


def plan_for(name: str, n_pairs: int = 30, topk: int = 4) -> Plan:
    """A plan with the encoding called `name`."""
    plan = caches.make_plan(n_pairs, n_pairs, topk=topk)
    return dataclasses.replace(plan, encoding=Encoding.named(name, plan.vocabulary))


def rounded(arrays: ShardArrays, encoding: Encoding) -> ShardArrays:
    """The arrays with log-probabilities that the encoding can store."""
    topk = SoftLabels(arrays.soft.token_ids, encoding.round(arrays.soft.log_probs))
    return ShardArrays(arrays.pairs, topk, encoding.round(arrays.target_log_prob))


def test_names_are_those_that_users_can_ask_for() -> None:
    """The command line offers exactly the encodings that exist."""
    assert set(ENCODINGS) == set(NAMES)


def test_codes_by_hand() -> None:
    """The compact code of log p is the rounded √(−log p) · 51: 0 for certainty, 51 for 1/e, 255 for e^-25 and below."""
    encoding = Encoding("uint16", "sqrt8")
    values = np.array([0, -1, -4, -9, -25, -30, -0.0001], dtype=np.float32)
    np.testing.assert_array_equal(encoding.pack(encoding.round(values)), [0, 51, 102, 153, 255, 255, 1])
    np.testing.assert_allclose(encoding.round(values)[:5], [0, -1, -4, -9, -25], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
@given(values=st.lists(st.floats(-70, 0, width=32), min_size=1, max_size=50))
def test_rounding_happens_once_and_keeps_the_order(name: str, values: list[float]) -> None:
    """Stored values come back as they were rounded, rounding them again changes nothing, and order is kept."""
    encoding = Encoding.named(name, 100)
    falling = np.array(sorted(values, reverse=True), dtype=np.float32)
    first = encoding.round(falling)
    np.testing.assert_array_equal(encoding.unpack(encoding.pack(first)), first)
    np.testing.assert_array_equal(encoding.round(first), first)
    assert (np.diff(first.astype(np.float64)) <= 0).all()
    assert np.isfinite(first).all()


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_stays_so(name: str) -> None:
    """Rounding hides neither not-a-number nor minus infinity, which nobody may store."""
    found = Encoding.named(name, 100).round(np.array([np.nan, -np.inf, -1.0], dtype=np.float32))
    np.testing.assert_array_equal(np.isfinite(found), [False, False, True])


@pytest.mark.parametrize("name", ["float16", "compact"])
@pytest.mark.parametrize("sharpness", [1.0, 3.0, 6.0])
def test_the_expected_cost_of_rounding_is_the_real_one(name: str, sharpness: float) -> None:
    """The estimate from stored values lies within 15 % of the total variation that rounding really caused."""
    encoding = Encoding.named(name, 1_000)
    exact = distributions(4_000, 300, 8, sharpness)
    stored = encoding.round(exact).astype(np.float64)
    change = np.exp(exact) - np.exp(stored)
    measured = (np.abs(change).sum(axis=1) + np.abs(change.sum(axis=1))) / 2
    assert encoding.rounding_error(stored).mean() == pytest.approx(measured.mean(), rel=0.15)


@pytest.mark.parametrize("name", ["float16", "compact"])
@pytest.mark.parametrize("k", [1, 2, 8, 64, 300])
def test_mass_stays_within_its_tolerance(name: str, k: int) -> None:
    """However the steps fall, the rounded probabilities of k words sum to at most 1 and the tolerance."""
    encoding = Encoding.named(name, 1_000)
    for sharpness in (0.0, 0.1, 1.0, 3.0, 6.0):
        rounded_up = encoding.round(distributions(500, max(k, 2), k, sharpness)).astype(np.float64)
        assert np.exp(rounded_up).sum(axis=1).max() <= 1 + encoding.mass_tolerance(k)
    assert encoding.mass_tolerance(k) < 0.06


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=15)
@given(topk=st.integers(1, 12), n_pairs=st.integers(1, 40))
def test_shards_come_back_exactly(name: str, topk: int, n_pairs: int) -> None:
    """In every encoding a shard gives back the arrays that went in, bit by bit."""
    plan = plan_for(name, n_pairs, topk)
    arrays = rounded(caches.make_arrays(plan, 0), plan.encoding)
    assert caches.equal(decode_shard(encode_shard(arrays, plan, 0), plan, 0, "here"), arrays)


def test_encodings_differ_on_disk() -> None:
    """Compact shards are smaller than float16 ones, uncompressed ones larger, and each says so to any reader."""
    sizes = {}
    for name in NAMES:
        plan = plan_for(name, 400, 8)
        image = encode_shard(rounded(caches.make_arrays(plan, 0), plan.encoding), plan, 0)
        sizes[name] = len(image)
        with h5py.File(h5py.h5f.open_file_image(image)) as file:
            dataset = file["topk_log_probs"]
            assert dataset.dtype == (np.uint8 if name == "compact" else np.float16)
            assert dataset.compression == (None if name == "uncompressed" else "gzip")
            assert dataset.fletcher32
    assert sizes["compact"] < sizes["float16"] < sizes["uncompressed"]


@pytest.mark.parametrize("name", NAMES)
def test_fault_23_bits_flipped_in_every_encoding(name: str) -> None:
    """With the SHA-256 check left out, a flipped bit in any encoding is refused or changes nothing."""
    plan = plan_for(name, 60)
    image = encode_shard(rounded(caches.make_arrays(plan, 0), plan.encoding), plan, 0)
    expected = decode_shard(image, plan, 0, "here")
    generator = np.random.default_rng(5)
    refused = 0
    for bit in generator.integers(0, 8 * len(image), 200):
        damaged = bytearray(image)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            found = decode_shard(bytes(damaged), plan, 0, "here")
        except CorruptError:
            refused += 1
            continue
        assert caches.equal(found, expected)
    assert refused > 100


@pytest.mark.parametrize("name", NAMES)
def test_summary_and_verify_know_the_cost(name: str, tmp_path: Path) -> None:
    """`inspect` reports the expected cost of rounding, `verify` accepts it, and compact costs more than float16."""
    plan = plan_for(name, 60)
    writer = CacheWriter(tmp_path / "cache", plan, caches.tokenizer())
    writer.commit(0, rounded(caches.make_arrays(plan, 0), plan.encoding))
    assert writer.finalize()
    cost = summarize(CacheReader(tmp_path / "cache")).rounding
    assert (5e-4 < cost < 2e-2) if name == "compact" else (0 < cost < 5e-4)
    assert verify_shard(CacheReader(tmp_path / "cache"), 0) == []
