"""`verify --teacher` holds normalizers against the teacher too: log Z_T beside the teacher's own noise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from test_verify_teacher import check_near, forged, held

from kdcache.cache.derived.derive_config import TranscodeConfig
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.pair_ranges import PairRanges
from kdcache.cache.reader import CacheReader
from kdcache.dump.dump_config import Distributions, DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.text.corpus import TextFiles

TEMPERATURES = (0.5, 2.0, 10.0)


@pytest.fixture(scope="module")
def cache(small_teacher: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds normalizers at temperatures below and above 1."""
    folder = tmp_path_factory.mktemp("normalizers") / "cache"
    settings = Distributions(normalizers=TEMPERATURES)
    dump(DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu", distributions=settings), folder)
    return folder


def test_the_teachers_own_normalizers_pass(cache: Path, small_teacher: Path, tmp_path: Path) -> None:
    """They differ from the teacher's by the last bits of float32, at all temperatures, in a transcoded cache too."""
    assert transcode(TranscodeConfig(str(cache), topk=3, shard_pairs=7), tmp_path / "cut") is not None
    for one in (cache, tmp_path / "cut"):
        found = held(one, small_teacher, sample=30)
        check_near(found)
        assert (len(found.beyond), len(found.allowed)) == (4, 4)
        assert found.cache.normalizers is not None
        assert found.noise.normalizers is not None
        assert 0 < found.noise.normalizers[1] <= found.noise.normalizers[0] < 1e-4


@pytest.mark.parametrize("column", range(len(TEMPERATURES)))
def test_a_changed_normalizer_is_noticed_and_its_line_named(
    column: int, cache: Path, small_teacher: Path, tmp_path: Path
) -> None:
    """One log Z_T that is wrong by 0.05 at one position is found, and the line of its pair comes first."""
    plan = CacheReader(cache).plan
    arrays = PairRanges(CacheReader(cache)).read(0, plan.n_pairs)
    assert arrays.soft.log_normalizers is not None
    pair = 77
    normalizers = arrays.soft.log_normalizers.copy()
    # Up: with a smaller one the k words would hold more than all the mass, which the format refuses already.
    normalizers[int(arrays.pairs.target_offsets[pair]), column] += np.float32(0.05)
    wrong = dataclasses.replace(arrays, soft=dataclasses.replace(arrays.soft, log_normalizers=normalizers))
    changed = forged(tmp_path / "cache", cache, small_teacher, wrong)
    found = held(changed, small_teacher, sample=plan.n_pairs)
    assert not found.sound
    assert found.worst[0] == pair + 1
    assert found.beyond[2] == pytest.approx(0.05, abs=1e-3)
    assert all(one <= limit for one, limit in zip(found.beyond[:2], found.allowed[:2], strict=True))


def test_what_the_user_sees(cache: Path, small_cache: Path, small_teacher: Path) -> None:
    """The table has rows for log Z_T and a line for its limits where the cache holds normalizers, and not elsewhere."""
    texts = []
    for one in (cache, small_cache):
        done = run_here("verify", one, "--teacher", small_teacher, "--sample", "5", "--device", "cpu")
        assert done.returncode == 0, done.stderr
        texts.append(done.stdout)
    assert "largest |Δ log Z_T|" in texts[0]
    assert "\nnormalizers: " in texts[0]
    assert "Z_T" not in texts[1]
    assert "normalizers" not in texts[1]
