"""What a finished training leaves in its folder."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import run_python
from huggingface_hub import ModelCard
from models import steps

from kdcache.cache.reader import open_cache
from kdcache.console import tables
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.seq2seq import Student
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import train_student
from kdcache.text.corpus import Corpus, TextFiles


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
    for file in ("model.safetensors", "README.md"):
        assert (tmp_path / "kept" / file).read_bytes() == (tmp_path / "slim" / file).read_bytes()
    recorded = json.loads((tmp_path / "slim" / "run.json").read_text())["result"]
    card = ModelCard.load(tmp_path / "slim" / "README.md").text
    assert f"loss {recorded['averaged_valid_nll']:.4f} nats" in card
    assert f"`{Corpus(small_valid).fingerprint}`" in card
    assert str(tmp_path) not in card
    size = sum(path.stat().st_size for path in (tmp_path / "kept").glob("checkpoints/*/*"))
    assert f"removed, which frees {tables.size(size)}; --keep-checkpoints keeps them." in caplog.text


def test_the_card_says_what_a_student_is_made_of(small_student: Path, small_cache: Path, small_text: TextFiles) -> None:
    """The hub's own reader takes the card; it names text, teacher and cache by fingerprint, and its program runs."""
    card = ModelCard.load(small_student / "README.md")
    assert card.data.to_dict() == {"library_name": "transformers", "tags": ["kdcache", "knowledge-distillation"]}
    rows = dict(re.findall(r"^\| (\w.*?) \| (.*) \|$", card.text, re.MULTILINE))
    reader = open_cache(str(small_cache))
    assert rows["Text"] == f"150 pairs, {reader.n_targets:,} target tokens; SHA-256 `{Corpus(small_text).fingerprint}`"
    assert rows["Teacher"] == f"SHA-256 `{reader.plan.teacher}`"
    assert rows["Cache"].endswith(f"made by `dump-logits`; SHA-256 `{reader.manifest.root}`")
    assert f"of {sum(one.numel() for one in Student.load(small_student).module.parameters()):,} parameters" in card.text
    program = card.text.split("```python\n")[1].split("```")[0]
    done = run_python("-c", program, cwd=small_student)
    assert done.stdout.strip(), done.stderr
