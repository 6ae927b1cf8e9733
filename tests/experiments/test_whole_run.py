"""`kdcache run`: from a text to a verdict in one command that can be repeated."""

import json
from pathlib import Path

import pytest
from conftest import run_here
from models import toy_lines

from kdcache.cache.reader import open_cache


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command on 60 training pairs and 20 for validation."""
    command = ["run", "--bert", "scratch:tiny", "--output", "all", "--teacher-epochs", "1", "--epochs", "1"]
    for split, count in (("", 60), ("valid-", 20)):
        for side, ending in (("source", "src"), ("target", "tgt")):
            file = tmp_path / f"{split}text.{ending}"
            file.write_text("".join(f"{line}\n" for line in toy_lines(ending, count)))
            command += [f"--{split}{side}", str(file)]
    return command


def test_one_command_makes_all_and_says_what_it_was_worth(command: list[str], tmp_path: Path) -> None:
    """Teacher, cache, both students, table, page and verdict are there; the same command again does nothing more."""
    done = run_here(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert open_cache(str(tmp_path / "all" / "cache")).plan.n_pairs == 60
    records = [json.loads(file.read_text()) for file in sorted((tmp_path / "all" / "students").glob("*/run.json"))]
    assert [one["config"]["objective"]["alpha"] for one in records] == [0.5, 1.0]
    for record in records:
        record["config"]["objective"].pop("alpha")
    assert records[0]["config"] == records[1]["config"]
    assert (tmp_path / "all" / "students" / "index.html").is_file()
    ahead = records[1]["result"]["averaged_valid_nll"] - records[0]["result"]["labels"]["teacher"]["loss"]
    assert f"{abs(ahead):.2f} nats" in done.stdout
    again = run_here(*command, cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, done.stdout)
    assert "2 runs, 2 of them finished" in again.stderr


def test_the_comparison_is_a_file_of_sweep(command: list[str], tmp_path: Path) -> None:
    """Whoever wants more students takes students.toml, and finds those that exist."""
    done = run_here(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    file = tmp_path / "all" / "students.toml"
    file.write_text(file.read_text().replace("seed = [1]", "seed = [1, 2]"))
    forecast = run_here("sweep", file, "--dry-run", cwd=tmp_path)
    assert forecast.returncode == 0, forecast.stderr
    assert forecast.stdout.count("trained") == 2
    again = run_here(*command, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert "was changed and is taken as it is" in again.stderr
    assert "4 runs, 2 of them finished" in again.stderr


def test_text_for_validation_is_asked_for(tmp_path: Path) -> None:
    """Without it nothing could say what labels are worth, and the message names the options."""
    done = run_here("run", "--source", "a", "--target", "b", "--bert", "scratch:tiny", "--output", tmp_path / "o")
    assert done.returncode == 2
    assert "--valid-source F and --valid-target F" in done.stderr
    assert not (tmp_path / "o").exists()
