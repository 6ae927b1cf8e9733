"""Students that begin with the weights of another one."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from caches import make_plan, write_cache
from conftest import run_here
from loops import Trainer
from models import parameters, same_parameters, steps

from kdcache.cache.reader import open_cache
from kdcache.errors import MismatchError, ModelError
from kdcache.files.atomic import file_sha256
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.seq2seq import Student
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import make_task, train_student
from kdcache.text.corpus import TextFiles


@pytest.fixture
def config(small_cache: Path, small_student: Path, nano: str) -> StudentConfig:
    """Three steps with soft labels, from the small student's weights."""
    start = str(small_student)
    return StudentConfig(str(small_cache), ObjectiveConfig(), steps(3, max_tokens=1_100), size=nano, start_from=start)


def test_the_first_weights_are_those_of_the_other_student(config: StudentConfig, small_student: Path) -> None:
    """Before the first step the parameters are the other student's, whatever the seed; dropout is the new run's."""
    expected = parameters(Student.load(small_student).model)
    for seed in (1, 2):
        training = replace(config.training, seed=seed)
        model = make_task(replace(config, training=training, dropout=0.4), open_cache(config.cache, config.store)).model
        assert same_parameters(parameters(model), expected)
        assert model.get_submodule("model.encoder.layers.0").dropout == 0.4
        assert model.get_output_embeddings().weight is model.get_submodule("model.encoder.embed_tokens").weight  # type: ignore[operator]
    fresh = make_task(replace(config, start_from=None), open_cache(config.cache, config.store)).model
    assert not same_parameters(parameters(fresh), expected)


def test_training_goes_on_from_there(
    config: StudentConfig, small_valid: TextFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """After one step a student that starts from a trained one has a far lower validation loss than a fresh one."""
    caplog.set_level("INFO", logger="kdcache")
    losses = []
    for name, start in (("warm", config.start_from), ("fresh", None)):
        training = steps(1, max_tokens=1_100, learning_rate=1e-5, valid_every=1)
        train_student(replace(config, valid=small_valid, training=training, start_from=start), tmp_path / name)
        losses.append(json.loads((tmp_path / name / "run.json").read_text())["result"]["valid_nll"])
    assert losses[0] < losses[1] - 1
    assert caplog.text.count(f"It starts from the weights in {config.start_from}.") == 1


def test_stopped_after_any_step_it_ends_the_same(config: StudentConfig, tmp_path: Path, trainer: Trainer) -> None:
    """A run that is continued goes on from its checkpoint, not from the other student: the same bits as undisturbed."""
    trainer.config = replace(config, valid=trainer.config.valid, dropout=0.3)
    _, expected = trainer.run(tmp_path / "undisturbed")
    for moment in (1, 2, 3):
        assert same_parameters(trainer.interrupted(tmp_path / str(moment), moment)[1], expected)


def test_a_finished_training_is_lengthened(config: StudentConfig, tmp_path: Path) -> None:
    """With noam, a warm-up and its checkpoints it ends as one long training does; otherwise the reason is said."""
    noam = {"schedule": "noam", "learning_rate": 1.0, "keep_checkpoints": True}
    for output, counts in (("grown", (2, 4)), ("long", (4,))):
        for count in counts:
            train_student(replace(config, training=steps(count, **noam)), tmp_path / output)
    grown, long = (Student.load(tmp_path / name) for name in ("grown", "long"))
    assert same_parameters(parameters(grown.model), parameters(long.model))
    assert json.loads((tmp_path / "grown" / "run.json").read_text())["config"]["training"]["max_steps"] == 4
    for reason, settings, checkpoints in (
        ("came down to 0", {}, True),
        ("risen for longer", {**noam, "warmup": None}, True),
        ("no checkpoint is left", noam, False),
    ):
        train_student(replace(config, training=steps(1, **settings)), output := tmp_path / reason)
        if not checkpoints:
            shutil.rmtree(output / "checkpoints")
        with pytest.raises(MismatchError, match=f"max-steps was 1 .* now 2. It cannot be lengthened: .*{reason}"):
            train_student(replace(config, training=steps(2, **settings)), output)


def test_another_student_under_the_same_name_is_noticed(config: StudentConfig, tmp_path: Path) -> None:
    """A folder goes on from the weights it began with, wherever they lie, and refuses others under the old name."""
    start, moved, output = tmp_path / "start", tmp_path / "moved", tmp_path / "output"
    shutil.copytree(str(config.start_from), start)
    config = replace(config, start_from=str(start))
    train_student(config, output)
    record = json.loads((output / "run.json").read_text())
    assert record["inputs"]["start"] == file_sha256(start / "model.safetensors")
    assert record["config"]["start_from"] == str(start)
    written = (output / "model.safetensors").stat().st_mtime_ns
    start.rename(moved)
    train_student(replace(config, start_from=str(moved)), output)
    assert (output / "model.safetensors").stat().st_mtime_ns == written
    with pytest.raises(MismatchError) as caught:
        train_student(replace(config, start_from=str(output)), output)
    assert caught.value.field == "inputs.start"
    with pytest.raises(MismatchError) as caught:
        train_student(replace(config, start_from=None), output)
    assert caught.value.field == "inputs.start"


@pytest.mark.parametrize("changes", [{"size": "tiny"}, {"arch": "rnn", "size": "tiny"}])
def test_another_shape_is_refused(changes: dict[str, Any], config: StudentConfig, tmp_path: Path) -> None:
    """Another size or architecture than the other student's is refused with the remedy, before anything is trained."""
    with pytest.raises(ModelError, match=r"another shape than the new one.*--arch and --size") as caught:
        train_student(replace(config, **changes), tmp_path / "output")
    assert str(config.start_from) in str(caught.value)
    assert not (tmp_path / "output" / "checkpoints").exists()


def test_another_tokenizer_is_refused(config: StudentConfig, tmp_path: Path) -> None:
    """A student whose words have other numbers than the cache's is refused, though shapes might fit."""
    write_cache(tmp_path / "cache", make_plan())
    with pytest.raises(ModelError, match="another tokenizer than the cache"):
        train_student(replace(config, cache=str(tmp_path / "cache")), tmp_path / "output")


def test_the_command_says_where_there_is_no_student(small_cache: Path, tmp_path: Path) -> None:
    """`--start-from` a folder without weights ends with the folder and the remedy, also with --dry-run."""
    for last in (["--output", str(tmp_path / "output")], ["--dry-run"]):
        arguments = ["student-train", "--cache", str(small_cache), "--start-from", str(tmp_path / "none"), *last]
        result = run_here(*arguments)
        assert result.returncode == 1
        assert f"{tmp_path / 'none'}: no student here" in result.stderr
    assert not (tmp_path / "output").exists()
