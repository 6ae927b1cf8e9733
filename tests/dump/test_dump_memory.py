"""A dump whose device runs out of memory: real allocations fail, by a limit on the address space or on the GPU."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from faults import little_memory, python
from hypothesis import given
from hypothesis import strategies as st
from models import toy_text

from kdcache.cache.reader import CacheReader
from kdcache.compute.device import is_out_of_memory
from kdcache.compute.halving import HalvingRunner
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, prepare
from kdcache.dump.dump_shards import dump
from kdcache.errors import ModelError
from kdcache.teacher.masking import MaskedViews, partition_batches
from kdcache.teacher.reduction import Predictions
from kdcache.text.corpus import TextFiles
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds
from kdcache.text.ragged import from_lists

PAIRS = 600
SPECIAL = SpecialIds(pad=0, unk=1, start=2, end=3, mask=4, joint=(3,))
CPU = torch.device("cpu")


def config(teacher: Path, text: TextFiles) -> DumpConfig:
    return DumpConfig(str(teacher), text, shard_pairs=PAIRS, max_tokens=120_000, device="cpu")


def main(teacher: str, source: str, target: str, output: str, spare: str) -> None:
    """Dump with little memory, in a process of its own; its warnings go to standard error."""
    logging.basicConfig(format="%(message)s")
    job = prepare(config(Path(teacher), TextFiles(source, target)))
    # What is reserved once, whatever the batch.
    job.soft_labels(job.encode(0).take(np.arange(4)), 0, lambda _views: None)
    with little_memory(int(spare)):
        _dump(job, Path(output))


def _dump(job: Job, output: Path) -> None:
    from kdcache.dump.dump_shards import dump_job
    from kdcache.process.ranks import Process

    dump_job(job, output, Process())


def test_fault_18_out_of_memory_splits_the_batch(small_teacher: Path, tmp_path: Path) -> None:
    """A batch for which allocations fail is halved until it fits: the cache has every position, up to rounding."""
    text = toy_text(tmp_path, PAIRS)
    dump(config(small_teacher, text), tmp_path / "roomy")
    arguments = (small_teacher, *text.paths(), tmp_path / "tight", 60 << 20)
    done = python(__file__, *arguments)
    assert done.returncode == 0, done.stderr
    assert "The memory does not suffice for" in done.stderr
    roomy, tight = (CacheReader(tmp_path / name).shard(0) for name in ("roomy", "tight"))
    assert (roomy.pairs.target_ids == tight.pairs.target_ids).all()
    assert np.abs(roomy.soft.log_probs.astype(np.float32) - tight.soft.log_probs).max() < 2e-2
    assert np.abs(roomy.target_log_prob.astype(np.float32) - tight.target_log_prob).max() < 2e-2
    # Another word stands where two are equally probable up to rounding, and nowhere else.
    assert (roomy.soft.token_ids != tight.soft.token_ids).mean() < 1e-3


def test_fault_18_memory_for_no_view_at_all(small_teacher: Path, tmp_path: Path) -> None:
    """Where not even one sequence fits, the dump ends with an error that says so, and commits nothing."""
    text = toy_text(tmp_path, PAIRS)
    done = python(__file__, small_teacher, *text.paths(), tmp_path / "tight", 0)
    assert done.returncode == 1
    assert "ModelError: The memory does not suffice for one sequence" in done.stderr
    assert list((tmp_path / "tight" / "shards").glob("*.h5")) == []


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU whose memory can run out")
def test_fault_18_out_of_memory_on_a_gpu(small_teacher: Path, tmp_path: Path) -> None:
    """The same on a GPU of which this process may use little."""
    text = toy_text(tmp_path, PAIRS)
    settings = replace(config(small_teacher, text), device="cuda", precision="float32", max_tokens=4_000_000)
    dump(replace(settings, max_tokens=2_000), tmp_path / "roomy")
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        dump(settings, tmp_path / "tight")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    roomy, tight = (CacheReader(tmp_path / name).shard(0) for name in ("roomy", "tight"))
    assert np.abs(roomy.soft.log_probs.astype(np.float32) - tight.soft.log_probs).max() < 2e-2


def make_pairs(shapes: list[tuple[int, int]]) -> EncodedPairs:
    sources = from_lists([[2, *range(5, 5 + source), 3] for source, _ in shapes])
    targets = from_lists([[*range(50, 50 + target), 3] for _, target in shapes])
    return EncodedPairs(*sources, *targets)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 12)), min_size=1, max_size=6),
    passes=st.integers(1, 8),
    cut=st.randoms(use_true_random=False),
)
def test_rows_of_views(shapes: list[tuple[int, int]], passes: int, cut: object) -> None:
    """Some rows of a batch are the batch of those rows: each cell, mask, label and place is that of the whole."""
    whole = next(partition_batches(make_pairs(shapes), passes, 10_000, SPECIAL))
    n = len(whole.lengths)
    start = cut.randrange(n)  # type: ignore[attr-defined]
    stop = cut.randrange(start, n) + 1  # type: ignore[attr-defined]
    part = whole.rows(start, stop)
    longest = int(whole.lengths[start:stop].max())
    assert part.input_ids.shape == part.segment_ids.shape == (stop - start, longest)
    assert (part.input_ids == whole.input_ids[start:stop, :longest]).all()
    assert (part.segment_ids == whole.segment_ids[start:stop, :longest]).all()
    assert (part.lengths == whole.lengths[start:stop]).all()
    width = whole.input_ids.shape[1]
    expected = [
        (position // width - start, position % width, label, row)
        for position, label, row in zip(whole.masked, whole.labels, whole.target_rows, strict=True)
        if start <= position // width < stop
    ]
    found = zip(part.masked // longest, part.masked % longest, part.labels, part.target_rows, strict=True)
    assert [tuple(map(int, one)) for one in found] == [tuple(map(int, one)) for one in expected]
    assert (part.input_ids.reshape(-1)[part.masked] == SPECIAL.mask).all()


def test_later_batches_are_not_tried_in_vain() -> None:
    """What was found to fit holds for later batches; parts come in order and together are the batch."""
    sizes: list[int] = []

    def predict(views: MaskedViews) -> Predictions:
        sizes.append(len(views.lengths))
        if len(views.lengths) > 3:
            raise torch.OutOfMemoryError("no room")
        labels = torch.from_numpy(views.labels)
        return Predictions(labels[:, None], labels[:, None], labels)

    halving = HalvingRunner("one sequence", "Free memory")
    views = next(partition_batches(make_pairs([(3, 7)] * 2), 7, 10_000, SPECIAL))
    for _ in range(2):
        parts = list(halving.parts(views, predict))
        assert np.concatenate([part.target_rows for part, _ in parts]).tolist() == views.target_rows.tolist()
        assert all((found.target_log_prob == part.labels).all() for part, found in parts)
    # 14 views: 14 and 7 do not fit, then what is at most a quarter of their cells, and nothing larger ever again.
    assert sizes[:2] == [14, 7]
    assert max(sizes[2:]) == 3


def test_other_failures_are_not_taken_for_a_lack_of_memory() -> None:
    """An error that does not speak of memory reaches the caller at once."""
    calls = []

    def predict(views: MaskedViews) -> Predictions:
        calls.append(views)
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    views = next(partition_batches(make_pairs([(3, 7)]), 7, 10_000, SPECIAL))
    with pytest.raises(RuntimeError, match="shapes"):
        list(HalvingRunner("one sequence", "Free memory").parts(views, predict))
    assert len(calls) == 1
    assert not is_out_of_memory(ValueError("DefaultCPUAllocator: can't allocate memory"))
    assert is_out_of_memory(MemoryError())


def test_a_single_view_that_does_not_fit() -> None:
    """Halving ends at one view: then an error names its size."""

    def predict(_views: MaskedViews) -> Predictions:
        raise torch.OutOfMemoryError("no room")

    views = next(partition_batches(make_pairs([(3, 7)]), 7, 10_000, SPECIAL))
    with pytest.raises(ModelError, match=f"one sequence of {views.input_ids.shape[1]} tokens"):
        list(HalvingRunner("one sequence", "Free memory").parts(views, predict))


if __name__ == "__main__":
    main(*sys.argv[1:])
