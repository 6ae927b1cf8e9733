"""Averages over maskings, drawn words, normalizers: what dumps hold, however they were batched, shared or killed."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import run_here
from models import slow_distributions, start_cli, toy_pairs, toy_text, wait_until

from kdcache.cache.reader import CacheReader
from kdcache.dump.dump_config import Distributions, DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import UsageError
from kdcache.inspection.cache_summary import summarize
from kdcache.labels.soft_labels import to_counts
from kdcache.text.corpus import TextFiles

KINDS = {
    "maskings": Distributions(maskings=3, seed=4),
    "sample": Distributions(sample=20, seed=4),
    "normalizers": Distributions(normalizers=(2.0, 5.0)),
    "both": Distributions(maskings=2, sample=9, seed=4),
}
OPTIONS = {
    "maskings": ["--maskings", "3", "--seed", "4"],
    "sample": ["--sample", "20", "--seed", "4"],
    "normalizers": ["--normalizers", "2,5"],
    "both": ["--maskings", "2", "--sample", "9", "--seed", "4"],
}


def rows_of(cache: Path) -> dict[str, np.ndarray]:
    """All that a cache holds at its target positions, shards put together."""
    reader = CacheReader(cache)
    found = [reader.shard(index) for index in range(reader.plan.n_shards)]
    columns: dict[str, list[Any]] = {
        "targets": [one.pairs.target_ids for one in found],
        "ids": [one.soft.token_ids for one in found],
        "values": [one.soft.log_probs for one in found],
        "written": [one.target_log_prob for one in found],
    }
    if reader.plan.temperatures:
        columns["normalizers"] = [one.soft.log_normalizers for one in found]
    return {name: np.concatenate(parts) for name, parts in columns.items()}


def assert_same(one: Path, other: Path) -> None:
    """Two caches hold the same, array for array."""
    for name, values in rows_of(other).items():
        np.testing.assert_array_equal(rows_of(one)[name], values, err_msg=name)


def config_of(teacher: Path, text: TextFiles, kind: str, **more: Any) -> DumpConfig:
    return DumpConfig(str(teacher), text, distributions=KINDS[kind], device="cpu", **{"shard_pairs": 40, **more})


def command(teacher: Path, text: TextFiles, output: Path, kind: str, shard: int) -> list[object]:
    source, target = text.paths()
    files = ["--teacher", teacher, "--source", source, "--target", target, "--output", output]
    return ["dump-logits", *files, *OPTIONS[kind], "--shard-pairs", shard, "--device", "cpu"]


@pytest.fixture(scope="module")
def caches(small_teacher: Path, small_text: TextFiles, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One complete cache of each kind, of the text of `small_cache`."""
    folder = tmp_path_factory.mktemp("kinds")
    for kind in KINDS:
        dump(config_of(small_teacher, small_text, kind), folder / kind)
    return {kind: folder / kind for kind in KINDS}


def test_one_masking_is_the_cache_of_always(
    small_teacher: Path, small_text: TextFiles, small_cache: Path, tmp_path: Path
) -> None:
    """With one masking and no draws the seed changes nothing: plan, records and shards are the same bytes."""
    dump(
        DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu", distributions=Distributions(seed=99)),
        tmp_path / "cache",
    )
    for name in ("plan.json", "manifest.json", "shards/00000.h5"):
        assert (tmp_path / "cache" / name).read_bytes() == (small_cache / name).read_bytes()


def test_the_plan_says_how(caches: dict[str, Path], small_cache: Path) -> None:
    """Maskings, draws, seed and temperatures are part of a cache's identity; the seed is 0 where nothing needs it."""
    found = {kind: CacheReader(cache).plan for kind, cache in {**caches, "plain": small_cache}.items()}
    assert {kind: (p.maskings, p.draws, p.seed, p.temperatures, p.topk) for kind, p in found.items()} == {
        "maskings": (3, 0, 4, (), 8),
        "sample": (1, 20, 4, (), 20),
        "normalizers": (1, 0, 0, (2.0, 5.0), 8),
        "both": (2, 9, 4, (), 9),
        "plain": (1, 0, 0, (), 8),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_batches_and_shards_change_nothing(
    kind: str, caches: dict[str, Path], small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """With other batches and other shards every position holds the same, up to the last bits of float32."""
    dump(config_of(small_teacher, small_text, kind, shard_pairs=70, max_tokens=300), tmp_path / "other")
    one, other = rows_of(caches[kind]), rows_of(tmp_path / "other")
    np.testing.assert_array_equal(one["targets"], other["targets"])
    same = (one["ids"] == other["ids"]).all(axis=1)
    # Two words that are equally probable, or a point on the border of two words, may change places.
    assert same.mean() > 0.998
    if KINDS[kind].sample:
        np.testing.assert_array_equal(one["values"][same], other["values"][same])
    np.testing.assert_allclose(one["values"][same], other["values"][same], atol=2e-2)
    np.testing.assert_allclose(one["written"], other["written"], atol=2e-2)
    if "normalizers" in one:
        np.testing.assert_allclose(one["normalizers"], other["normalizers"], atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_make_the_same_cache(
    kind: str, caches: dict[str, Path], small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """Two ranks that share the shards, the second before the first, draw and deal what one process does."""
    arguments = command(small_teacher, small_text, tmp_path / "two", kind, 40)
    for rank in "10":
        assert run_here(*arguments, WORLD_SIZE="2", RANK=rank).returncode == 0
    assert_same(tmp_path / "two", caches[kind])


@pytest.mark.parametrize(
    "kind", ["sample", *(pytest.param(one, marks=pytest.mark.full) for one in KINDS if one != "sample")]
)
def test_fault_02_a_killed_dump_goes_on(kind: str, small_teacher: Path, tmp_path: Path) -> None:
    """After kill -9 at work the same command gives the undisturbed cache, array for array and record for record."""
    text, cache = toy_text(tmp_path, 600), tmp_path / "killed"
    dump(config_of(small_teacher, text, kind, shard_pairs=20), tmp_path / "undisturbed")
    arguments = command(small_teacher, text, cache, kind, 20)
    with start_cli(*arguments) as process:
        assert wait_until(lambda: len(list((cache / "shards").glob("*.json"))) >= 3, process)
        process.kill()
        process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (cache / "manifest.json").exists()
    assert run_here(*arguments).returncode == 0
    assert (cache / "manifest.json").read_bytes() == (tmp_path / "undisturbed" / "manifest.json").read_bytes()
    assert_same(cache, tmp_path / "undisturbed")


def test_drawn_words_are_those_of_the_distribution(
    caches: dict[str, Path], small_teacher: Path, small_text: TextFiles, small_cache: Path, tmp_path: Path
) -> None:
    """Over all positions each of the eight best is drawn as often as it should; another seed draws other words."""
    found, best = rows_of(caches["sample"]), rows_of(small_cache)
    np.testing.assert_array_equal(found["written"], best["written"])
    counts = to_counts(found["values"], 20)
    assert (counts.sum(axis=1) == 20).all()
    for rank in range(8):
        p = np.exp(best["values"][:, rank].astype(np.float64))
        seen = (counts * (found["ids"] == best["ids"][:, rank : rank + 1])).sum(axis=1)
        assert abs((seen - 20 * p).sum() / np.sqrt((20 * p * (1 - p)).sum())) < 4
    wanted = replace(KINDS["sample"], seed=5)
    dump(DumpConfig(str(small_teacher), small_text, shard_pairs=40, device="cpu", distributions=wanted), tmp_path / "5")
    other = rows_of(tmp_path / "5")
    np.testing.assert_array_equal(other["written"], found["written"])
    assert (other["ids"] != found["ids"]).any(axis=1).mean() > 0.3


def test_normalizers_make_the_tail_exact(caches: dict[str, Path], small_teacher: Path) -> None:
    """At T the stored words and the rest have the probabilities of the whole tempered distribution in float64."""
    reader = CacheReader(caches["normalizers"])
    topk = reader.shard(0).soft
    _, dense = slow_distributions(small_teacher, toy_pairs(40), 7)
    assert topk.log_normalizers is not None
    for column, temperature in enumerate(reader.plan.temperatures):
        tempered = np.exp(dense.astype(np.float64) / temperature)
        whole = tempered / tempered.sum(axis=1, keepdims=True)
        expected = np.take_along_axis(whole, topk.token_ids.astype(np.int64), axis=1)
        found = np.exp(topk.log_probs.astype(np.float64) / temperature - topk.log_normalizers[:, [column]])
        np.testing.assert_allclose(found, expected, atol=5e-4)
        np.testing.assert_allclose(1 - found.sum(axis=1), 1 - expected.sum(axis=1), atol=1e-3)
        assert (1 - expected.sum(axis=1)).max() > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_tools_read_every_kind(kind: str, caches: dict[str, Path]) -> None:
    """Verify finds nothing, inspect names what is special, and a pair is shown in strict JSON."""
    cache = caches[kind]
    assert "sound" in run_here("verify", cache).stdout
    words = {
        "maskings": ["3, averaged, with seed 4", "mass of the top-k"],
        "sample": ["20 a position, with seed 4"],
        "normalizers": ["at T = 2, 5"],
        "both": ["2, averaged", "9 a position"],
    }
    shown = run_here("inspect", cache).stdout
    assert all(word in shown for word in words[kind])
    summary = summarize(CacheReader(cache))
    assert summary.known > 0
    assert (summary.best is None) == (summary.mass is None) == (CacheReader(cache).plan.draws > 0)
    done = run_here("inspect", cache, "--pair", "3", "--json")
    pair = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    for _, _, listed in pair["words"]:
        assert len({piece for piece, _ in listed}) == len(listed) >= 1


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"maskings": 0}, {}, "--maskings must be at least 1"),
        ({"sample": -1}, {}, "--sample must be between 0 and 65535"),
        ({"sample": 65_536}, {}, "--sample must be between 0 and 65535"),
        ({"seed": -1}, {}, "--seed must be between 0"),
        ({"normalizers": (5.0, 2.0)}, {}, "rising and other than 1.*not 5,2"),
        ({"normalizers": (1.0,)}, {}, "rising and other than 1"),
        ({"normalizers": (0.0, 2.0)}, {}, "above 0"),
        ({"normalizers": (2.0, float("inf"))}, {}, "--normalizers takes temperatures"),
        ({"normalizers": (2.0,), "sample": 5}, {}, "--normalizers with --sample"),
        ({"normalizers": (2.0,)}, {"encoding": "compact"}, "--normalizers with --encoding compact"),
        ({"sample": 5}, {"topk": 8}, "--topk 8 with --sample 5"),
    ],
)
def test_options_that_cannot_be_are_refused(changes: dict[str, Any], more: dict[str, Any], words: str) -> None:
    """Values outside their range and options that exclude each other are refused before anything is read."""
    config = DumpConfig("t", TextFiles(pairs="p"), distributions=Distributions(**changes), **more)
    with pytest.raises(UsageError, match=words):
        config.check()


def test_more_draws_than_words_fit_into_the_vocabulary(small_teacher: Path, tmp_path: Path) -> None:
    """With more draws than words the columns are the vocabulary, and no draw is lost."""
    text = toy_text(tmp_path, 12)
    dump(
        DumpConfig(str(small_teacher), text, device="cpu", distributions=Distributions(sample=300)), tmp_path / "cache"
    )
    plan = CacheReader(tmp_path / "cache").plan
    assert plan.topk == plan.vocabulary < 300
    assert (to_counts(rows_of(tmp_path / "cache")["values"], 300).sum(axis=1) == 300).all()
