"""Words of the decoder's input that the teacher draws: which, how often, and that nothing but their place decides."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import run_here
from hypothesis import given, settings
from hypothesis import strategies as st
from loops import Trainer
from models import same_parameters

from kdcache.cache.reader import open_cache
from kdcache.files.strict_json import read_json
from kdcache.labels.counter_random import INPUTS, keys, uniforms
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.cached_labels import cache_sections
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds, concatenate
from kdcache.training.batches import Batch, Resampling, Section, Selection, collate, epoch_order

SPECIAL = SpecialIds(pad=0, unk=1, mask=2, start=3, end=4, joint=())
WRITTEN = 9


def section(lengths: list[int], numbers: list[int]) -> Section:
    """Targets of these lengths that repeat one word; the labels are 10, 11 and an end token, 1/2, 1/8 and 1/4."""
    targets = [[WRITTEN] * (length - 1) + [SPECIAL.end] for length in lengths]
    pairs = EncodedPairs(*ragged.from_lists([[5, 6]] * len(lengths)), *ragged.from_lists(targets))
    n = pairs.n_targets
    soft = SoftLabels(np.tile(np.uint16([10, 4, 11]), (n, 1)), np.tile(np.log(np.float32([0.5, 0.25, 0.125])), (n, 1)))
    return Section(pairs, soft, np.array(numbers))


def rows_of(batch: Batch, selection: Selection) -> dict[int, list[int]]:
    """The decoder's input of each pair, by the pair's number in the text, without padding."""
    window = selection.window
    assert window.numbers is not None
    numbers, lengths = window.numbers[selection.rows], window.pairs.target_lengths[selection.rows]
    return {int(n): row[:k].tolist() for n, k, row in zip(numbers, lengths, batch.decoder_ids, strict=True)}


def test_which_words_give_way_by_hand() -> None:
    """Word t is replaced where the first number of (seed, epoch, pair, t) is below P, by what the second one draws.

    Without the end token the words 10 and 11 have 4/5 and 1/5. The end token of the target is no input.
    """
    window = section([6, 3], [70, 8])
    resampling = Resampling(0.5, 3, SPECIAL)
    selection = Selection(window, np.array([0, 1]), epoch=2, index=5)
    expected = {}
    for number, length in ((70, 6), (8, 3)):
        words = [SPECIAL.start]
        for place in range(length - 1):
            chance, point = uniforms(keys(INPUTS, 3, 2, number, place), 2)[0]
            words.append((10 if point < 0.8 else 11) if chance < 0.5 else WRITTEN)
        expected[number] = words
    batch = collate(selection, SPECIAL, None, resampling)
    assert rows_of(batch, selection) == expected
    assert {10, 11, WRITTEN} < set(expected[70])
    plain = collate(selection, SPECIAL, None)
    assert torch.equal(batch.labels, plain.labels)
    assert batch.soft is not None
    assert plain.soft is not None
    assert torch.equal(batch.soft.log_probs, plain.soft.log_probs)


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=9),
    epoch=st.integers(0, 3),
    data=st.data(),
)
def test_draws_belong_to_the_pair(lengths: list[int], epoch: int, data: st.DataObject) -> None:
    """Alone, in any order, cut anywhere and out of another window, a pair of one epoch gets the same words."""
    numbers = data.draw(st.lists(st.integers(0, 10**9), min_size=len(lengths), max_size=len(lengths), unique=True))
    window, resampling = section(lengths, numbers), Resampling(0.7, 1, SPECIAL)
    together = Selection(window, np.array(data.draw(st.permutations(range(len(lengths))))), epoch, 0)
    expected = rows_of(collate(together, SPECIAL, None, resampling), together)
    for i, number in enumerate(numbers):
        for alone in (
            Selection(window, np.array([i]), epoch, 7),
            Selection(section([lengths[i]], [number]), np.array([0]), epoch, 0),
        ):
            assert rows_of(collate(alone, SPECIAL, None, resampling), alone) == {number: expected[number]}


def test_shares_of_drawn_words() -> None:
    """Of 200,000 words P give way, 4 to 1 for the two that may be drawn; special tokens never are; epochs differ."""
    window = section([1_001] * 200, list(range(200)))
    inputs = []
    for epoch in (0, 1):
        selection = Selection(window, np.arange(200), epoch, 0)
        inputs.append(collate(selection, SPECIAL, None, Resampling(0.15, 3, SPECIAL)).decoder_ids[:, 1:].numpy())
        shares = [(inputs[epoch] == word).mean() for word in (WRITTEN, 10, 11)]
        # Four standard deviations of the largest are 0.0032.
        assert shares == pytest.approx([0.85, 0.12, 0.03], abs=0.0033)
        assert sum(shares) == pytest.approx(1)
    both = ((inputs[0] != WRITTEN) & (inputs[1] != WRITTEN)).mean()
    assert both == pytest.approx(0.15**2, abs=0.0014)


@pytest.mark.parametrize("topk", [None, 2])
def test_only_words_that_are_no_special_tokens_stand_in(topk: int | None) -> None:
    """With --topk only these words are drawn from, and where all of them are special tokens the written word stays."""
    window = section([9], [0])
    selection = Selection(window, np.array([0]), 0, 0)
    found = collate(selection, SPECIAL, topk, Resampling(0.999, 1, SPECIAL)).decoder_ids[0, 1:].tolist()
    assert set(found) == ({10} if topk else {10, 11})
    assert window.soft is not None
    only_special = replace(window, soft=replace(window.soft, token_ids=window.soft.token_ids % 5))
    selection = replace(selection, window=only_special)
    kept = collate(selection, SPECIAL, None, Resampling(0.999, 1, SPECIAL)).decoder_ids
    assert kept.tolist() == [[SPECIAL.start, *[WRITTEN] * 8]]


def test_a_cache_numbers_its_pairs(small_cache: Path) -> None:
    """Through all shards of an epoch, each number stands beside the pair of that line of the text."""
    reader = open_cache(str(small_cache))
    shards = [reader.shard(index).pairs for index in range(reader.plan.n_shards)]
    assert len(shards) > 2
    seen = []
    # Resampling alone makes a student without soft terms read labels.
    for selection in epoch_order(cache_sections(reader, ObjectiveConfig(alpha=1.0), 0.1), 600, 1, 0):
        window = selection.window
        assert window.numbers is not None
        for row, number in zip(selection.rows, window.numbers[selection.rows].tolist(), strict=True):
            shard, place = divmod(number, reader.plan.shard_pairs)
            alone = shards[shard].take(np.array([place]))
            assert window.pairs.take(np.array([row])).first_difference(alone) is None
            seen.append(number)
    assert sorted(seen) == np.flatnonzero(concatenate(shards).target_lengths).tolist()


def test_training_with_drawn_words(trainer: Trainer, tmp_path: Path) -> None:
    """P = 0 trains as if the option were not there; stopped and resumed, a run that draws ends with the same bits."""
    found = {}
    for share in (None, 0.0, 0.3):
        drawing = replace(trainer, config=replace(trainer.config, resample=share))
        found[share] = drawing.run(tmp_path / f"{share}")[1]
    assert same_parameters(found[0.0], found[None])
    assert not same_parameters(found[0.3], found[None])
    assert same_parameters(drawing.interrupted(tmp_path / "stopped", 3, 4)[1], found[0.3])


def test_resample_is_recorded_and_held_to_its_range(small_cache: Path, nano: str, tmp_path: Path) -> None:
    """run.json names P, also beside --alpha 1; a run of another P is refused, as is a probability of 1."""
    command = ["student-train", "--cache", str(small_cache), "--output", str(tmp_path / "student"), "--size", nano]
    command += ["--max-steps", "2", "--alpha", "1", "--device", "cpu", "--resample"]
    assert "must be at least 0 and below 1, not 1.0" in run_here(*command, "1").stderr
    assert run_here(*command, "0.25").returncode == 0
    assert read_json(tmp_path / "student" / "run.json")["config"]["resample"] == 0.25
    assert "resample" in run_here(*command, "0.5").stderr
