"""What a finished training leaves in its folder."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from models import steps

from kdcache.console import tables
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import train_student
from kdcache.text.corpus import TextFiles


def test_checkpoints_go_when_training_has_finished(
    small_cache: Path, small_valid: TextFiles, nano: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The mean of checkpoints is exported before they go; the room they took is said, and a run again is done."""
    caplog.set_level("INFO", logger="kdcache")
    training = steps(3, max_tokens=1_100, valid_every=1, average=2, keep_checkpoints=True)
    config = StudentConfig(str(small_cache), ObjectiveConfig(), training, small_valid, size=nano)
    slim = replace(config, training=replace(training, keep_checkpoints=False))
    for name, made in (("kept", config), ("slim", slim)):
        train_student(made, tmp_path / name)
        assert ("Its checkpoints are removed" in caplog.text) == (made is slim)
        # What is finished stays as it is, whatever is said of checkpoints now.
        train_student(slim, tmp_path / name)
        assert f"{tmp_path / name}: this student is finished; nothing to do." in caplog.text
    kept, left = ({path.name for path in (tmp_path / name).iterdir()} for name in ("kept", "slim"))
    assert kept - left == {"checkpoints"}
    assert len({(tmp_path / name / "model.safetensors").read_bytes() for name in ("kept", "slim")}) == 1
    size = sum(path.stat().st_size for path in (tmp_path / "kept").glob("checkpoints/*/*"))
    assert f"removed, which frees {tables.size(size)}; --keep-checkpoints keeps them." in caplog.text
