"""What `inspect` says of a cache: its figures, single pairs, and the caches that it was made from."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from caches import make_arrays, make_plan, tokenizer
from conftest import run_here
from families import World

from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.reader import CacheReader
from kdcache.cache.shard import ShardArrays
from kdcache.errors import UsageError
from kdcache.inspection import cache_summary
from kdcache.inspection.cache_summary import summarize, view_pair

pytestmark = pytest.mark.complete_cache


def slow_summary(shards: list[ShardArrays], unknown: int) -> dict[str, float]:
    """What `inspect` reports, by loops over single positions."""
    mass, known, best, surprise, missing, targets, source = [], 0, 0, [], 0, 0, 0
    for shard in shards:
        source += len(shard.pairs.source_ids)
        rows = zip(
            shard.pairs.target_ids.tolist(),
            shard.soft.token_ids.tolist(),
            shard.soft.log_probs.tolist(),
            shard.target_log_prob.tolist(),
            strict=True,
        )
        for word, ids, log_probs, own in rows:
            targets += 1
            mass.append(math.fsum(math.exp(value) for value in log_probs))
            known += word in ids
            best += word == ids[0]
            surprise.append(-own)
            missing += word == unknown
    return {
        "targets": targets,
        "source_tokens": source,
        "unknown": missing,
        "mass": math.fsum(mass) / targets,
        "known": known / targets,
        "best": best / targets,
        "perplexity": math.exp(math.fsum(surprise) / targets),
    }


def test_inspect_equals_a_slow_loop(cache: Path) -> None:
    """The figures of `inspect` are those of a loop over every position and every file."""
    summary = summarize(CacheReader(cache))
    expected = slow_summary([make_arrays(make_plan(), i) for i in range(3)], tokenizer().special.unk)
    assert {name: getattr(summary, name) for name in expected} == pytest.approx(expected, rel=1e-12)
    assert summary.bytes == sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert summary.bytes_per_target == summary.bytes / expected["targets"]
    lengths = [make_arrays(make_plan(), i).pairs.target_lengths for i in range(3)]
    assert summary.skipped == sum(int((one == 0).sum()) for one in lengths) > 0
    assert (summary.pairs, summary.shards) == (20, 3)


@pytest.mark.parametrize("index", [0, 7, 8, 19])
def test_a_pair_is_shown_as_it_was_written(cache: Path, index: int) -> None:
    """`inspect --pair` shows the words of that line number, across shard boundaries."""
    shard, row = divmod(index, 8)
    arrays = make_arrays(make_plan(), shard)
    start, stop = arrays.pairs.target_offsets[row : row + 2]
    view = view_pair(CacheReader(cache), index)
    assert view.target == tokenizer().decode(arrays.pairs.target_ids[start:stop].tolist())
    assert [word for word, _, _ in view.words] == [tokenizer().piece(i) for i in arrays.pairs.target_ids[start:stop]]
    assert [best[0][0] for _, _, best in view.words] == [
        tokenizer().piece(i) for i in arrays.soft.token_ids[start:stop, 0]
    ]
    assert [own for _, own, _ in view.words] == arrays.target_log_prob[start:stop].tolist()


@pytest.mark.parametrize("index", [-1, 20])
def test_a_pair_that_does_not_exist_is_refused(cache: Path, index: int) -> None:
    """A pair outside the plan is a user's mistake, which names the range."""
    with pytest.raises(UsageError, match="pairs 0 to 19"):
        view_pair(CacheReader(cache), index)


def test_the_tree_of_sources(tmp_path: Path) -> None:
    """`inspect` says what made a cache and shows each source below what was made from it, in text and JSON."""
    one, two = (World().write(tmp_path / str(m), m) for m in range(2))
    small = tmp_path / "small"
    assert transcode(TranscodeConfig(str(one), topk=2, encoding="compact"), small) is not None
    assert merge(MergeConfig((str(small), str(two))), tmp_path / "average") is not None
    plan = CacheReader(tmp_path / "average").plan
    roots = {name: CacheReader(tmp_path / name).manifest.root[:12] for name in ("0", "1", "small")}
    lines = cache_summary.source_lines(plan)
    assert sorted(line.split()[0] for line in lines) == sorted(roots.values())
    place = next(i for i, line in enumerate(lines) if line.startswith(roots["small"]))
    assert lines[place].split("  ")[1].startswith("transcode, k 2, sqrt8/gzip, passes 7, maskings 1, teacher ")
    assert lines[place + 1].startswith(f"  {roots['0']}  dump-logits, k 6, float16/gzip")
    assert cache_summary.made_by(plan) == "merge, from 2 caches"
    assert cache_summary.made_by(CacheReader(one).plan) == "dump-logits, with a teacher"
    text = run_here("inspect", tmp_path / "average").stdout
    assert all(line in text for line in lines)
    found = json.loads(run_here("inspect", tmp_path / "average", "--json").stdout)
    assert found["made_by"] == "merge"
    assert {source["root"][:12] for source in found["plan"]["sources"]} == {roots["small"], roots["1"]}
