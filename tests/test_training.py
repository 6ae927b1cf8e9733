"""The training loop: interrupted anywhere it takes the same steps, and it stops where going on would be wrong."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from conftest import run_cli
from models import parameters, same_parameters, start_cli, steps, wait_until
from torch import nn

from kdcache.batches import Selection, TextSections
from kdcache.cache.reader import CacheReader
from kdcache.cache.writer import CacheWriter
from kdcache.corpus import Corpus, TextFiles
from kdcache.encode import encode_sections
from kdcache.errors import MismatchError, StoppedError, TrainingError
from kdcache.losses import LossSums
from kdcache.objective import ObjectiveConfig
from kdcache.student.config import StudentConfig
from kdcache.student.train import CacheSections, StudentTask, make_task, train_student
from kdcache.teacher.config import TeacherConfig
from kdcache.teacher.prepare import prepare_teacher
from kdcache.teacher.train import TeacherTask, train_teacher
from kdcache.tokens import EncodedPairs
from kdcache.training.config import TrainingConfig
from kdcache.training.loop import FitResult, Task, count_steps, fit

RUN = "run"
EPOCHS = 2


class CrashError(Exception):
    """Something that nobody expected."""


@dataclass
class Disturbed:
    """A task to which something happens: `before[n]` is called before its n-th loss, `spoiled` losses are infinite."""

    task: Task
    before: dict[int, Callable[[], None]] = field(default_factory=dict)
    spoiled: frozenset[int] = frozenset()
    calls: int = 0

    @property
    def model(self) -> nn.Module:
        return self.task.model

    @property
    def width(self) -> int:
        return self.task.width

    def loss(self, selection: Selection, device: torch.device) -> LossSums:
        self.calls += 1
        self.before.get(self.calls, lambda: None)()
        sums = self.task.loss(selection, device)
        return replace(sums, total=sums.total * float("inf")) if self.calls in self.spoiled else sums

    def valid_losses(self, device: torch.device) -> Iterator[LossSums] | None:
        return self.task.valid_losses(device)


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def crash() -> None:
    raise CrashError


@dataclass
class Trainer:
    """A student on the small cache, dropout on, made afresh for every process that is imitated."""

    config: StudentConfig

    def task(self) -> StudentTask:
        valid = None if self.config.valid is None else Corpus(self.config.valid)
        return make_task(self.config, CacheReader(Path(self.config.cache)), valid)

    @property
    def sections(self) -> CacheSections:
        return CacheSections(CacheReader(Path(self.config.cache)), soft=True)

    def run(
        self, output: Path, before: dict[int, Callable[[], None]] | None = None, **changes: object
    ) -> tuple[FitResult, dict[str, torch.Tensor]]:
        output.mkdir(exist_ok=True)
        task = Disturbed(self.task(), before or {})
        result = fit(task, self.sections, replace(self.config.training, **changes), output, RUN)
        return result, parameters(task.model)

    def interrupted(self, output: Path, *moments: int) -> tuple[FitResult, dict[str, torch.Tensor]]:
        """Ask to stop before the n-th loss of each process in turn, then let it finish."""
        for moment in moments:
            with pytest.raises(StoppedError):
                self.run(output, {moment: terminate})
        return self.run(output)


@pytest.fixture
def trainer(small_cache: Path, small_valid: TextFiles, nano: str) -> Trainer:
    training = steps(1, max_tokens=1_100, max_steps=None, epochs=EPOCHS, valid_every=4)
    objective = ObjectiveConfig(temperature=2.0)
    return Trainer(StudentConfig(str(small_cache), objective, training, small_valid, size=nano, dropout=0.3))


def metrics(output: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def test_fault_34_stopped_at_every_batch(trainer: Trainer, tmp_path: Path) -> None:
    """Stopped after any step of two epochs and run again: the same parameters, bit for bit, and the same records."""
    result, expected = trainer.run(tmp_path / "undisturbed")
    assert result.steps == count_steps(trainer.sections, trainer.config.training) > 8
    for moment in range(1, result.steps + 1):
        output = tmp_path / str(moment)
        found, state = trainer.interrupted(output, moment)
        assert same_parameters(state, expected), moment
        assert replace(found, seconds=0) == replace(result, seconds=0)
        assert (output / "metrics.jsonl").read_text() == (tmp_path / "undisturbed" / "metrics.jsonl").read_text()
        shutil.rmtree(output)


def test_fault_35_stopped_twice_and_between_epochs(trainer: Trainer, tmp_path: Path) -> None:
    """Stopped twice, at the end of an epoch, in a later one, or at the very end: nothing differs."""
    result, expected = trainer.run(tmp_path / "undisturbed")
    epoch = result.steps // EPOCHS
    for name, moments in (
        ("twice", (3, 2)),
        ("end", (epoch, 1)),
        ("later", (epoch + 1, 2)),
        ("last", (result.steps,)),
    ):
        found, state = trainer.interrupted(tmp_path / name, *moments)
        assert same_parameters(state, expected), name
        assert found.steps == result.steps
        assert metrics(tmp_path / name) == metrics(tmp_path / "undisturbed"), name


def test_fault_43_curves_are_bitwise_equal(trainer: Trainer, tmp_path: Path) -> None:
    """A run that crashed without saving, between two lines of its record, ends with the same curve and parameters."""
    many = {"epochs": None, "max_steps": 45, "valid_every": 15}
    _, expected = trainer.run(tmp_path / "undisturbed", **many)
    for moment in (8, 31):
        with pytest.raises(CrashError):
            trainer.run(tmp_path / "disturbed", {moment: crash}, save_seconds=0.0 if moment == 8 else 120.0, **many)
    assert [line["step"] for line in metrics(tmp_path / "disturbed")] != [
        line["step"] for line in metrics(tmp_path / "undisturbed")
    ]
    _, found = trainer.run(tmp_path / "disturbed", **many)
    assert same_parameters(found, expected)
    assert metrics(tmp_path / "disturbed") == metrics(tmp_path / "undisturbed")


def test_records_have_every_line_once(trainer: Trainer, tmp_path: Path) -> None:
    """After stops and a torn last line the record has one line for every twentieth step and every validation."""
    many = {"epochs": None, "max_steps": 41, "valid_every": 10}
    for moment in (19, 3, 9):
        with pytest.raises(StoppedError):
            trainer.run(tmp_path, {moment: terminate}, **many)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 20, "lo')
    trainer.run(tmp_path, **many)
    lines = metrics(tmp_path)
    assert [line["step"] for line in lines if "valid_nll" not in line] == [1, 20, 40]
    assert [line["step"] for line in lines if "valid_nll" in line] == [10, 20, 30, 40, 41]


def test_dropout_is_on(trainer: Trainer, tmp_path: Path) -> None:
    """What the bitwise comparisons compare does depend on the random state: another dropout, other parameters."""
    _, one = trainer.run(tmp_path / "one", epochs=None, max_steps=2)
    trainer.config = replace(trainer.config, dropout=0.0)
    _, other = trainer.run(tmp_path / "other", epochs=None, max_steps=2)
    assert not same_parameters(one, other)


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
    assert result.exported_step == min(losses, key=lambda step: losses[step]) == 12
    assert result.best_loss == losses[12]
    assert same_parameters(parameters(task.model), seen[0])


def test_validation_is_the_plain_loss(trainer: Trainer, tmp_path: Path) -> None:
    """Validation is -log P(word) without smoothing, soft labels or dropout, the same however often it is asked."""
    task = trainer.task()
    task.model.eval()
    values = []
    for _ in range(2):
        losses = list(task.valid_losses(torch.device("cpu")))
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
    seen: list[int] = []
    task = Disturbed(trainer.task())
    inner = task.loss

    def counting(selection: Selection, device: torch.device) -> LossSums:
        seen.append(len(selection.rows))
        return inner(selection, device)

    task.loss = counting  # type: ignore[method-assign]
    result = fit(task, trainer.sections, replace(trainer.config.training, epochs=3, valid_every=None), tmp_path, RUN)
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


def test_fault_38_another_cache_or_seed(
    trainer: Trainer, small_cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An output folder goes on with its own cache and settings only; a finished one is left alone."""
    cache, output = tmp_path / "cache", tmp_path / "student"
    shutil.copytree(small_cache, cache)
    config = replace(trainer.config, cache=str(cache), training=steps(2, max_tokens=1_100))
    train_student(config, output)
    written = {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.name != "kdcache.log"}
    with caplog.at_level("INFO", logger="kdcache"):
        train_student(config, output)
    assert "nothing to do" in caplog.text
    assert {path.name: path.stat().st_mtime_ns for path in output.iterdir() if path.name != "kdcache.log"} == written
    with pytest.raises(MismatchError) as caught:
        train_student(replace(config, training=replace(config.training, seed=2)), output)
    assert caught.value.field == "training.seed"
    _other_cache(cache)
    with pytest.raises(MismatchError) as caught:
        train_student(config, output)
    assert caught.value.field == "inputs.cache"


def _other_cache(cache: Path) -> None:
    """Make a cache of the same plan but other soft labels in place of this one."""
    reader = CacheReader(cache)
    arrays = [reader.shard(index) for index in range(reader.plan.n_shards)]
    for path in (cache / "shards").iterdir():
        path.unlink()
    writer = CacheWriter(cache, reader.plan, reader.tokenizer())
    for index, one in enumerate(arrays):
        one.topk.log_probs[:] -= 0.5
        one.target_log_prob[:] -= 0.5
        writer.commit(index, one)
    assert writer.finalize()


@pytest.fixture
def teacher_config(small_bert: Path, small_text: TextFiles, small_valid: TextFiles) -> TeacherConfig:
    training = steps(9, max_tokens=1_500, valid_every=4)
    return TeacherConfig(small_text, str(small_bert), small_valid, skip_bad=True, training=training)


def test_fault_34_a_teacher_resumes_exactly(teacher_config: TeacherConfig, tmp_path: Path) -> None:
    """A teacher stopped anywhere sees the same masks and ends with the same parameters."""
    corpus = Corpus(teacher_config.text)
    states = []
    for moment in (None, 1, 4, 5, 8):
        for last in (False, True):
            teacher = prepare_teacher(teacher_config.bert, corpus, trim_vocab=True, seed=1)
            sections = TextSections(list(encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=False)))
            task = Disturbed(TeacherTask(teacher, 1, None))
            output = tmp_path / str(moment)
            output.mkdir(exist_ok=True)
            if moment is not None and not last:
                task.before = {moment: terminate}
                with pytest.raises(StoppedError):
                    fit(task, sections, teacher_config.training, output, RUN)
            elif last:
                fit(task, sections, teacher_config.training, output, RUN)
                states.append(parameters(teacher.model))
    assert all(same_parameters(states[0], state) for state in states[1:])


def test_training_a_teacher_lowers_its_loss(teacher_config: TeacherConfig, tmp_path: Path) -> None:
    """The masked words become more probable, on validation text whose masks never change."""
    config = replace(teacher_config, training=replace(teacher_config.training, max_steps=60, learning_rate=1e-2))
    train_teacher(config, tmp_path)
    losses = [line["valid_nll"] for line in metrics(tmp_path) if "valid_nll" in line]
    assert losses[-1] < losses[0] - 0.5
    assert json.loads((tmp_path / "run.json").read_text())["result"]["valid_nll"] == min(losses)


def test_fault_45_sigterm_saves_and_exits_143(small_bert: Path, small_text: TextFiles, tmp_path: Path) -> None:
    """SIGTERM to a real process ends it soon with 143 and a checkpoint; the same command then finishes."""
    output = tmp_path / "teacher"
    source, target = small_text.paths()
    command = ["teacher-train", "--source", source, "--target", target, "--bert", small_bert, "--output", output]
    command += ["--max-steps", 150, "--max-tokens", 300, "--valid-every", 145, "--device", "cpu"]
    with start_cli(*command) as process:
        assert wait_until(lambda: (output / "metrics.jsonl").exists() and len(metrics(output)) > 1, process)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert "Stopped by SIGTERM" in errors
    assert "Traceback" not in errors
    assert [path.name for path in (output / "checkpoints").iterdir()]
    assert not (output / "model.safetensors").exists()
    again = run_cli(*command)
    assert again.returncode == 0, again.stderr
    assert "Continuing after step" in again.stderr
    training = TrainingConfig(1e-4, "linear", 300, max_steps=150, beta2=0.999, valid_every=145, device="cpu")
    train_teacher(TeacherConfig(small_text, str(small_bert), training=training), tmp_path / "here")
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "here" / "model.safetensors").read_bytes()
    assert metrics(output) == metrics(tmp_path / "here")
