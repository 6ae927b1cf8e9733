"""Interrupted anywhere and run again, training takes the same steps, to the bit."""

import shutil
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import run_here
from huggingface_hub import ModelCard
from loops import EPOCHS, RUN, CrashError, Disturbed, Trainer, crash, metrics, terminate
from models import parameters, same_parameters, start_cli, steps, wait_until

from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.reader import CacheReader
from kdcache.errors import MismatchError, OutputError, StoppedError
from kdcache.student.train_student import train_student
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import TeacherTask, _encode, _valid_views, train_teacher
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encode_corpus import encode_sections
from kdcache.training import checkpoint
from kdcache.training.batches import TextSections
from kdcache.training.checkpoint import Position
from kdcache.training.loop import count_steps, fit
from kdcache.training.metrics import Metrics
from kdcache.training.training_config import TrainingConfig


def test_fault_34_stopped_at_every_batch(trainer: Trainer, tmp_path: Path) -> None:
    """Stopped after any step of two epochs and run again: the same parameters, bit for bit, and the same records."""
    result, expected = trainer.run(tmp_path / "undisturbed")
    assert result.steps == count_steps(trainer.sections, trainer.config.training) > 8
    for moment in range(1, result.steps + 1):
        output = tmp_path / str(moment)
        found, state = trainer.interrupted(output, moment)
        assert same_parameters(state, expected), moment
        assert found == result
        assert metrics(output) == metrics(tmp_path / "undisturbed")
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
        one.soft.log_probs[:] -= 0.5
        one.target_log_prob[:] -= 0.5
        writer.commit(index, one)
    assert writer.finalize()


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
    again = run_here(*command)
    assert again.returncode == 0, again.stderr
    assert "Continuing after step" in again.stderr
    assert not (output / "checkpoints").exists()
    training = TrainingConfig(1e-4, "linear", 300, max_steps=150, beta2=0.999, valid_every=145, device="cpu")
    train_teacher(TeacherConfig(small_text, str(small_bert), training=training), tmp_path / "here")
    assert (output / "model.safetensors").read_bytes() == (tmp_path / "here" / "model.safetensors").read_bytes()
    assert metrics(output) == metrics(tmp_path / "here")
    card = ModelCard.load(output / "README.md")
    assert card.data.to_dict() == {"library_name": "transformers", "tags": ["kdcache", "knowledge-distillation"]}
    assert f"`{Corpus(small_text).fingerprint}`" in card.text
    assert card.content == ModelCard.load(tmp_path / "here" / "README.md").content


def test_timed_checkpoints_need_no_validation(trainer: Trainer, tmp_path: Path) -> None:
    """Checkpoints are saved by the clock also where a validation is due in every step and there is no text for it."""
    alone = replace(trainer, config=replace(trainer.config, valid=None))
    with pytest.raises(CrashError):
        alone.run(tmp_path, {5: crash}, valid_every=1, save_seconds=0.0)
    assert checkpoint.saved(tmp_path / "checkpoints")[0].name == "step-00000004"


def test_a_record_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """Where the lines of the record cannot be written, training ends with the place and the reason."""
    written = Metrics(tmp_path / "metrics.jsonl", Position())
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(OutputError, match=r"metrics.jsonl: cannot be written.*No space left"):
        written.write({"step": 1, "loss": 1.0})


def test_validation_masks_do_not_depend_on_the_batches(teacher_config: TeacherConfig, small_bert: Path) -> None:
    """Whatever --max-tokens and --micro-tokens are, the same validation positions are masked."""
    corpus = Corpus(teacher_config.text, skip_bad=True)
    teacher = prepare_teacher(str(small_bert), corpus, trim_vocab=True, seed=1)
    found = []
    for tokens in (150, 700, 100_000):
        config = replace(teacher_config, training=replace(teacher_config.training, max_tokens=tokens))
        views = _valid_views(_encode(corpus, teacher, config), teacher, config)
        assert all(one.input_ids.size <= max(tokens, one.input_ids.shape[1]) for one in views)
        found.append(np.concatenate([one.target_rows for one in views]).tolist())
    assert found[0] == found[1] == found[2]
