"""Arms of benchmarks that stand for other programs give what those would give."""

from __future__ import annotations

import shelve
import sys
from pathlib import Path

import numpy as np
from conftest import ROOT
from models import toy_lines, toy_text

sys.path.insert(0, str(ROOT))

from benchmarks.dump import dump_once
from benchmarks.generation import Work, by_library
from benchmarks.generation_peers import exported
from benchmarks.job import make_job
from benchmarks.storage_2020 import dump_as_in_2020
from kdcache.cache.reader import CacheReader
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate
from kdcache.student.seq2seq import Student


def test_what_the_code_of_2020_stored_is_what_a_cache_holds(small_teacher: Path, tmp_path: Path) -> None:
    """Its second shelve has, for each pair, the best word of a cache first, and logits with the same differences."""
    (tmp_path / "teacher").symlink_to(small_teacher)
    job = make_job(tmp_path, toy_text(tmp_path, 30), "float32")
    dump_once(job, tmp_path / "cache")
    dump_as_in_2020(job, tmp_path / "2020")
    shard = CacheReader(tmp_path / "cache").shard(0)
    with shelve.open(str(tmp_path / "2020" / "logits" / "shelve"), "r") as shelf:  # noqa: S301
        found = [shelf[str(pair)] for pair in range(30)]
    ids, logits = (np.concatenate([one[part].numpy() for one in found])[:, :8] for part in (0, 1))
    # Neighbours that are nearly as probable change places when states are rounded to float16.
    assert (ids[:, 0] == shard.soft.token_ids[:, 0]).mean() > 0.97
    ours, theirs = (array.astype(np.float32) for array in (shard.soft.log_probs, logits))
    assert np.abs((ours - ours[:, :1]) - (theirs - theirs[:, :1])).max() < 0.05


def test_others_write_what_kdcache_writes(small_student: Path, tmp_path: Path) -> None:
    """The library in any batches, and CTranslate2, translate a toy text as kdcache does."""
    student, lines = Student.load(small_student), toy_lines("src", 12)
    config = GenerateConfig(str(small_student), "lines", device="cpu")
    ours = generate(student, lines, config)
    work = Work(student, lines, config, 1)
    assert by_library(work, [[3, 1], [0, 2, *range(4, 12)]]) == ours
    translated = exported(student, config, tmp_path, "float32", 1)(lines)
    assert sum(a == b for a, b in zip(translated, ours, strict=True)) >= 10
