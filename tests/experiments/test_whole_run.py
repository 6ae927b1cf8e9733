"""`kdcache run`: from a text to a verdict in one command that can be repeated."""

import json
import subprocess
from pathlib import Path

import pytest
from conftest import run_here
from models import toy_lines

from kdcache.cache.reader import open_cache


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with 60 training pairs and 20 for validation."""
    folder = tmp_path_factory.mktemp("run")
    for split, count in (("", 60), ("valid-", 20)):
        for ending in ("src", "tgt"):
            (folder / f"{split}text.{ending}").write_text("".join(f"{line}\n" for line in toy_lines(ending, count)))
    return folder


def run_in(folder: Path, output: str = "all", *more: object) -> subprocess.CompletedProcess[str]:
    """The command as a user gives it."""
    command = ["run", "--bert", "scratch:tiny", "--output", output, "--teacher-epochs", 1, "--epochs", 1, *more]
    for split in ("", "valid-"):
        command += [f"--{split}source", folder / f"{split}text.src", f"--{split}target", folder / f"{split}text.tgt"]
    return run_here(*command, cwd=folder)


def test_one_command_makes_all_and_says_what_it_was_worth(folder: Path) -> None:
    """Teacher, cache, both students, table, page and verdict are there; the same command again does nothing more.

    The comparison is a file of `kdcache sweep`, which finds these students when more are asked for; a file that was
    changed is taken as it is.
    """
    done = run_in(folder)
    assert done.returncode == 0, done.stderr
    assert open_cache(str(folder / "all" / "cache")).plan.n_pairs == 60
    records = [json.loads(file.read_text()) for file in sorted((folder / "all" / "students").glob("*/run.json"))]
    assert [one["config"]["objective"]["alpha"] for one in records] == [0.5, 1.0]
    for record in records:
        record["config"]["objective"].pop("alpha")
    assert records[0]["config"] == records[1]["config"]
    assert (folder / "all" / "students" / "index.html").is_file()
    ahead = records[1]["result"]["averaged_valid_nll"] - records[0]["result"]["labels"]["teacher"]["loss"]
    assert f"{abs(ahead):.2f} nats" in done.stdout

    file = folder / "all" / "students.toml"
    file.write_text(f"# Ours.\n{file.read_text()}")
    again = run_in(folder)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "2 runs, 2 of them finished" in again.stderr
    assert "was changed and is taken as it is" in again.stderr
    file.write_text(file.read_text().replace("seed = [1]", "seed = [1, 2]"))
    forecast = run_here("sweep", file, "--dry-run")
    assert forecast.returncode == 0, forecast.stderr
    assert forecast.stdout.count("trained") == 2


def test_a_run_with_teachers_that_did_not_see_the_pairs(folder: Path) -> None:
    """--folds 2 makes two teachers and one cache, whose verdict compares losses on different texts and says so."""
    done = run_in(folder, "crossed", "--folds", 2)
    assert done.returncode == 0, done.stderr
    reader = open_cache(str(folder / "crossed" / "cache"))
    assert len(reader.plan.teachers) == 2
    assert f"the teacher's {reader.teacher_figures().loss:.2f} on another text" in done.stdout


def test_text_for_validation_is_asked_for(tmp_path: Path) -> None:
    """Without it nothing could say what labels are worth, and the message names the options."""
    done = run_here("run", "--source", "a", "--target", "b", "--bert", "scratch:tiny", "--output", tmp_path / "o")
    assert done.returncode == 2
    assert "--valid-source F and --valid-target F" in done.stderr
    assert not (tmp_path / "o").exists()
