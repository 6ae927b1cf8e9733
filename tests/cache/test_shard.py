"""One shard: arrays to bytes and back, and every rule that both must obey."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Callable
from typing import Any

import caches
import h5py
import numpy as np
import pytest
from caches import make_arrays, make_pairs, make_plan
from faults import python
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.cache import hdf5
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.plan import Plan, check_plan
from kdcache.cache.shard import ShardArrays, check_arrays, decode_shard, encode_shard
from kdcache.errors import CorruptError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.text.encoded_pairs import EncodedPairs

RESERVED = 5


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Plans of one shard with small and large vocabularies, k from 1 to the whole vocabulary."""
    vocabulary = draw(st.sampled_from([8, 40, 300]))
    topk = draw(st.sampled_from([1, 2, 8, vocabulary]))
    n_pairs = draw(st.integers(1, 12))
    plan = make_plan(n_pairs, n_pairs, topk, vocabulary)
    return dataclasses.replace(plan, encoding=Encoding(draw(st.sampled_from(["uint16", "uint32"]))))


@settings(deadline=None, max_examples=60)
@given(plans(), st.sampled_from([0.0, 0.3, 1.0]), st.integers(0, 1_000))
def test_a_shard_comes_back_bit_for_bit(plan: Plan, skipped: float, seed: int) -> None:
    """Decoding gives exactly the arrays that were encoded, with skipped pairs, k = 1 and k = the vocabulary."""
    arrays = caches.label(make_pairs(plan, 0, skipped=skipped), plan, seed)
    back = decode_shard(encode_shard(arrays, plan, 0), plan, 0, "here")
    assert caches.equal(back, arrays)
    assert back.soft.token_ids.dtype == np.dtype(plan.encoding.ids)


@pytest.mark.parametrize("n_targets", [65_535, 65_536, 65_537, 140_000])
def test_arrays_of_several_chunks_come_back(n_targets: int) -> None:
    """Arrays around and above the size of a chunk come back; what pads the last chunk does not."""
    plan = make_plan(n_targets, n_targets, 8, 8_000)
    arrays = caches.large_arrays(plan, 1)
    assert caches.equal(decode_shard(encode_shard(arrays, plan, 0), plan, 0, "here"), arrays)


def test_ids_above_16_bits_come_back() -> None:
    """A vocabulary of more than 65,536 words is stored in 32 bits, its last id included."""
    plan = make_plan(1, 1, 2, 70_000)
    assert plan.encoding.ids == "uint32"
    pairs = EncodedPairs(np.array([0, 69_999]), np.array([0, 2]), np.array([69_999]), np.array([0, 1]))
    topk = SoftLabels(np.array([[65_536, 69_999]]), np.array([[-0.5, -2]], np.float16))
    back = decode_shard(encode_shard(ShardArrays(pairs, topk, np.array([-2], np.float16)), plan, 0), plan, 0, "here")
    assert back.pairs.source_ids.tolist() == [0, 69_999]
    assert back.soft.token_ids.tolist() == [[65_536, 69_999]]


def test_h5py_alone_reads_the_same_values() -> None:
    """HDF5's own filters give the values that our inflation gives: the file is ordinary HDF5."""
    plan = make_plan(20_000, 20_000, 8, 8_000)
    arrays = caches.large_arrays(plan, 2)
    data = encode_shard(arrays, plan, 0)
    with h5py.File(h5py.h5f.open_file_image(data)) as file:
        found = {name: file[name][()] for name in file}
        assert file["topk_ids"].fletcher32
        assert file.attrs["format"] == b"kdcache"
    assert np.array_equal(found["topk_ids"], arrays.soft.token_ids)
    assert np.array_equal(found["topk_log_probs"], arrays.soft.log_probs)
    assert np.array_equal(found["target_log_prob"], arrays.target_log_prob)
    assert np.array_equal(found["source_ids"], arrays.pairs.source_ids)
    assert np.array_equal(found["target_offsets"], arrays.pairs.target_offsets)


def test_equal_arrays_give_equal_bytes_in_two_processes() -> None:
    """Two processes write byte-identical shards from equal arrays, which resuming relies on."""
    code = (
        "import caches, hashlib, sys; from kdcache.cache.shard import encode_shard; p = caches.make_plan(40, 40);"
        "print(hashlib.sha256(encode_shard(caches.make_arrays(p, 0), p, 0)).hexdigest())"
    )
    found = [python("-c", code, PYTHONHASHSEED=str(seed)).stdout.strip() for seed in (1, 2)]
    plan = make_plan(40, 40)
    assert found == [hashlib.sha256(encode_shard(make_arrays(plan, 0), plan, 0)).hexdigest()] * 2


def test_nothing_lies_in_the_global_heap() -> None:
    """A shard uses no structure of HDF5 without a checksum: a flipped bit in its global heap can hang the library."""
    plan = make_plan()
    data = encode_shard(make_arrays(plan, 0), plan, 0)
    assert data.count(b"OHDR") == 8
    assert b"GCOL" not in data


def handmade() -> tuple[Plan, ShardArrays]:
    """Two pairs with 2 and 1 target words; k = 2. Probabilities are 1/2, 1/4 and less, to the precision of float16."""
    plan = dataclasses.replace(make_plan(2, 2, 2, 10), positions=8)
    half, quarter, rest = np.log([0.5, 0.25, 0.01]).astype(np.float16)
    pairs = EncodedPairs(
        np.array([1, 5, 2, 1, 6, 2], np.uint16),
        np.array([0, 3, 6]),
        np.array([7, 2, 8], np.uint16),
        np.array([0, 2, 3]),
    )
    topk = SoftLabels(
        np.array([[7, 9], [5, 2], [6, 5]], np.uint16),
        np.array([[half, quarter], [half, quarter], [half, quarter]], np.float16),
    )
    return plan, ShardArrays(pairs, topk, np.array([half, quarter, rest], np.float16))


Change = Callable[[dict[str, Any]], None]


def put(name: str, index: Any, value: Any) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name][index] = value

    return change


def cut(name: str) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = arrays[name][:-1]

    return change


BROKEN = {
    "offset does not start at 0": (put("source_offsets", 0, 1), "source_offsets do not divide"),
    "offset falls": (put("target_offsets", 1, 4), "target_offsets do not divide"),
    "offsets end early": (put("target_offsets", 2, 2), "target_offsets do not divide"),
    "a target too few": (cut("target_offsets"), "target_offsets do not divide"),
    "a pair too few": (cut("source_offsets"), "holds 1 pairs, the plan says 2"),
    "source id outside": (put("source_ids", 1, 10), "source_ids outside the vocabulary"),
    "target id outside": (put("target_ids", 0, 10), "target_ids outside the vocabulary"),
    "one side empty": (put("target_offsets", 1, 0), "one empty side"),
    "too long for the teacher": (
        lambda a: a.update(
            source_ids=np.array([1, 5, 5, 5, 5, 5, 2, 1, 2], np.uint16), source_offsets=np.array([0, 7, 9])
        ),
        "a pair of 9 tokens, the teacher has 8",
    ),
    "a position without labels": (cut("token_ids"), "shapes"),
    "a position without its own": (cut("target_log_prob"), "shapes"),
    "a column too few": (lambda a: a.update(log_probs=a["log_probs"][:, :1]), "shapes"),
    "stored id outside": (put("token_ids", (2, 1), 10), "topk_ids outside the vocabulary"),
    "a word twice": (put("token_ids", (2, 1), 6), "a word twice"),
    "not a number": (put("log_probs", (0, 0), np.nan), "topk_log_probs holds a value that is not finite"),
    "minus infinity": (put("log_probs", (2, 1), -np.inf), "topk_log_probs holds a value that is not finite"),
    "plus infinity": (put("log_probs", (0, 0), np.inf), "topk_log_probs holds a log-probability above 0"),
    "above 0": (put("log_probs", (0, 0), 0.001), "topk_log_probs holds a log-probability above 0"),
    "own not a number": (put("target_log_prob", 2, np.nan), "target_log_prob holds a value that is not finite"),
    "own above 0": (put("target_log_prob", 2, 0.001), "target_log_prob holds a log-probability above 0"),
    "rising": (put("log_probs", (2, 0), -3), "do not fall"),
    "mass above 1": (put("log_probs", (2, slice(None)), [-0.6, -0.6]), "mass of 1.09"),
    "written word differs": (put("target_log_prob", 0, -0.7), "1 positions, first in pair 0"),
    "own above the last of the k": (put("target_log_prob", 2, -1.2), "1 positions, first in pair 1"),
}


@pytest.mark.parametrize("rule", BROKEN)
def test_each_broken_rule_is_refused(rule: str) -> None:
    """Every rule of the format, broken alone, is named, before writing and after reading."""
    plan, arrays = handmade()
    check_arrays(arrays, plan, 0, "here")
    change, message = BROKEN[rule]
    pairs = arrays.pairs
    values = {
        "source_ids": pairs.source_ids.copy(),
        "source_offsets": pairs.source_offsets.copy(),
        "target_ids": pairs.target_ids.copy(),
        "target_offsets": pairs.target_offsets.copy(),
        "token_ids": arrays.soft.token_ids.copy(),
        "log_probs": arrays.soft.log_probs.copy(),
        "target_log_prob": arrays.target_log_prob.copy(),
    }
    change(values)
    texts = [values[name] for name in ("source_ids", "source_offsets", "target_ids", "target_offsets")]
    broken = ShardArrays(
        EncodedPairs(*texts), SoftLabels(values["token_ids"], values["log_probs"]), values["target_log_prob"]
    )
    with pytest.raises(CorruptError, match=message):
        encode_shard(broken, plan, 0)
    with pytest.raises(CorruptError):
        decode_shard(caches.image(plan, 0, broken), plan, 0, "here")


def test_offsets_whose_differences_wrap_around_are_refused() -> None:
    """Offsets that rise only modulo 2^64 are refused: their differences look like lengths of a valid shard."""
    plan, arrays = handmade()
    plan = dataclasses.replace(plan, n_pairs=4, shard_pairs=4)
    top = 2**63 - 1
    offsets = np.array([0, top, -top, 0, 6])
    with np.errstate(over="ignore"):
        assert (np.diff(offsets) >= 0).all()
    pairs = dataclasses.replace(arrays.pairs, source_offsets=offsets, target_offsets=np.array([0, 1, 1, 2, 3]))
    with pytest.raises(CorruptError, match="source_offsets do not divide"):
        check_arrays(dataclasses.replace(arrays, pairs=pairs), plan, 0, "here")


@pytest.mark.parametrize("shift", [1, -1, 5])
def test_rows_that_slipped_are_found(shift: int) -> None:
    """Soft labels moved against their words by any number of rows are refused: a join by position cannot go wrong."""
    plan = make_plan(30, 30)
    arrays = make_arrays(plan, 0)
    rows = np.roll(np.arange(arrays.pairs.n_targets), shift)
    slipped = dataclasses.replace(arrays, soft=arrays.soft.take(rows))
    with pytest.raises(CorruptError, match="rows have slipped against their words"):
        check_arrays(slipped, plan, 0, "here")
    moved = dataclasses.replace(slipped, target_log_prob=arrays.target_log_prob[rows])
    with pytest.raises(CorruptError, match="rows have slipped against their words"):
        check_arrays(moved, plan, 0, "here")


def test_one_other_text_is_found() -> None:
    """Soft labels beside another text of the same lengths are refused."""
    plan = make_plan(30, 30)
    arrays = make_arrays(plan, 0)
    words = (arrays.pairs.target_ids - RESERVED + 1) % (plan.vocabulary - RESERVED) + RESERVED
    other = dataclasses.replace(arrays.pairs, target_ids=words.astype(np.uint16))
    with pytest.raises(CorruptError, match="rows have slipped"):
        check_arrays(dataclasses.replace(arrays, pairs=other), plan, 0, "here")


def test_the_last_shard_may_be_shorter() -> None:
    """The shard at the end of the plan holds the pairs that are left, and is that shard only."""
    plan = make_plan(20, 8)
    data = encode_shard(make_arrays(plan, 2), plan, 2)
    assert decode_shard(data, plan, 2, "here").pairs.n_pairs == 4
    with pytest.raises(CorruptError, match=r"attribute shard is .*2.*, expected 1"):
        decode_shard(data, plan, 1, "here")


def test_a_shard_of_another_plan_is_refused() -> None:
    """A shard whose plan differs in anything, even without a trace in its arrays, is refused by the plan's hash."""
    plan = make_plan()
    data = encode_shard(make_arrays(plan, 0), plan, 0)
    with pytest.raises(CorruptError, match="attribute plan is"):
        decode_shard(data, dataclasses.replace(plan, passes=5), 0, "here")


def test_the_message_opens_with_the_place() -> None:
    """What is wrong with a shard is said together with where it lies."""
    with pytest.raises(CorruptError, match=re.escape("some/where.h5: ")):
        decode_shard(b"no HDF5 at all", make_plan(), 0, "some/where.h5")


@pytest.mark.parametrize("rows", [1, 3, 65_536])
@pytest.mark.parametrize("dtype", ["u1", "<u2", "<u4", "<i8", "<f2", "<f4"])
def test_unshuffling_equals_hdf5(rows: int, dtype: str) -> None:
    """Our inverse of the shuffle filter equals HDF5's for every item size in use."""
    values = np.random.default_rng(rows).integers(0, 60_000, (rows, 3)).astype(dtype)
    data = hdf5.write_image({"a": 1}, {"x": values}, "gzip")
    with hdf5.open_image(data, "here", {"a": 1}, {"x"}) as image:
        found = image.read({"x": (np.dtype(dtype), (rows, 3))}, "gzip")["x"]
    with h5py.File(h5py.h5f.open_file_image(data)) as file:
        assert found.tobytes() == file["x"][()].tobytes() == values.tobytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_pairs": 0}, "below 1"),
        ({"topk": 200, "vocabulary": 100}, "200 words of a vocabulary of 100"),
        ({"vocabulary": 65_537}, "uint16 cannot hold the ids of 65537 words"),
        ({"encoding": Encoding("uint8")}, "unknown encoding"),
        ({"maskings": 0}, "0 maskings"),
        ({"draws": 65_536}, "65536 draws"),
        ({"seed": -1}, "seed -1"),
        ({"draws": 50}, "50 draws in 4 columns"),
        ({"temperatures": (5.0, 2.0)}, "they rise"),
        ({"temperatures": (0.0,)}, "they rise"),
        ({"temperatures": (1.0, 2.0)}, "1 is not among them"),
        ({"temperatures": (2.0,), "draws": 4}, "normalizers belong to the k best words as float16"),
        ({"temperatures": (2.0,), "encoding": Encoding("uint16", "sqrt8")}, "belong to the k best words as float16"),
    ],
)
def test_plans_that_cannot_be_carried_out_are_refused(changes: dict[str, Any], message: str) -> None:
    """A plan with no pairs, more words than the vocabulary, or ids that do not fit their type is refused."""
    with pytest.raises(CorruptError, match=message):
        check_plan(dataclasses.replace(make_plan(), **changes), "here")


def test_shard_boundaries_are_exact_for_any_number() -> None:
    """Numbers of pairs beyond 2^53 are divided exactly, and absurd ones do not overflow."""
    plan = make_plan(2**60 + 1, 2)
    assert plan.n_shards == 2**59 + 1
    assert make_plan(10**400, 1).n_shards == 10**400
