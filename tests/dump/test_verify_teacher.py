"""`verify --teacher`: a cache of the teacher passes, and what the teacher would not say does not."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_here
from models import toy_text

from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.number_encoding import Encoding
from kdcache.cache.pair_ranges import PairRanges
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.dump.difference import WordTable, difference
from kdcache.dump.dump_config import Distributions, DumpConfig, VerifyConfig
from kdcache.dump.dump_shards import dump
from kdcache.dump.verification import Finding, compare, verify
from kdcache.errors import DataError, MismatchError, UsageError
from kdcache.teacher.masked_lm import Teacher
from kdcache.text.corpus import TextFiles

CPU = torch.device("cpu")


def held(cache: Path, teacher: Path, **settings: object) -> Finding:
    return verify(VerifyConfig(str(cache), str(teacher), device="cpu", **settings))  # type: ignore[arg-type]


def check_near(found: Finding, *, k_steps: float = 0.02) -> None:
    assert found.sound
    # Of the last bits of float32, not only as much as the criterion lets pass.
    assert max(found.beyond) < 2e-5
    assert 0 < found.cache.mean < k_steps
    assert found.noise.largest < 1e-3
    assert found.cache.same_best > 0.98
    assert found.noise.same_order > 0.98


@pytest.mark.parametrize("encoding", ["float16", "compact"])
def test_the_teachers_own_cache_passes(
    encoding: str, small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """A fresh cache differs from its teacher by rounding alone; the teacher from itself by its last bits alone."""
    dump(DumpConfig(str(small_teacher), small_text, encoding=encoding, device="cpu"), tmp_path / "cache")
    found = held(tmp_path / "cache", small_teacher, sample=60)
    check_near(found, k_steps=0.1)
    assert (found.pairs, len(found.worst)) == (60, 5)
    assert found.cache.mean > 10 * found.noise.mean
    # The same pairs again, and with them the same numbers.
    assert held(tmp_path / "cache", small_teacher, sample=60) == found


def test_transcoded_caches_pass(small_teacher: Path, small_cache: Path, tmp_path: Path) -> None:
    """A cache cut to fewer words, in other shards and codes, and that one widened again, still are what it says."""
    chain = [small_cache]
    for number, config in enumerate(
        (TranscodeConfig("", topk=3, encoding="compact"), TranscodeConfig("", encoding="float16", shard_pairs=7))
    ):
        chain.append(tmp_path / str(number))
        assert transcode(dataclasses.replace(config, cache=str(chain[-2])), chain[-1]) is not None
        check_near(held(chain[-1], small_teacher, sample=40), k_steps=0.1)


def test_bfloat16_has_its_own_noise(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """A cache in bfloat16 passes beside the noise of bfloat16, which is larger; against float32 it is named unsound."""
    dump(DumpConfig(str(small_teacher), small_text, precision="bfloat16", device="cpu"), tmp_path / "cache")
    found = held(tmp_path / "cache", small_teacher, sample=40)
    assert found.sound
    exact = held(tmp_path / "cache", small_teacher, sample=40, precision="float32")
    assert not exact.sound
    assert exact.noise.mean < 1e-4


def test_several_maskings_are_averaged_again(small_teacher: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """With maskings that depend on a pair's line, sampled pairs are divided as they were in the dump."""
    settings = Distributions(maskings=3, seed=5)
    config = DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu", distributions=settings)
    dump(config, tmp_path / "cache")
    check_near(held(tmp_path / "cache", small_teacher, sample=30))


def moved(small_teacher: Path, noise: float) -> Teacher:
    """The small teacher with noise on one weight matrix, which claims to be the small teacher."""
    teacher = Teacher.load(small_teacher)
    weight = next(value for name, value in teacher.model.named_parameters() if name.endswith("query.weight"))
    torch.manual_seed(2)
    with torch.no_grad():
        weight.add_(torch.randn_like(weight) * noise)
    return teacher


@pytest.mark.parametrize(("noise", "sound"), [(0.0, True), (1e-3, False), (1e-2, False)])
def test_a_teacher_that_moved_is_noticed(noise: float, sound: bool, small_teacher: Path, small_cache: Path) -> None:
    """Noise of 1e-3 on a single matrix of the weights is beyond rounding and noise; none at all is not."""
    found = compare(
        CacheReader(small_cache), [moved(small_teacher, noise)], CPU, VerifyConfig(str(small_cache), "", sample=60)
    )
    assert found.sound is sound


def test_a_changed_value_is_noticed_and_its_line_named(small_teacher: Path, small_cache: Path, tmp_path: Path) -> None:
    """One log-probability that is wrong by 0.05 at one position is found, and the line of its pair comes first."""
    plan = CacheReader(small_cache).plan
    arrays = PairRanges(CacheReader(small_cache)).read(0, plan.n_pairs)
    pair = 77
    row = int(arrays.pairs.target_offsets[pair])
    values = arrays.soft.log_probs.copy()
    values[row, -1] -= np.float16(0.05)
    own = arrays.target_log_prob.copy()
    if arrays.soft.token_ids[row, -1] == arrays.pairs.target_ids[row]:
        own[row] = values[row, -1]
    wrong = dataclasses.replace(arrays, soft=dataclasses.replace(arrays.soft, log_probs=values), target_log_prob=own)
    cache = forged(tmp_path / "cache", small_cache, small_teacher, wrong)
    done = run_here("verify", cache, "--teacher", small_teacher, "--sample", plan.n_pairs, "--device", "cpu")
    assert done.returncode == 1
    assert "Furthest are the lines 78," in done.stderr
    assert "teacher to itself" in done.stdout


def forged(folder: Path, source: Path, teacher: Path, arrays: ShardArrays) -> Path:
    """A cache of the plan of `source` that holds other values."""
    from kdcache.cache.commit_protocol import CacheWriter
    from kdcache.cache.pair_ranges import take

    plan = CacheReader(source).plan
    writer = CacheWriter(folder, plan, Teacher.load(teacher).tokenizer)
    for index in range(plan.n_shards):
        writer.commit(index, take(arrays, np.arange(*plan.bounds(index))))
    assert writer.finalize()
    return folder


def test_another_teacher_is_refused_at_once(small_teacher: Path, small_cache: Path, tmp_path: Path) -> None:
    """A teacher whose weights, vocabulary or tokenizer are others is refused by name before anything is computed."""
    other = tmp_path / "other"
    moved(small_teacher, 1e-3).save(other)
    with pytest.raises(MismatchError) as caught:
        held(small_cache, other)
    assert caught.value.field == "teacher"
    done = run_here("verify", small_cache, "--teacher", other)
    assert done.returncode == 1
    assert "teacher differs" in done.stderr

    from models import all_lines, save_bert

    from kdcache.teacher.prepare_teacher import prepare_teacher
    from kdcache.text.corpus import Corpus

    text = toy_text(tmp_path, 12, first=500)
    bert = save_bert(tmp_path / "bert", [*all_lines(text), "zzz qqq"])
    prepare_teacher(str(bert), Corpus(text), trim_vocab=True, seed=1).save(tmp_path / "foreign")
    with pytest.raises(MismatchError) as caught:
        held(small_cache, tmp_path / "foreign")
    assert caught.value.field == "tokenizer"


def test_what_no_teacher_says_is_refused(
    small_teacher: Path, small_text: TextFiles, small_cache: Path, tmp_path: Path
) -> None:
    """An average, what was made from one, drawn words, no pairs at all, and options without --teacher are refused."""
    config = DumpConfig(str(small_teacher), small_text, passes=5, shard_pairs=200, device="cpu")
    dump(config, tmp_path / "five")
    assert merge(MergeConfig((str(small_cache), str(tmp_path / "five"))), tmp_path / "average") is not None
    assert transcode(TranscodeConfig(str(tmp_path / "average"), topk=2), tmp_path / "cut") is not None
    for cache in ("average", "cut"):
        with pytest.raises(UsageError, match="an average of 2 caches"):
            held(tmp_path / cache, small_teacher)
    dump(dataclasses.replace(config, distributions=Distributions(sample=4)), tmp_path / "drawn")
    with pytest.raises(UsageError, match="holds drawn words"):
        held(tmp_path / "drawn", small_teacher)
    with pytest.raises(UsageError, match="--sample must be at least 1"):
        held(small_cache, small_teacher, sample=0)
    done = run_here("verify", small_cache, "--sample", 3)
    assert done.returncode == 2
    assert "Missing option --teacher" in done.stderr


def test_skipped_pairs_are_passed_over(small_teacher: Path, tmp_path: Path) -> None:
    """Pairs that were skipped are not computed; a sample of nothing but such pairs is an error that says so."""
    text = toy_text(tmp_path, 6)
    lines = Path(text.paths()[1]).read_text().splitlines()
    Path(text.paths()[1]).write_text("\n".join(["", *lines[1:3], "", *lines[4:]]) + "\n")
    dump(DumpConfig(str(small_teacher), text, skip_bad=True, shard_pairs=2, device="cpu"), tmp_path / "cache")
    assert held(tmp_path / "cache", small_teacher).pairs == 4
    source = CacheReader(tmp_path / "cache")
    arrays = PairRanges(source).read(0, 6)
    none = np.ones(6, dtype=bool)
    from kdcache.cache.pair_ranges import take

    empty = dataclasses.replace(take(arrays, np.arange(0)), pairs=arrays.pairs.without(none))
    cache = forged(tmp_path / "empty", tmp_path / "cache", small_teacher, empty)
    with pytest.raises(DataError, match="all 6 pairs of the sample were skipped"):
        held(cache, small_teacher)


def test_differences_by_hand() -> None:
    """Largest, mean, orders and total variation of two positions, one with a word that the teacher does not name."""
    none = np.zeros((2, 0))
    given = WordTable(np.array([[1, 2], [3, 4]]), np.log([[0.5, 0.25], [0.5, 0.25]]), np.log([0.5, 0.125]), none)
    live = WordTable(
        np.array([[1, 2, 5], [4, 6, 7]]), np.log([[0.5, 0.25, 0.125], [0.5, 0.25, 0.125]]), np.log([0.5, 0.125]), none
    )
    found, gaps = difference(given, live, -np.inf)
    # 3 has at most 0.125 in place of 0.5, 4 has 0.5 in place of 0.25.
    assert gaps == pytest.approx(np.array([[0, 0, 0], [np.log(4), np.log(2), 0]]))
    assert (found.largest, found.mean) == pytest.approx((np.log(4), np.log(8) / 6))
    assert (found.same_order, found.same_best) == (0.5, 0.5)
    assert found.normalizers is None
    # Words 0.375 and 0.25 apart, the rest 0.25 against 0.375.
    assert found.variation == pytest.approx((0.375 + 0.25 + 0.125) / 2 / 2)
    # What cannot be told from e^-25 is no difference.
    low = WordTable(np.array([[1]]), np.array([[-25.0]]), np.array([-25.0]), none[:1])
    far = WordTable(np.array([[1]]), np.array([[-31.0]]), np.array([-40.0]), none[:1])
    assert difference(low, far, -25.0)[0].largest == 0
    # Normalizers are compared place by place.
    one = dataclasses.replace(given, log_normalizers=np.array([[1.0, 2.0], [3.0, 4.0]]))
    other = dataclasses.replace(live, log_normalizers=np.array([[1.0, 2.5], [2.0, 4.0]]))
    assert difference(one, other, -np.inf)[0].normalizers == (1.0, 0.375)


@pytest.mark.parametrize("name", ["float16", "compact"])
def test_half_steps_bound_every_rounding(name: str) -> None:
    """No value is rounded by more than the half step at what is stored, and some by nearly as much."""
    encoding = Encoding.named(name, 100)
    true = -np.concatenate([np.geomspace(1e-6, 24.9, 200_001), np.linspace(0, 24.9, 200_001)])
    stored = encoding.round(true)
    share = np.abs(stored - true) / encoding.half_step(stored)
    assert share.max() <= 1 + 1e-9
    assert share.max() > 0.9
