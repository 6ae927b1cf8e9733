"""Options made from settings: one range for the command line and for Python, groups in the help, the same records."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from typing import Any

import click
import pytest
from click.testing import CliRunner
from conftest import run_here

from kdcache.cli import main
from kdcache.cli.options import Settings
from kdcache.cli.screen import Command
from kdcache.cli.sweep import read_student, student_options
from kdcache.errors import UsageError
from kdcache.files.run_records import recorded
from kdcache.losses.objective_config import ObjectiveConfig, Ramp
from kdcache.settings import BASIC, EXPERT, TRAINING, Nested, Option, between, check_fields
from kdcache.student.student_config import StudentConfig
from kdcache.text.corpus import TextFiles
from kdcache.training.training_config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Inner:
    """Settings inside others."""

    near: str = Option("Near.", metavar="F").required()
    far: str = Option("Far.", metavar="F").required()

    def check(self) -> None:
        """Nothing is refused."""


@dataclass(frozen=True, slots=True)
class Outer:
    """One field of each kind."""

    place: str = Option("Place.", metavar="PLACE", positional=True).required()
    share: float = Option("Share.", TRAINING, within=between(0, 1)).default(0.5)
    steps: int | None = Option("Steps.", default_words="all").default(None)
    names: tuple[str, ...] = Option("Names.", choices=("a", "b"), parts=tuple).default(("a",))
    trim: bool = Option("Keep all.", name="no_trim", inverted=True).default(True)
    hidden: int = Option("Set from Python only.", None, within=between(1, 9)).default(1)
    inner: Inner | None = Nested("in_", changes={"far": {"group": EXPERT}}).default(None)

    def check(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_fields(self)


def outer(*arguments: str) -> Outer:
    """What a command makes of these arguments."""
    settings = Settings(Outer)
    values = click.Command("c", params=settings.parameters()).make_context("c", list(arguments)).params
    made: Outer = settings.take(values)
    assert values == {}
    return made


def test_fields_become_options_and_values_become_fields() -> None:
    """Defaults are the fields' own; flags, several values, arguments and nested settings find their fields."""
    assert outer("p") == Outer("p")
    given = ("--share", "0.25", "--steps", "3", "--names", "b", "--names", "a", "--no-trim", "p")
    assert outer(*given) == Outer("p", 0.25, 3, ("b", "a"), False)
    assert outer("p", "--in-near", "x", "--in-far", "y").inner == Inner("x", "y")


def test_one_file_of_pairs_stands_for_two() -> None:
    """A field that stands alone needs no other one, and is refused beside one, by the names of this command."""
    assert read_student(("--cache", "c", "--valid-pairs", "v")).valid == TextFiles(pairs="v")
    with pytest.raises(UsageError, match=r"--valid-pairs is the whole text; leave --valid-source out\."):
        read_student(("--cache", "c", "--valid-pairs", "v", "--valid-source", "s"))


def test_half_of_optional_settings_is_refused() -> None:
    """Settings that may be missing are given whole or not at all."""
    with pytest.raises(UsageError, match=r"--in-near F and --in-far F belong together; give both or neither\."):
        outer("p", "--in-far", "y")


def test_help_says_range_default_and_group() -> None:
    """A field's metadata is what `--help` shows; a field without a group is no option."""
    found = {str(one.name): one for one in Settings(Outer).parameters()}
    assert [*found] == ["place", "share", "steps", "names", "no_trim", "in_near", "in_far"]
    assert found["share"].help == "Share.  [0 to 1; default: 0.5]"
    assert found["steps"].help == "Steps.  [default: all]"
    assert found["names"].help == "Names.  [default: a]"
    assert found["no_trim"].help == "Keep all."
    groups = {name: one.group for name, one in found.items() if name != "place"}
    assert groups == {**dict.fromkeys(groups, BASIC), "share": TRAINING, "in_far": EXPERT}


CACHE = ["--cache", "c"]
REFUSED: list[tuple[list[str], Any]] = [
    (["--alpha", "2"], StudentConfig("c", ObjectiveConfig(alpha=2.0), TrainingConfig(0.01, epochs=1))),
    (["--alpha", "1:-1:9"], ObjectiveConfig(alpha=Ramp(1.0, -1.0, 9))),
    (["--temperature", "nan"], ObjectiveConfig(temperature=float("nan"))),
    (["--objective", "kd"], ObjectiveConfig(name="kd")),
    (["--dropout", "1"], StudentConfig("c", ObjectiveConfig(), TrainingConfig(0.01, epochs=1), dropout=1.0)),
    (["--warmup", "-1"], TrainingConfig(0.01, warmup=-1, epochs=1)),
    (["--device", "tpu"], TrainingConfig(0.01, device="tpu", epochs=1)),
    (["--epochs", "2", "--max-steps", "3"], TrainingConfig(0.01, epochs=2, max_steps=3)),
    (["--learning-rate", "1"], TrainingConfig(1.0, epochs=1)),
    (["--source", "s"], TextFiles("s")),
]


@pytest.mark.parametrize(("arguments", "config"), REFUSED, ids=lambda one: str(one)[:30])
def test_python_and_the_command_line_refuse_with_the_same_words(arguments: list[str], config: Any) -> None:
    """Whoever gives a value, one check refuses it; a sweep reads its settings as the command line does."""
    with pytest.raises(UsageError) as by_python:
        config.check()
    done = CliRunner().invoke(main, ["student-train", *CACHE, "--output", "s", *arguments])
    assert (done.exit_code, done.output) == (2, f"kdcache: {by_python.value}\n")
    with pytest.raises(UsageError, match=f"^{re.escape(str(by_python.value))}$"):
        read_student([*CACHE, *arguments])


def test_depending_values_follow_what_is_given() -> None:
    """The learning rate follows architecture, size and schedule, and epochs give way to steps; what is given stays."""
    assert read_student(CACHE).training == TrainingConfig(0.002, epochs=60)
    assert read_student([*CACHE, "--size", "base", "--max-steps", "5"]).training == TrainingConfig(5e-4, max_steps=5)
    assert read_student([*CACHE, "--schedule", "noam"]).training.learning_rate == 1.0
    assert read_student([*CACHE, "--size", "base", "--learning-rate", "0.03"]).training.learning_rate == 0.03


def test_a_record_has_the_names_that_it_always_had() -> None:
    """`run.json` names each setting as runs that were made before do, so that they are continued."""
    config = recorded(read_student([*CACHE, "--alpha", "1:0.5:20"]))
    training = config.pop("training")
    names = "learning_rate schedule max_tokens micro_tokens warmup max_steps epochs seed device precision clip beta2"
    more = "weight_decay valid_every save_seconds patience average report_to keep_checkpoints"
    assert [*training] == [*names.split(), *more.split()]
    objective = {"alpha": {"start": 1.0, "stop": 0.5, "steps": 20}, "temperature": 1.0, "topk": None}
    gate = {"label_smoothing": 0.1, "name": "bucket", "gate": "none", "gate_threshold": 0.5}
    assert config == {
        "cache": "c",
        "objective": {**objective, **gate},
        "valid": None,
        "compared": None,
        "arch": "transformer",
        "size": "tiny",
        "dropout": 0.2,
        "resample": None,
        "start_from": None,
        "skip_bad": False,
        "store": {"folder": None, "limit": 50_000_000_000},
    }


def test_a_sweep_knows_the_flags() -> None:
    """A sweep may set every option of student-train that is a setting; flags are known as flags."""
    options = student_options()
    params = {str(one.name) for one in main.commands["student-train"].params}
    assert options.keys() == params - {"output", "overwrite", "dry_run", "verbose", "quiet", "config_file", "preset"}
    assert [name for name, flag in options.items() if flag] == ["keep_checkpoints", "skip_bad"]


def test_the_first_screen_shows_what_one_needs() -> None:
    """At 80 columns the first 24 lines of `student-train --help` have the example, the cache and the output."""
    text = run_here("student-train", "--help", COLUMNS="80").stdout
    assert all(len(line) <= 80 for line in text.splitlines())
    screen = "\n".join(text.splitlines()[:24])
    assert all(
        words in screen for words in ("Example:", "What you need:", "--cache CACHE", "--output DIR", "--alpha A")
    )
    headings = re.findall(r"^(\w.*):$", text, re.M)
    assert headings == ["What you need", "Training", "Hardware", "Expert", "Messages and help"]


@pytest.mark.parametrize("arguments", [["-q", "say"], ["say", "-q"], ["-v", "say"], ["say", "-v"], ["say"]])
def test_verbosity_before_and_behind_the_command(arguments: list[str]) -> None:
    """`-q` and `-v` have the same effect on either side of the command's name."""
    said: list[int] = []

    @click.command("say", cls=Command)
    def say() -> None:
        said.append(logging.getLogger("kdcache").handlers[0].level)

    group = type(main)("kdcache", params=main.params, callback=main.callback)
    group.add("One", say)
    handlers = logging.getLogger("kdcache").handlers
    try:
        assert CliRunner().invoke(group, arguments).exit_code == 0
    finally:
        logging.getLogger("kdcache").handlers = handlers
        logging.getLogger("kdcache.progress").setLevel(0)
        logging.captureWarnings(False)
    levels = {"-q": logging.WARNING, "-v": logging.DEBUG}
    assert said == [next((levels[one] for one in arguments if one in levels), logging.INFO)]


@pytest.mark.parametrize(
    ("arguments", "missing"),
    [
        (["student-train", "--output", "s"], "Missing option '--cache'"),
        (["dump-logits", "--output", "c"], "Missing option '--teacher'"),
        (["teacher-train", "--output", "t"], "Missing option '--bert'"),
        (["generate", "--output", "o"], "Missing option '--student'"),
        (["verify"], "Missing argument 'CACHE'"),
    ],
)
def test_what_is_required_is_missed_in_one_line(arguments: list[str], missing: str) -> None:
    """A command without what it needs is refused with exit code 2 before anything is read."""
    done = run_here(*arguments)
    assert (done.returncode, missing in done.stderr) == (2, True), done.stderr
