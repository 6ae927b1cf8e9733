"""What is said of an average of caches: that it knows a part, and whose it is."""

from __future__ import annotations

from pathlib import Path

from conftest import run_here
from families import World
from pages import check_sound

WORLD = World()


def test_an_average_is_called_one(tmp_path: Path) -> None:
    """Inspect names no masking that was not averaged, and the page claims no bound that only a dump has."""
    sources = [WORLD.write(tmp_path / str(m), m) for m in range(2)]
    assert run_here("merge", *sources, tmp_path / "average").returncode == 0
    shown = run_here("inspect", tmp_path / "average", "--html", tmp_path / "average.html").stdout
    assert "merge, from 2 caches" in shown
    assert "averaged, with seed" not in shown
    text = (tmp_path / "average.html").read_text(encoding="utf-8")
    check_sound(text)
    assert text.count("no bound of the entropy over the whole vocabulary") == 2
    assert "What 2 caches know" in text
    run_here("inspect", sources[0], "--html", tmp_path / "dump.html")
    text = (tmp_path / "dump.html").read_text(encoding="utf-8")
    assert text.count("never more than the entropy over the whole vocabulary") == 2
    assert "What 2 caches know" not in text


def test_names_that_are_missing_are_said_to_be(tmp_path: Path) -> None:
    """A folder or a file that is not there is called that, half of a validation text is named by its own options."""
    assert "there is no such folder" in run_here("inspect", tmp_path / "nope").stderr
    tmp_path.joinpath("empty").mkdir()
    assert "it has no plan.json" in run_here("inspect", tmp_path / "empty").stderr
    assert "nope.json: no such file." in run_here("score", "--table", tmp_path / "nope.json").stderr
    done = run_here("student-train", "--cache", "c", "--output", tmp_path / "s", "--valid-source", "v")
    assert (done.returncode, "--valid-source F and --valid-target F belong together" in done.stderr) == (2, True)
    done = run_here("curves", tmp_path / "nope", "--output", tmp_path / "c.jpg")
    assert "its name must end in .png" in done.stderr
