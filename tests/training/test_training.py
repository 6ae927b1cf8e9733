"""The training loop: what it counts, keeps and refuses."""

import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from loops import RUN, Disturbed, Trainer, metrics, terminate
from models import parameters, same_parameters

from kdcache.cache.reader import CacheReader
from kdcache.errors import StoppedError, TrainingError
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.training.batches import TextSections
from kdcache.training.loop import count_steps, fit


def test_the_best_validation_is_exported(trainer: Trainer, tmp_path: Path) -> None:
    """The model is left with the parameters of the step whose validation loss was lowest."""
    task = Disturbed(trainer.task())
    seen: list[dict[str, torch.Tensor]] = []

    @torch.no_grad()
    def ruin() -> None:
        seen.append(parameters(task.model))
        for parameter in task.model.parameters():
            parameter.zero_()

    task.before = {13: ruin}
    config = replace(trainer.config.training, epochs=None, max_steps=15, valid_every=3, learning_rate=1e-2)
    result = fit(task, trainer.sections, config, tmp_path, RUN)
    losses = {line["step"]: line["valid_nll"] for line in metrics(tmp_path) if "valid_nll" in line}
    assert sorted(losses) == [3, 6, 9, 12, 15]
    assert result.exported_steps == (min(losses, key=lambda step: losses[step]),) == (12,)
    assert result.valid_nll == losses[12]
    assert same_parameters(parameters(task.model), seen[0])


def test_validation_is_the_plain_loss(trainer: Trainer, tmp_path: Path) -> None:
    """Validation is -log P(word) without smoothing, soft labels or dropout, the same however often it is asked."""
    task = trainer.task()
    task.model.eval()
    values = []
    for _ in range(2):
        losses = [task.valid_loss(batch) for batch in task.valid]
        values.append(sum(float(one.total.detach()) for one in losses) / sum(one.n_tokens for one in losses))
        assert all(one.parts.keys() == {"nll", "correct"} for one in losses)
    trainer.run(tmp_path, epochs=None, max_steps=1, valid_every=1, learning_rate=1e-12)
    assert values[0] == values[1]
    assert metrics(tmp_path)[-1]["valid_nll"] == pytest.approx(values[0], rel=1e-5)


def test_non_finite_losses_are_skipped(trainer: Trainer, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A step whose loss is not finite changes no parameter and no moment, and the records stay numbers."""
    task = Disturbed(trainer.task(), spoiled=frozenset(range(3, 12)) | frozenset(range(13, 22)))
    seen: dict[int, dict[str, torch.Tensor]] = {}
    task.before = {n: lambda n=n: seen.update({n: parameters(task.model)}) for n in (3, 12, 13)}
    fit(task, trainer.sections, replace(trainer.config.training, epochs=None, max_steps=25), tmp_path, RUN)
    assert same_parameters(seen[3], seen[12])
    assert not same_parameters(seen[12], seen[13])
    assert caplog.text.count("was skipped: its loss or gradient is not finite") == 18
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert {line["step"] for line in metrics(tmp_path) if "loss" in line} == {1, 20}


def test_ten_non_finite_losses_in_a_row_end_it(trainer: Trainer, tmp_path: Path) -> None:
    """The tenth skipped step in a row is an error that names remedies."""
    task = Disturbed(trainer.task(), spoiled=frozenset(range(2, 12)))
    with pytest.raises(TrainingError, match=r"10 steps in a row, up to step 11.*--learning-rate"):
        fit(task, trainer.sections, replace(trainer.config.training, epochs=None, max_steps=25), tmp_path, RUN)
    assert task.calls == 11


def test_text_without_a_usable_pair_is_refused(trainer: Trainer, tmp_path: Path) -> None:
    """Nothing to train on is an error, not an endless loop."""
    reader = CacheReader(Path(trainer.config.cache))
    pairs: EncodedPairs = reader.shard(0).pairs
    empty = TextSections([pairs.without(pairs.target_lengths > 0)])
    with pytest.raises(TrainingError, match="no usable pair"):
        fit(trainer.task(), empty, replace(trainer.config.training, epochs=None, max_steps=3), tmp_path, RUN)


def test_epochs_are_counted_in_batches(trainer: Trainer, tmp_path: Path) -> None:
    """N epochs take N times the batches of one, and every pair N times."""
    task = Disturbed(trainer.task())
    result = fit(task, trainer.sections, replace(trainer.config.training, epochs=3, valid_every=None), tmp_path, RUN)
    seen = [len(selection.rows) for selection in task.seen]
    assert result.steps == len(seen) == 3 * count_steps(trainer.sections, replace(trainer.config.training, epochs=1))
    assert sum(seen) == 3 * sum(trainer.sections.sizes)
    assert [line["step"] for line in metrics(tmp_path) if "valid_nll" in line] == [
        result.steps // 3 * epoch for epoch in (1, 2, 3)
    ]


def test_the_second_signal_stops_at_once(trainer: Trainer, tmp_path: Path) -> None:
    """A second signal does not wait for the end of the step."""

    def twice() -> None:
        terminate()
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("went on")

    with pytest.raises(StoppedError, match="SIGINT"):
        trainer.run(tmp_path, {2: twice})
    assert not (tmp_path / "checkpoints").exists()


def test_training_a_teacher_lowers_its_loss(teacher_config: TeacherConfig, tmp_path: Path) -> None:
    """The masked words become more probable, on validation text whose masks never change."""
    config = replace(teacher_config, training=replace(teacher_config.training, max_steps=60, learning_rate=1e-2))
    train_teacher(config, tmp_path)
    losses = [line["valid_nll"] for line in metrics(tmp_path) if "valid_nll" in line]
    assert losses[-1] < losses[0] - 0.5
    assert json.loads((tmp_path / "run.json").read_text())["result"]["valid_nll"] == min(losses)
