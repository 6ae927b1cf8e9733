"""Settings that come from a file or a preset: what was given wins, and what means nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest
from conftest import run_here

from kdcache.cli import main
from kdcache.files.run_records import recorded


def taken(command: str, *arguments: str) -> Any:
    """The settings that a command would run with."""
    context = click.Context(main)
    return main.commands[command].make_context(command, list(arguments), parent=context).params["config"]


def parsed(command: str, *arguments: str) -> dict[str, object]:
    """The same as `run.json` has them."""
    return recorded(taken(command, *arguments))


RUNS = {
    "teacher-train": "--source a --target b --bert scratch:tiny --no-trim-vocab --max-steps 9 --fold 2/3",
    "dump-logits": "--teacher t --teacher u --source a --target b --shards 2:5 --normalizers 2,5 --skip-bad",
    "student-train": "--cache c --alpha 1:0.5:200 --epochs 3 --report-to tensorboard --objective chen2020",
    "generate": "--student s --source a --beam-size 2",
    "score": "--reference a --reference b --hypothesis h --metric bleu",
    "transcode": "c --topk 3 out",
    "merge": "c d out --topk 3",
}


@pytest.mark.parametrize("command", RUNS)
def test_the_record_of_a_run_repeats_it(command: str, tmp_path: Path) -> None:
    """--config run.json gives the settings that wrote it, whatever their types, for each command."""
    output = {"teacher-train": "--output o", "student-train": "--output o", "generate": "--output o"}.get(command, "")
    first = taken(command, *RUNS[command].split(), *output.split())
    (tmp_path / "run.json").write_text(json.dumps({"command": command, "config": recorded(first)}))
    places = {"transcode": "c out", "merge": "c d out"}.get(command, output).split()
    assert taken(command, "--config", str(tmp_path / "run.json"), *places) == first


def test_a_record_of_one_teacher_has_its_name(tmp_path: Path) -> None:
    """Records of runs before there could be several teachers hold a text, which is one name and not its letters."""
    stored = {"teacher": "some/where", "text": {"source": "a", "target": "b"}}
    (tmp_path / "run.json").write_text(json.dumps({"command": "dump-logits", "config": stored}))
    assert taken("dump-logits", "--config", str(tmp_path / "run.json")).teachers == ("some/where",)


def test_what_is_given_wins_over_the_file(tmp_path: Path) -> None:
    """An option on the command line counts more than the same one in a TOML file, before and behind --config."""
    file = tmp_path / "s.toml"
    file.write_text('cache = "c"\n[training]\nseed = 5\nmax_tokens = 100\n[objective]\nalpha = 0.25\n')
    config = parsed("student-train", "--seed", "7", "--config", str(file), "--max-tokens", "200")
    assert config["training"]["seed"] == 7
    assert config["training"]["max_tokens"] == 200
    assert config["objective"]["alpha"] == 0.25


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("s.toml", "[training]\nsed = 5\n", "training.sed is no setting"),
        ("s.toml", "training = = 5\n", "cannot be read as TOML"),
        ("run.json", '{"command": "generate", "config": {}}', "the record of kdcache generate"),
        ("run.json", "[]", "not the record of a run"),
    ],
)
def test_what_means_nothing_is_refused(name: str, text: str, said: str, tmp_path: Path) -> None:
    """A misspelled key, a file that is no TOML and the record of another command are named."""
    (tmp_path / name).write_text(text)
    done = run_here("student-train", "--cache", "c", "--output", tmp_path / "o", "--config", tmp_path / name)
    assert done.returncode == 2
    assert said in done.stderr


def test_a_preset_gives_the_papers_settings() -> None:
    """--preset chen2020-translation is what the guide gives for IWSLT14, and an option that is given changes it."""
    config = parsed("student-train", "--cache", "c", "--preset", "chen2020-translation", "--dropout", "0.25")
    assert config["objective"] == {
        **config["objective"],
        "name": "chen2020",
        "alpha": 0.5,
        "temperature": 10.0,
    }
    assert config["training"]["max_steps"] == 100_000
    assert config["training"]["epochs"] is None
    assert config["training"]["schedule"] == "noam"
    assert config["dropout"] == 0.25
    assert parsed("student-train", "--cache", "c", "--preset", "chen2020-summarization")["objective"]["alpha"] == 0.9


def test_the_length_that_is_given_takes_the_place_of_the_other_kind(tmp_path: Path) -> None:
    """--epochs gives way to --max-steps and the reverse, where only the file or the preset has the other one."""
    config = parsed("student-train", "--cache", "c", "--preset", "chen2020-translation", "--epochs", "3")
    assert (config["training"]["epochs"], config["training"]["max_steps"]) == (3, None)
    file = tmp_path / "s.toml"
    file.write_text('cache = "c"\n[training]\nepochs = 60\n')
    config = parsed("student-train", "--config", str(file), "--max-steps", "9")
    assert (config["training"]["epochs"], config["training"]["max_steps"]) == (None, 9)


def test_a_url_without_its_secrets_is_asked_for_again(tmp_path: Path) -> None:
    """A record has no secrets of a URL, so --config leaves that option out instead of opening another place."""
    first = parsed("student-train", "--cache", "https://me:secret@host/c", "--epochs", "1")
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"command": "student-train", "config": first}))
    done = run_here("student-train", "--config", file, "--output", tmp_path / "s")
    assert done.returncode == 2
    assert "Missing option '--cache'" in done.stderr
