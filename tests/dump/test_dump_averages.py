"""Averages over maskings before they are rounded, against loops that take one view at a time; the partitions."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from models import slow_distributions, toy_pairs, toy_text
from torch import Tensor

from kdcache.dump.dump_config import Distributions, DumpConfig
from kdcache.dump.dump_forecast import forecast
from kdcache.dump.dump_job import make_plan
from kdcache.teacher import passes as module
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.masking import MaskedViews, passes_of_positions
from kdcache.teacher.passes import Passes, groups
from kdcache.text import ragged
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encoded_pairs import EncodedPairs

CPU = torch.device("cpu")
PAIRS, PASSES = 12, 3
MASKINGS = Distributions(maskings=3, seed=4)


def slow_average(folder: Path, encoded: EncodedPairs, maskings: int, seed: int) -> np.ndarray:
    """Log of the mean of the full distributions of all partitions, one view and one position at a time."""
    total = np.zeros(1)
    for masking in range(maskings):
        in_pass = passes_of_positions(encoded, PASSES, masking, seed, np.arange(encoded.n_pairs))
        rows = [one.tolist() for one in np.split(in_pass, encoded.target_offsets[1:-1])]
        _, found = slow_distributions(folder, toy_pairs(encoded.n_pairs), PASSES, rows)
        total = total + np.exp(found.astype(np.float64))
    return np.log(total / maskings)


class Cramped(Teacher):
    """A teacher on a device with room for `most` views: a larger batch fails as on a GPU that is full."""

    most = 1 << 30
    tries: list[int]

    def log_probs(self, views: MaskedViews, device: torch.device, precision: str) -> Tensor:
        self.tries.append(len(views.lengths))
        if len(views.lengths) > self.most:
            raise torch.OutOfMemoryError("no room")
        return super().log_probs(views, device, precision)


def kept(teacher: Teacher, text: TextFiles, encoded: EncodedPairs, wanted: Distributions) -> dict[str, np.ndarray]:
    """What a dump keeps of every row, before it is rounded; each row once, all views counted."""
    config = DumpConfig("t", text, topk=5, passes=PASSES, distributions=wanted, device="cpu")
    plan = make_plan(config, [teacher], Corpus(text), CPU)
    ids = np.full((encoded.n_targets, plan.topk), -1)
    values = np.full((encoded.n_targets, plan.topk), np.nan)
    written = np.full(encoded.n_targets, np.nan)
    seen: list[int] = []
    views: list[int] = []
    for rows, one in Passes(teacher, plan, 500, CPU).run(encoded, 0, views.append):
        ids[rows], values[rows], written[rows] = one.ids, one.values, one.target_log_prob
        seen += rows.tolist()
    assert sorted(seen) == list(range(encoded.n_targets))
    assert sum(views) == np.minimum(encoded.target_lengths, PASSES).sum() * wanted.maskings
    return {"ids": ids, "values": values, "written": written}


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> TextFiles:
    """Few pairs."""
    return toy_text(tmp_path_factory.mktemp("some"), PAIRS)


@pytest.mark.parametrize("maskings", [1, 4])
def test_the_average_equals_the_slow_loops(maskings: int, small_teacher: Path, text: TextFiles) -> None:
    """The best words and the written one come from the mean of M full distributions, to 1e-5."""
    teacher = Teacher.load(small_teacher)
    encoded = teacher.tokenizer.encode_pairs(toy_pairs(PAIRS))
    found = kept(teacher, text, encoded, Distributions(maskings=maskings, seed=4))
    expected = slow_average(small_teacher, encoded, maskings, 4)
    np.testing.assert_allclose(found["values"], -np.sort(-expected, axis=1)[:, :5], rtol=0, atol=1e-5)
    at_ids = np.take_along_axis(expected, found["ids"], axis=1)
    np.testing.assert_allclose(found["values"], at_ids, rtol=0, atol=1e-5)
    own = expected[np.arange(encoded.n_targets), encoded.target_ids]
    np.testing.assert_allclose(found["written"], own, rtol=0, atol=1e-5)
    if maskings > 1:
        assert np.abs(slow_average(small_teacher, encoded, 1, 4) - expected).max() > 0.1


@pytest.mark.parametrize("rows", [1, 30])
def test_the_size_of_a_group_changes_nothing(
    rows: int, small_teacher: Path, text: TextFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few sums are held at once, down to one pair's, the averages are the same."""
    teacher = Teacher.load(small_teacher)
    encoded = teacher.tokenizer.encode_pairs(toy_pairs(PAIRS))
    whole = kept(teacher, text, encoded, MASKINGS)
    monkeypatch.setattr(module, "_SUMS", rows * teacher.vocabulary)
    some = kept(teacher, text, encoded, MASKINGS)
    for name in ("values", "written"):
        np.testing.assert_allclose(some[name], whole[name], rtol=0, atol=1e-5)


def test_groups_keep_to_the_budget() -> None:
    """Every usable pair is in one group; a group holds at most so many positions, or a single pair."""
    lengths = np.array([3, 0, 50, 7, 7, 1, 12, 0, 20])
    offsets = ragged.offsets_of(lengths)
    ids = np.zeros(int(offsets[-1]), dtype=np.int32)
    for rows in (1, 10, 21, 1_000):
        found = list(groups(EncodedPairs(ids, offsets, ids, offsets), rows))
        assert sorted(np.concatenate(found).tolist()) == np.flatnonzero(lengths).tolist()
        assert all(lengths[group].sum() <= rows or len(group) == 1 for group in found)


def test_fault_18_out_of_memory_halves_the_views_of_an_average(small_teacher: Path, text: TextFiles) -> None:
    """Where a batch does not fit, its halves are added up instead, each once: the averages are the same."""
    teacher = Cramped.load(small_teacher)
    teacher.tries = []
    encoded = teacher.tokenizer.encode_pairs(toy_pairs(PAIRS))
    whole = kept(teacher, text, encoded, MASKINGS)
    assert max(teacher.tries) > 5
    teacher.tries, teacher.most = [], 3
    tight = kept(teacher, text, encoded, MASKINGS)
    assert teacher.tries[0] > 5
    np.testing.assert_allclose(tight["values"], whole["values"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("passes", [1, 3, 50])
def test_each_partition_masks_every_position_once(passes: int) -> None:
    """A pure function of seed, partition and pair; in each, a target's positions fill min(P, N) passes evenly."""
    lengths = np.array([1, 9, 0, 20, 4])
    offsets = ragged.offsets_of(lengths)
    ids = np.zeros(int(offsets[-1]), dtype=np.int32)
    pairs = EncodedPairs(ids, offsets, ids, offsets)
    indices = np.array([3, 8, 9, 2, 1 << 40])
    found = [passes_of_positions(pairs, passes, masking, 5, indices) for masking in range(4)]
    rows = np.array([4, 1, 3])
    for masking, in_pass in enumerate(found):
        for pair, n in enumerate(lengths.tolist()):
            own = in_pass[offsets[pair] : offsets[pair + 1]]
            assert sorted(own.tolist()) == sorted(p % passes for p in range(n))
        again = passes_of_positions(pairs.take(rows), passes, masking, 5, indices[rows])
        np.testing.assert_array_equal(again, in_pass[ragged.positions(offsets, rows)])
    assert found[0].tolist() == [p % passes for n in lengths.tolist() for p in range(n)]
    if passes > 1:
        others = [
            *found,
            passes_of_positions(pairs, passes, 1, 6, indices),
            passes_of_positions(pairs, passes, 1, 5, indices + 1),
        ]
        assert all((one != other).any() for one, other in itertools.combinations(others, 2))


def test_forecast_counts_the_views_of_all_maskings(small_teacher: Path, text: TextFiles) -> None:
    """--dry-run counts views and tokens M times, and targets once."""
    plain, several = (
        forecast(DumpConfig(str(small_teacher), text, device="cpu", distributions=Distributions(maskings=m)))
        for m in (1, 3)
    )
    assert (several.views, several.tokens, several.targets) == (3 * plain.views, 3 * plain.tokens, plain.targets)
