"""The loader: what it cuts, how far it reads ahead, and how its thread ends."""

from __future__ import annotations

import json
import shutil
import threading
import time
import tracemalloc
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import python
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import CrashError, Disturbed, Trainer, all_metrics, crash, terminate
from streams import COUNTS, METHODS
from test_batches import encoded

from kdcache.cache import schema
from kdcache.errors import CorruptError, StoppedError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.training import batches
from kdcache.training.batches import Section, Sections, Selection, micro_bounds
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group
from kdcache.training.loader import DEPTH, THREAD_NAME, Loader, step_batches

CPU = torch.device("cpu")


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


@settings(deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(3, 40), st.integers(1, 40)), min_size=1, max_size=40),
    micro_tokens=st.integers(1, 700),
    count=st.integers(1, 5),
)
def test_micro_batches_cover_a_step(lengths: list[tuple[int, int]], micro_tokens: int, count: int) -> None:
    """Every row is in one micro-batch, each keeps to --micro-tokens, and processes get as many each while rows last."""
    lengths = sorted(lengths)
    bounds = micro_bounds(Selection(Section(encoded(lengths)), np.arange(len(lengths)), 0, 0), micro_tokens, count)
    assert [row for start, stop in bounds for row in range(start, stop)] == list(range(len(lengths)))
    for start, stop in bounds:
        longest = sum(max(one[side] for one in lengths[start:stop]) for side in (0, 1))
        assert stop - start == 1 or (stop - start) * longest <= micro_tokens
    assert len(bounds) % count == 0 or len(bounds) == len(lengths)


def test_a_step_that_fits_is_one_micro_batch() -> None:
    """By hand: 4 pairs of 3 + 2 tokens are 20; at 20 one pass, at 19 two passes of 2, for two processes 2 or 4."""
    selection = Selection(Section(encoded([(3, 2)] * 4)), np.arange(4), 0, 0)
    assert micro_bounds(selection, 20, 1) == [(0, 4)]
    assert micro_bounds(selection, 19, 1) == [(0, 2), (2, 4)]
    assert micro_bounds(selection, 20, 2) == [(0, 2), (2, 4)]
    assert micro_bounds(selection, 5, 2) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_fault_37_read_ahead_is_not_consumed(trainer: Trainer, tmp_path: Path) -> None:
    """Batches that were ready when training stopped are the first of the next process; none is lost or doubled."""
    whole = Disturbed(trainer.task())
    trainer.train(whole, tmp_path / "whole")
    expected = [(one.epoch, one.index, one.rows.tolist()) for one in whole.seen]
    # So that the loader has time to read ahead as far as it may.
    stopped = Disturbed(trainer.task(), {2: lambda: (time.sleep(0.5), terminate())})
    with pytest.raises(StoppedError):
        trainer.train(stopped, tmp_path / "parts")
    assert len(stopped.read) == len(stopped.seen) + DEPTH
    rest = Disturbed(trainer.task())
    trainer.train(rest, tmp_path / "parts")
    assert [(one.epoch, one.index, one.rows.tolist()) for one in [*stopped.seen, *rest.seen]] == expected


def test_fault_30_a_damaged_shard_in_the_loader(trainer: Trainer, small_cache: Path, tmp_path: Path) -> None:
    """A shard that is damaged while training runs ends it soon with the shard's name, and leaves no thread."""
    cache = tmp_path / "cache"
    shutil.copytree(small_cache, cache)
    trainer.config = replace(trainer.config, cache=str(cache))
    # Otherwise all shards are one window, which is read before the first step.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "WINDOW_PAIRS", 1)
        name = schema.shard_name(int(np.random.default_rng((1, 0)).permutation(4)[3]))

        def damage() -> None:
            path = cache / "shards" / name
            path.write_bytes(path.read_bytes()[:-100])

        task = Disturbed(trainer.task(), {1: damage})
        sections = trainer.sections
        with pytest.raises(CorruptError, match=name):
            trainer.train(task, tmp_path / "student", epochs=None, max_steps=10_000, max_tokens=400)
    assert 1 <= task.calls < sum(sections.sizes)
    assert loaders() == []


def test_fault_30_errors_on_both_sides_end_the_thread(trainer: Trainer, tmp_path: Path) -> None:
    """An exception while batches are made reaches the caller as it is; one in the loop ends the loader."""
    task = Disturbed(trainer.task())
    task.before_collate = {3: crash}
    with pytest.raises(CrashError):
        trainer.train(task, tmp_path / "loader")
    assert task.calls <= 3
    assert loaders() == []
    with pytest.raises(CrashError):
        trainer.run(tmp_path / "loop", {2: crash})
    assert loaders() == []


def test_the_loader_stays_within_its_depth() -> None:
    """No more than DEPTH items are made before the first is asked for, and leaving ends a generator that goes on."""
    made: list[int] = []

    def numbers():
        while True:
            made.append(len(made))
            yield len(made)

    with Loader(lambda _: numbers(), CPU) as ahead:
        time.sleep(0.3)
        assert len(made) == DEPTH
        assert [next(ahead) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert len(loaders()) == 1
    assert loaders() == []
    assert len(made) <= 5 + DEPTH


@pytest.mark.parametrize("slow", ["loader", "step"])
def test_the_wait_for_the_loader_is_recorded(trainer: Trainer, tmp_path: Path, slow: str) -> None:
    """`loader_wait` is near 1 where making batches takes nearly all the time, and near 0 where the steps do."""
    task = Disturbed(trainer.task())
    moments = {number: lambda: time.sleep(0.1) for number in range(1, 40)}
    if slow == "loader":
        task.before_collate = moments
    else:
        task.before = moments
    trainer.train(task, tmp_path, epochs=None, max_steps=20, valid_every=None, max_tokens=200)
    share = next(line["loader_wait"] for line in all_metrics(tmp_path) if line["step"] == 20 and "loss" in line)
    assert (share > 0.5) if slow == "loader" else (share < 0.2)


@dataclass
class Wide(Sections):
    """Sections with soft labels, freshly made at every load, so that only the loader holds them."""

    pairs: int
    sections: int

    @property
    def sizes(self) -> list[int]:
        return [self.pairs] * self.sections

    def load(self, _index: int) -> Section:
        pairs = encoded([(5, 5)] * self.pairs)
        shape = (pairs.n_targets, 64)
        return Section(pairs, SoftLabels(np.zeros(shape, np.uint16), np.zeros(shape, np.float16)))

    @property
    def window_bytes(self) -> int:
        """Of the soft labels of one window of two sections."""
        return 2 * self.pairs * 5 * 64 * 4


class Nothing:
    """A task whose batches are empty."""

    def collate(self, _selection: Selection, bounds: list[tuple[int, int]]) -> list[None]:
        return [None for _ in bounds]

    def move(self, batch: None, _device: torch.device) -> None:
        return batch


def test_no_two_windows_are_in_memory(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> None:
    """From one window to the next, memory peaks below twice a window: the old one is gone before the new is joined."""
    sections = Wide(4_000, 6)
    monkeypatch.setattr(batches, "WINDOW_PAIRS", 8_000)
    config = replace(trainer.config.training, max_tokens=20_000)
    steps = step_batches(Nothing(), sections, config, Position(), Group(), CPU)
    tracemalloc.start()
    while next(steps) is not None:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sections.window_bytes < peak < 1.8 * sections.window_bytes


def test_fault_31_the_same_stream_in_every_kind_of_process(small_cache: Path) -> None:
    """Processes made by fork, spawn and forkserver, one or four at once, read the same epoch as their parent."""
    done = python("streams.py", small_cache, timeout=200)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: len(digests) for name, digests in found.items()} == {
        "here": 1,
        **{f"{method} {count}": count for method in METHODS for count in COUNTS},
        "here again": 1,
    }
    assert len({digest for digests in found.values() for digest in digests}) == 1
