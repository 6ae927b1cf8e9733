"""Merging what was merged before, and merging a second time: neither may say what is not so."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
from families import World, content, write

from kdcache.cache.merge import MergeConfig
from kdcache.cache.transcode import TranscodeConfig
from kdcache.derive import merge, transcode
from kdcache.errors import UsageError
from kdcache.softlabels import TopK

WORLD = World(n_pairs=3)


def told(folder: Path, teacher: int, best: dict[int, float]) -> Path:
    """A cache that says `best` at every position, by falling probability; the written word is 9, with 0.01."""
    plan = WORLD.plan(teacher, topk=len(best))
    arrays = WORLD.arrays(teacher, plan)
    n = arrays.pairs.n_targets
    ids, log_probs = (np.tile(one, (n, 1)) for one in (list(best), np.log(list(best.values()))))
    return write(
        folder,
        plan,
        dataclasses.replace(
            arrays,
            pairs=dataclasses.replace(arrays.pairs, target_ids=np.full_like(arrays.pairs.target_ids, 9)),
            topk=TopK(ids.astype(plan.encoding.ids), log_probs.astype(np.float16)),
            target_log_prob=np.full(n, math.log(0.01), dtype=np.float16),
        ),
    )


# What three teachers say; the first two store their two best words.
TRUE = ({1: 0.5, 2: 0.3, 3: 0.1}, {3: 0.5, 4: 0.3, 1: 0.1}, {1: 0.6, 3: 0.2})


def best_two(teacher: int) -> dict[int, float]:
    return dict(list(TRUE[teacher].items())[:2])


def test_an_average_is_no_source(tmp_path: Path) -> None:
    """An average, and what was cut from one, are refused as sources, since their words are not the most probable ones.

    By hand: the average of the first two stores 0.25 for the words 1 and 3, which have 0.3 each. So of words 1 and 3,
    which have 0.45 and 0.25 over all with weights 1/4, 1/4, 1/2, the average of both would lack 0.05, and as its last
    word has no more than 0.25, nothing would show that.
    """
    one, two, three = (told(tmp_path / str(m), m, best_two(m)) for m in range(3))
    assert merge(MergeConfig((str(one), str(two))), tmp_path / "ab") is not None
    ids, log_probs = content(tmp_path / "ab")[4:6]
    assert ids[0].tolist() == [1, 3]
    assert np.exp(log_probs[0].astype(float)) == pytest.approx([0.25, 0.25], rel=1e-3)
    assert transcode(TranscodeConfig(str(tmp_path / "ab"), shard_pairs=2), tmp_path / "cut") is not None
    for source in ("ab", "cut"):
        with pytest.raises(UsageError, match=rf"{source}: an average of 2 caches, or made from one.* at once"):
            merge(MergeConfig((str(tmp_path / source), str(three))), tmp_path / "abc")
    assert not (tmp_path / "abc").exists()


def test_all_at_once_the_bound_holds(tmp_path: Path) -> None:
    """The three originals at once give a bound that is not below what the words kept really lack."""
    sources = [told(tmp_path / str(m), m, best_two(m)) for m in range(3)]
    result = merge(MergeConfig(tuple(map(str, sources))), tmp_path / "abc")
    assert result is not None
    ids, log_probs = content(tmp_path / "abc")[4:6]
    kept = ids[0].tolist()
    true = sum(distribution.get(word, 0.0) for distribution in TRUE for word in kept) / 3
    lacking = true - float(np.exp(log_probs[0].astype(float)).sum())
    assert lacking == pytest.approx(0.2 / 3, rel=1e-2)
    assert lacking <= result["mass"]["missed"] + 1e-4
