"""Merging what was merged before, and merging a second time: neither may say what is not so."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_here
from families import World, content, told, write
from faults import wait_until_stopped, wake
from hypothesis import given
from hypothesis import strategies as st
from remote import serve

from kdcache.cache.derived.derive_config import MergeConfig, TranscodeConfig
from kdcache.cache.derived.merging import merge
from kdcache.cache.derived.transcoding import transcode
from kdcache.cache.fill_cache import neighbouring_shards
from kdcache.cache.reader import CacheReader
from kdcache.errors import UsageError
from kdcache.files.failpoints import VARIABLE
from kdcache.process.ranks import Process

WORLD = World(n_pairs=3)


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
    one, two, three = (told(WORLD, tmp_path / str(m), m, best_two(m)) for m in range(3))
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
    sources = [told(WORLD, tmp_path / str(m), m, best_two(m)) for m in range(3)]
    result = merge(MergeConfig(tuple(map(str, sources))), tmp_path / "abc")
    assert result is not None
    ids, log_probs = content(tmp_path / "abc")[4:6]
    kept = ids[0].tolist()
    true = sum(distribution.get(word, 0.0) for distribution in TRUE for word in kept) / 3
    lacking = true - float(np.exp(log_probs[0].astype(float)).sum())
    assert lacking == pytest.approx(0.2 / 3, rel=1e-2)
    assert lacking <= result["mass"]["missed"] + 1e-4


def test_normalizers_of_the_sources_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Sources that hold log Z_T give an average without any, with one warning, whose words are those without them."""
    for name, temperatures in (("with", (0.5, 3.0)), ("without", ())):
        sources = []
        for m in range(2):
            plan = dataclasses.replace(WORLD.plan(m), temperatures=temperatures if m == 0 else ())
            sources.append(write(tmp_path / f"{name}{m}", plan, WORLD.arrays(m, plan)))
        caplog.clear()
        assert merge(MergeConfig(tuple(map(str, sources))), tmp_path / name) is not None
        said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert [line.startswith("Normalizers at other temperatures are left out") for line in said] == [
            True for _ in temperatures[:1]
        ]
        assert CacheReader(tmp_path / name).plan.temperatures == ()
        assert CacheReader(tmp_path / name).shard(0).soft.log_normalizers is None
    assert CacheReader(tmp_path / "with0").shard(0).soft.log_normalizers is not None
    for one, other in zip(content(tmp_path / "with"), content(tmp_path / "without"), strict=True):
        assert (one == other).all()


def test_nothing_cut_is_zero(tmp_path: Path) -> None:
    """Where all words are kept, the mass that is cut is 0 and printed so, not a little less for rounding."""
    world = World(n_pairs=17, vocabulary=75)
    sources = [world.write(tmp_path / str(m), m, topk=75, encoding="compact") for m in range(2)]
    result = merge(MergeConfig(tuple(map(str, sources))), tmp_path / "merged")
    assert result is not None
    assert result["mass"]["cut"] >= 0
    assert "mass of words known but cut  0.00 %" in run_here("merge", *sources, tmp_path / "merged").stdout


def test_a_finished_merge_is_not_done_again(tmp_path: Path) -> None:
    """Run again, a finished merge says what it said, reads no shard of a source, and leaves its record as it was.

    Where that record is damaged or speaks of another content, the averages are counted again.
    """
    one, two = (WORLD.write(tmp_path / str(m), m, shard_pairs=2) for m in range(2))
    record = tmp_path / "merged" / "run.json"
    with serve(one) as server:
        config = MergeConfig((server.url, str(two)))
        first = merge(config, tmp_path / "merged")
        written = record.read_bytes()
        for damage in (None, b"", written.replace(CacheReader(tmp_path / "merged").manifest.root.encode(), b"0" * 64)):
            if damage is not None:
                record.write_bytes(damage)
            server.requests.clear()
            assert merge(config, tmp_path / "merged") == first
            read = any(name.endswith(".h5") for name in server.requests)
            assert read == (damage is not None)
            assert json.loads(record.read_text())["result"] == first
            if damage is None:
                assert record.read_bytes() == written


def test_stopped_while_counting(tmp_path: Path) -> None:
    """SIGTERM ends a resumed merge also while it averages again what an earlier run wrote; then it can be completed."""
    sources = [WORLD.write(tmp_path / str(m), m, shard_pairs=1) for m in range(2)]
    line = [sys.executable, str(ROOT / "cli.py"), "merge", *map(str, sources), str(tmp_path / "merged")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    killed = subprocess.run(line, env={**environment, VARIABLE: "record-published:2"}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL
    pipe = subprocess.PIPE
    stopped = {**environment, VARIABLE: "finalizing:1:stop"}
    process = subprocess.Popen(line, env=stopped, stdout=pipe, stderr=pipe, text=True)
    wait_until_stopped(process)
    process.send_signal(signal.SIGTERM)
    done = wake(process)
    assert done.returncode == 143, done.stderr
    assert "result" not in json.loads((tmp_path / "merged" / "run.json").read_text())
    config = MergeConfig(tuple(map(str, sources)))
    assert merge(config, tmp_path / "merged") == merge(config, tmp_path / "whole")


@given(n_shards=st.integers(1, 200), count=st.integers(1, 40))
def test_every_shard_is_up_to_one_process(n_shards: int, count: int) -> None:
    """The runs of all processes are neighbours, cover every shard once, and differ in length by one at most."""
    runs = [neighbouring_shards(n_shards, Process(rank, count)) for rank in range(count)]
    assert list(itertools.chain.from_iterable(runs)) == list(range(n_shards))
    assert max(map(len, runs)) - min(map(len, runs)) <= 1


def test_processes_do_not_all_read_every_source_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four processes that cut two shards into eight read each of the two twice, not four times."""
    world = World(n_pairs=40)
    source = world.write(tmp_path / "source", shard_pairs=20)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with serve(source) as server:
        for rank in range(4):
            monkeypatch.setenv("RANK", str(rank))
            result = transcode(TranscodeConfig(server.url, shard_pairs=5), tmp_path / "made")
            assert (result is not None) == (rank == 3)
        assert [server.requests[f"shards/0000{index}.h5"] for index in range(2)] == [2, 2]
    monkeypatch.undo()
    for one, other in zip(content(tmp_path / "made"), content(source), strict=True):
        assert (one == other).all()
