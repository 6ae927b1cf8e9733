"""Teachers, students and caches go to the hub and come back: the client is the real one, the hub a stand-in."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import run_cli
from hub import TOKEN, Hub, hub
from huggingface_hub import DatasetCard, ModelCard
from models import toy_lines

from kdcache.cache.reader import open_cache
from kdcache.text.corpus import TextFiles


@pytest.fixture
def stand_in(tmp_path: Path) -> Iterator[Hub]:
    """A hub that knows one user."""
    with hub() as server:
        yield server


def run(server: Hub, tmp_path: Path, *arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `kdcache` with the stand-in for the hub, and with a cache of its own for what comes from there."""
    return run_cli(*arguments, **{**server.environment, "HF_HOME": str(tmp_path / "hf"), **environment})


def test_a_student_goes_to_the_hub_and_translates_from_there(
    stand_in: Hub, small_student: Path, tmp_path: Path
) -> None:
    """The repository holds the student's files, is private, and says nothing of this machine; `hf://` opens it."""
    folder = shutil.copytree(small_student, tmp_path / "student")
    own = ("checkpoints/step-1/model.safetensors", "tensorboard/events.out.tfevents.1.host.2", "kdcache.log")
    for name in own:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("of this machine")
    done = run(stand_in, tmp_path, "push", folder, "me/student", "--yes")
    assert done.returncode == 0, done.stderr
    assert "model me/student, private where it is new" in " ".join(done.stderr.split())
    repo = stand_in.repos["models/me/student"]
    assert stand_in.private["models/me/student"]
    assert repo["model.safetensors"] == (small_student / "model.safetensors").read_bytes()
    made = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert made - repo.keys() == {*own}
    record = json.loads(repo["run.json"])
    assert "argv" not in record
    assert record["config"] == {}
    assert str(small_student).encode() not in repo["run.json"]

    (tmp_path / "source").write_text("".join(f"{line}\n" for line in toy_lines("src", 3)))
    written = []
    for student in (str(small_student), "hf://me/student"):
        output = tmp_path / f"{len(written)}.txt"
        done = run(
            stand_in, tmp_path, "generate", "--student", student, "--source", tmp_path / "source", "--output", output
        )
        assert done.returncode == 0, done.stderr
        written.append(output.read_text())
    assert written[0] == written[1]
    assert any("/resolve/" in one for one in stand_in.requests)


@pytest.mark.full
def test_a_teacher_of_the_hub_is_kept_and_trained_further(
    stand_in: Hub, small_teacher: Path, small_cache: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """`hf://` opens a teacher that was pushed, offline too once it was fetched; its plain name serves as --bert."""
    folder = shutil.copytree(small_teacher, tmp_path / "teacher")
    fold = {"config": {"fold": [1, 2]}, "inputs": {"text": "0" * 64}}
    (folder / "run.json").write_text(json.dumps({**fold, "config": {**fold["config"], "bert": "/home/me"}}))
    assert run(stand_in, tmp_path, "push", folder, "me/teacher", "--yes").returncode == 0
    assert json.loads(stand_in.repos["models/me/teacher"]["run.json"]) == fold
    text = ("--source", small_text.source, "--target", small_text.target)
    again = ("verify", small_cache, "--teacher", "hf://me/teacher", "--sample", 5)
    for number, (arguments, environment) in enumerate(
        (
            (again, {}),
            (again, {"HF_HUB_OFFLINE": "1"}),
            (("teacher-train", "--bert", "me/teacher", *text, "--max-steps", 1, "--output", tmp_path / "more"), {}),
        )
    ):
        done = run(stand_in, tmp_path, *arguments, **environment)
        assert done.returncode == 0, (number, done.stderr)
    assert ModelCard.load(tmp_path / "more" / "README.md").data.base_model == "me/teacher"
    done = run(stand_in, tmp_path, "verify", small_cache, "--teacher", "hf://me/other", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "hf://me/other: cannot be fetched from the Hugging Face hub" in done.stderr
    done = run(stand_in, tmp_path, "verify", "hf://datasets/me/other", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.startswith(
        "kdcache: hf://datasets/me/other/plan.json: HF_HUB_OFFLINE keeps kdcache from the hub"
    )


def test_a_cache_goes_to_the_hub_and_is_verified_there(stand_in: Hub, small_cache: Path, tmp_path: Path) -> None:
    """A cache is a data set with a card that says what is inside; `hf://datasets/…` is read as a folder is."""
    done = run(stand_in, tmp_path, "push", small_cache, "me/labels", "--yes", "--public")
    assert done.returncode == 0, done.stderr
    assert "A cache holds its whole text" in done.stderr
    repo = stand_in.repos["datasets/me/labels"]
    assert not stand_in.private["datasets/me/labels"]
    card = DatasetCard(repo["README.md"].decode())
    assert "kdcache" in (card.data.tags or [])
    assert open_cache(str(small_cache)).manifest.root in card.text
    assert "Both texts of the corpus are inside" in card.text
    for path in (small_cache / "shards").glob("*.h5"):
        assert repo[f"shards/{path.name}"] == path.read_bytes()
    checked = run(stand_in, tmp_path, "verify", "hf://datasets/me/labels")
    assert checked.returncode == 0, checked.stderr


@pytest.mark.full
def test_a_teacher_of_the_hub_labels_as_the_one_here(
    stand_in: Hub, small_teacher: Path, small_text: TextFiles, tmp_path: Path
) -> None:
    """A dump by a pushed teacher has the content of a dump by the folder, its held-out figures included."""
    shutil.copytree(small_teacher, here := tmp_path / "teacher")
    figures = {"loss": 1.5, "accuracy": 0.5, "targets": 9, "text": "0" * 64}
    record = {"command": "teacher-train", "argv": ["here"], "finished": "now", "result": {"held_out": figures}}
    (here / "run.json").write_text(json.dumps(record))
    assert run(stand_in, tmp_path, "push", here, "me/teacher", "--yes").returncode == 0
    found = []
    for teacher in (str(here), "hf://me/teacher"):
        cache = tmp_path / f"cache-{len(found)}"
        text = ("--source", small_text.source, "--target", small_text.target)
        done = run(stand_in, tmp_path, "dump-logits", "--teacher", teacher, *text, "--output", cache)
        assert done.returncode == 0, done.stderr
        reader = open_cache(str(cache))
        found.append((reader.manifest.root, reader.teacher_figures()))
    assert found[0] == found[1]
    assert found[0][1].held_out is not None


def test_what_does_not_fit_is_refused_before_anything_is_sent(
    stand_in: Hub, small_student: Path, tmp_path: Path
) -> None:
    """No repository is made for a folder of something else, an incomplete cache, an odd name, or without a yes."""
    (tmp_path / "text").mkdir()
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "plan.json").write_text("{}")
    for arguments, message in (
        ((tmp_path / "text", "me/x", "--yes"), "neither a teacher, a student nor a cache"),
        ((tmp_path / "cache", "me/x", "--yes"), "not the plan of a kdcache cache"),
        ((small_student, "student", "--yes"), "OWNER/NAME"),
        ((small_student, "me/student"), "Give --yes"),
        # What it would move away is an output, and push has none.
        ((small_student, "me/student", "--yes", "--overwrite"), "No such option"),
    ):
        done = run(stand_in, tmp_path, "push", *arguments)
        assert done.returncode in (1, 2)
        assert message in " ".join(done.stderr.split())
    assert stand_in.repos == {}


def test_a_hub_that_refuses_is_one_line(stand_in: Hub, small_student: Path, tmp_path: Path) -> None:
    """A wrong token, and a repository that is not there, end in a message with the remedy and without the token."""
    wrong = {"HF_TOKEN": TOKEN + "_not"}
    done = run(stand_in, tmp_path, "push", small_student, "me/student", "--yes", **wrong)
    assert done.returncode == 1
    assert "me/student: not uploaded: " in done.stderr
    assert "hf auth login" in done.stderr
    assert "_not" not in done.stderr
    stand_in.repos["datasets/me/labels"] = {}
    done = run(stand_in, tmp_path, "verify", "hf://datasets/me/labels", **wrong)
    assert done.returncode == 1
    assert done.stderr.startswith("kdcache: hf://datasets/me/labels/plan.json: access is refused.")
    (tmp_path / "source").write_text("a\n")
    missing = ("--student", "hf://me/none", "--source", tmp_path / "source", "--output", tmp_path / "out")
    done = run(stand_in, tmp_path, "generate", *missing)
    assert done.returncode == 1
    assert "hf://me/none: cannot be fetched from the Hugging Face hub" in done.stderr
    assert "Traceback" not in done.stderr
