"""The dump: every target position once, with what a slow, obvious loop over the library's model says about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from model_families import save_family
from models import all_lines, save_bert, slow_distributions, toy_lines, toy_pairs, toy_text, write_text

from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.dump import dump_job, dump_shards
from kdcache.dump.dump_config import ENCODINGS, DumpConfig, VerifyConfig
from kdcache.dump.dump_forecast import forecast
from kdcache.dump.dump_job import shard_pairs_by_work
from kdcache.dump.dump_shards import dump
from kdcache.dump.verification import verify
from kdcache.errors import DataError, MismatchError, UsageError
from kdcache.inspection.cache_summary import summarize
from kdcache.process.ranks import Process
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.text.corpus import Corpus, Pair, TextFiles

# What float32 arithmetic in another order may change.
NOISE = 1e-4


def half_step(values: np.ndarray) -> np.ndarray:
    """Half the distance to the next float16 away from zero."""
    return np.spacing(np.abs(values).astype(np.float16)).astype(np.float64) / 2


# What the compact encoding can store.
TABLE = np.array([-((code * 5 / 255) ** 2) for code in range(256)])


# Rounding √(−log p) instead of log p moves the border between two codes by (5/255/2)² = 9.6e-5.
BORDER = 1e-4


def coded(values: np.ndarray) -> np.ndarray:
    """The nearest codes, by trying all."""
    return np.abs(values.astype(np.float64)[..., None] - TABLE).argmin(axis=-1)


def check_codes(arrays: ShardArrays, expected: np.ndarray) -> None:
    """Hold what a compact shard stores against the codes of the true log-probabilities, found by brute force."""
    ids = arrays.soft.token_ids.astype(np.int64)
    targets = arrays.pairs.target_ids.astype(np.int64)[:, None]
    for stored, true in (
        (arrays.soft.log_probs, np.take_along_axis(expected, ids, axis=1)),
        (arrays.soft.log_probs, -np.sort(-expected, axis=1)[:, : ids.shape[1]]),
        (arrays.target_log_prob[:, None], np.take_along_axis(expected, targets, axis=1)),
    ):
        found = coded(stored)
        # What is stored is a value of the table, up to float16.
        assert (np.abs(stored - TABLE[found]) <= half_step(stored)).all()
        # The code of the true value, or of one that float32 arithmetic cannot tell from it.
        least, most = coded(np.minimum(true + NOISE + BORDER, 0)), coded(true - NOISE - BORDER)
        assert ((least <= found) & (found <= most)).all()
        assert (found == coded(true)).mean() > 0.98


def check_against(arrays: ShardArrays, expected: np.ndarray) -> None:
    """Hold a shard against the distributions that belong to its target positions, in their order."""
    topk, targets = arrays.soft, arrays.pairs.target_ids.astype(np.int64)
    assert topk.token_ids.shape == topk.log_probs.shape == (len(expected), topk.k)
    best = -np.sort(-expected, axis=1)[:, : topk.k]
    ids = topk.token_ids.astype(np.int64)
    own = np.take_along_axis(expected, ids, axis=1)
    stored = topk.log_probs.astype(np.float64)
    bound = NOISE + half_step(best)
    assert (np.abs(stored - best) <= bound).all()
    assert (np.abs(stored - own) <= bound).all()
    # Another word than the i-th best stands at place i only where the two cannot be told apart.
    other = ids != np.argsort(-expected, axis=1, kind="stable")[:, : topk.k]
    assert (np.abs(own - best)[other] <= bound[other]).all()
    assert all(len(set(row)) == topk.k for row in ids.tolist())
    written = expected[np.arange(len(expected)), targets]
    assert (np.abs(arrays.target_log_prob - written) <= NOISE + half_step(written)).all()


def check_cache(cache: Path, teacher: Path, pairs: list[Pair], passes: int) -> None:
    """Hold a whole cache against the slow loop, shard by shard, pair by pair."""
    reader = CacheReader(cache)
    assert sum(record.n_pairs for record in reader.records) == len(pairs)
    for index in range(reader.plan.n_shards):
        first, stop = reader.plan.bounds(index)
        targets, expected = slow_distributions(teacher, pairs[first:stop], passes)
        arrays = reader.shard(index)
        found = np.split(arrays.pairs.target_ids, arrays.pairs.target_offsets[1:-1])
        assert [ids.tolist() for ids in found] == targets
        if reader.plan.encoding.log_probs == "sqrt8":
            check_codes(arrays, expected)
            assert all(len(set(row)) == reader.plan.topk for row in arrays.soft.token_ids.tolist())
        else:
            check_against(arrays, expected)


@pytest.mark.parametrize(("passes", "k", "max_tokens"), [(7, 8, 300), (1, 1, 10_000), (100, 30, 1)])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_fault_60_cache_equals_the_slow_loop(
    encoding: str, passes: int, k: int, max_tokens: int, small_teacher: Path, tmp_path: Path
) -> None:
    """Every target position is in the cache once and equals what a slow, unbatched loop over the model says."""
    text = toy_text(tmp_path, 23)
    config = DumpConfig(
        str(small_teacher), text, k, passes, shard_pairs=9, max_tokens=max_tokens, encoding=encoding, device="cpu"
    )
    dump(config, tmp_path / "cache")
    check_cache(tmp_path / "cache", small_teacher, toy_pairs(23), passes)


def test_cache_of_a_roberta_equals_the_slow_loop(tmp_path: Path) -> None:
    """Another kind of model, with two separators and no segments, and the whole vocabulary stored."""
    text = toy_text(tmp_path, 5)
    teacher = prepare_teacher(str(save_family("roberta", tmp_path / "roberta")), Corpus(text), trim_vocab=True, seed=1)
    teacher.save(tmp_path / "teacher")
    dump(DumpConfig(str(tmp_path / "teacher"), text, topk=261, passes=3, device="cpu"), tmp_path / "cache")
    check_cache(tmp_path / "cache", tmp_path / "teacher", toy_pairs(5), passes=3)
    assert CacheReader(tmp_path / "cache").shard(0).soft.mass() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_50_real_pairs_equal_the_slow_loop(encoding: str, multi30k: Path, tmp_path: Path) -> None:
    """The first 50 pairs of Multi30k are in the cache as the slow loop says."""
    sides = []
    for side in ("src", "tgt"):
        with (multi30k / f"train.{side}").open(encoding="utf-8") as file:
            sides.append([line.rstrip("\n") for line in islice(file, 50)])
    text = write_text(tmp_path, *sides)
    bert = save_bert(tmp_path / "bert", all_lines(text), max_position_embeddings=256)
    teacher = prepare_teacher(str(bert), Corpus(text), trim_vocab=True, seed=1)
    teacher.save(tmp_path / "teacher")
    config = DumpConfig(str(tmp_path / "teacher"), text, shard_pairs=20, encoding=encoding, device="cpu")
    dump(config, tmp_path / "cache")
    check_cache(tmp_path / "cache", tmp_path / "teacher", [Pair(*pair) for pair in zip(*sides, strict=True)], passes=7)


@pytest.mark.parametrize(("encoding", "check"), [("float16", check_against), ("compact", check_codes)])
def test_the_checks_can_fail(
    encoding: str, check: Callable[[ShardArrays, np.ndarray], None], small_teacher: Path, tmp_path: Path
) -> None:
    """The comparisons above notice another word, a slipped row, two steps of float16, a code too many and no code."""
    text = toy_text(tmp_path, 4)
    dump(DumpConfig(str(small_teacher), text, encoding=encoding, device="cpu"), tmp_path / "cache")
    _, expected = slow_distributions(small_teacher, toy_pairs(4), 7)
    arrays = CacheReader(tmp_path / "cache").shard(0)
    check(arrays, expected)
    ids, log_probs, written = arrays.soft.token_ids, arrays.soft.log_probs, arrays.target_log_prob
    swapped, step, between = ids.copy(), log_probs.copy(), log_probs.copy()
    swapped[2, :2] = swapped[2, 1::-1]
    if encoding == "float16":
        step[3, 4] -= 4 * half_step(step)[3, 4] + 2 * NOISE
        between = step
    else:
        code = coded(log_probs)[3, 4]
        step[3, 4], between[3, 4] = TABLE[code + 1], (TABLE[code] + TABLE[code + 1]) / 2
    for wrong in (
        replace(arrays, soft=replace(arrays.soft, token_ids=swapped)),
        replace(arrays, soft=replace(arrays.soft, token_ids=np.roll(ids, 1, axis=0))),
        replace(arrays, soft=replace(arrays.soft, log_probs=step)),
        replace(arrays, soft=replace(arrays.soft, log_probs=between)),
        replace(arrays, target_log_prob=np.roll(written, 1)),
    ):
        with pytest.raises(AssertionError):
            check(wrong, expected)


def test_shards_do_not_depend_on_each_other(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """The same shards are the same bytes, whether all or one of them was made."""
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=50, device="cpu")
    for name, shards in (("whole", None), ("one", (1, 2))):
        dump(replace(config, shards=shards), tmp_path / name)
    one, other = (tmp_path / name / "shards" / "00001.h5" for name in ("whole", "one"))
    assert one.read_bytes() == other.read_bytes()
    assert not (tmp_path / "one" / "shards" / "00000.h5").exists()
    assert not (tmp_path / "one" / "manifest.json").exists()


def test_pairs_that_were_skipped_keep_their_place(small_teacher: Path, tmp_path: Path) -> None:
    """A pair that is too long or empty has no rows, its index stays, and its neighbours' rows are theirs."""
    sources, targets = toy_lines("src", 6), toy_lines("tgt", 6)
    sources[1] = " ".join(["kaka"] * 130)
    targets[4] = ""
    text = write_text(tmp_path, sources, targets)
    config = DumpConfig(str(small_teacher), text, device="cpu")
    with pytest.raises(DataError, match=r"text\.tgt:5: empty line"):
        dump(config, tmp_path / "cache")
    dump(replace(config, skip_bad=True), tmp_path / "cache")
    arrays = CacheReader(tmp_path / "cache").shard(0)
    assert np.flatnonzero(arrays.pairs.target_lengths == 0).tolist() == [1, 4]
    kept = [Pair(sources[i], targets[i]) for i in (0, 2, 3, 5)]
    ids, expected = slow_distributions(small_teacher, kept, 7)
    assert arrays.pairs.target_ids.tolist() == [one for row in ids for one in row]
    check_against(arrays, expected)
    assert summarize(CacheReader(tmp_path / "cache")).skipped == 2


def test_bfloat16_is_near(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """With bfloat16 operands the log-probabilities are near those of float32, and the plan says which it was."""
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=150, device="cpu")
    found = []
    for precision in ("float32", "bfloat16"):
        dump(replace(config, precision=precision), tmp_path / precision)
        reader = CacheReader(tmp_path / precision)
        assert reader.plan.precision == precision
        found.append(reader.shard(0).target_log_prob.astype(np.float64))
    difference = np.abs(found[0] - found[1])
    assert 1e-3 < difference.max() < 0.5
    assert difference.mean() < 0.05


def test_more_words_than_the_vocabulary_are_refused(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """--topk above the vocabulary is refused with its size; other settings out of range with their option."""
    config = DumpConfig(str(small_teacher), small_text, device="cpu")
    size = Teacher.load(small_teacher).vocabulary
    with pytest.raises(UsageError, match=f"only {size} words"):
        dump(replace(config, topk=size + 1), tmp_path / "cache")
    for name in ("topk", "passes", "shard_pairs", "max_tokens"):
        with pytest.raises(UsageError, match="--" + name.replace("_", "-")):
            dump(replace(config, **{name: 0}), tmp_path / "cache")
    with pytest.raises(UsageError, match="--max-unknown"):
        dump(replace(config, max_unknown=1.5), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_forecast_counts_what_a_dump_does(
    small_teacher: Path, small_text: TextFiles, small_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--dry-run writes nothing, and its counts are those of the real cache."""
    monkeypatch.chdir(tmp_path)
    found = forecast(DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu"))
    assert list(tmp_path.iterdir()) == []
    reader = CacheReader(small_cache)
    summary = summarize(reader)
    assert (found.pairs, found.skipped, found.shards) == (summary.pairs, summary.skipped, summary.shards)
    assert found.targets == summary.targets
    views = tokens = 0
    for index in range(reader.plan.n_shards):
        pairs = reader.shard(index).pairs
        for source, target in zip(pairs.source_lengths.tolist(), pairs.target_lengths.tolist(), strict=True):
            views += min(target, 7)
            tokens += min(target, 7) * (source + target)
    assert (found.views, found.tokens) == (views, tokens)
    shards = sum(record.bytes for record in reader.records)
    assert found.bytes == pytest.approx(shards, rel=0.5)
    assert found.seconds > 0


def test_a_teachers_random_state_does_not_matter(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """Dropout is off while dumping: whatever was drawn before, the shards are the same bytes."""
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=150, device="cpu")
    for seed in (1, 2):
        torch.manual_seed(seed)
        dump(config, tmp_path / str(seed))
    one, other = (tmp_path / name / "shards" / "00000.h5" for name in ("1", "2"))
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize(("weights", "expected"), [(1, 4_096), (140_000_000, 1_024), (150_000_000, 512), (10**12, 256)])
def test_shards_are_cut_by_the_work_they_are(
    weights: int, expected: int, small_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard's pairs times their tokens times the teacher's weights stay below 10^13, within bounds, a power of two.

    Each of six views of a pair has 5 tokens of the source and 6 of the target: 66 tokens.
    """
    monkeypatch.setattr(Teacher, "weights", weights)
    text = write_text(tmp_path, ["Kaka kaka."] * 30, ["Kakax kakax."] * 30)
    assert shard_pairs_by_work(DumpConfig("", text), Teacher.load(small_teacher), Corpus(text)) == expected


def test_many_pairs_have_large_shards(small_teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where shards of 256 pairs would be too many (here more than 20, else 2,000), they are larger."""
    monkeypatch.setattr(Teacher, "weights", 10**12)
    monkeypatch.setattr(dump_job, "_SHARDS_MANY", 20)
    text = write_text(tmp_path, ["Kaka."] * 6_000, ["Kakax."] * 6_000)
    assert shard_pairs_by_work(DumpConfig("", text), Teacher.load(small_teacher), Corpus(text)) == 512


def test_a_cache_that_was_begun_keeps_the_size_of_its_shards(
    small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """Without --shard-pairs a dump continues what was begun with it; another size that is given is refused."""
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu")
    dump(replace(config, shards=(0, 1)), tmp_path / "cache")
    dump(replace(config, shard_pairs=None), tmp_path / "cache")
    assert CacheReader(tmp_path / "cache").plan.shard_pairs == 40
    with pytest.raises(MismatchError, match="--shard-pairs was 40 the first time, now 41"):
        dump(replace(config, shard_pairs=41), tmp_path / "cache")


def test_a_cache_of_version_0_1_0_is_finished_in_its_own_way(
    small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """What was begun with the last layer on all tokens goes on so: every byte is as if that had never changed."""
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu")
    job = dump_job.prepare(config)
    teacher = job.teacher.whole()
    old = replace(job, teachers=(teacher,), plan=replace(job.plan, teacher=teacher.fingerprint()))
    dump_shards.dump_job(old, tmp_path / "whole", Process())
    dump_shards.dump_job(replace(old, config=replace(config, shards=(0, 1))), tmp_path / "begun", Process())
    dump(config, tmp_path / "begun")
    roots = [CacheReader(tmp_path / name).manifest.root for name in ("whole", "begun")]
    assert roots[0] == roots[1]
    assert verify(VerifyConfig(str(tmp_path / "begun"), str(small_teacher), device="cpu")).sound
    assert job.plan.teacher != old.plan.teacher
