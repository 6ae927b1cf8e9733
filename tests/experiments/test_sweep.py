"""A sweep before it runs: its file, its students, the division of a machine, and the time that all would take."""

import shlex
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import ROOT
from sweeps import BASE, TEST, names, read

from kdcache.cli.sweep import read_student
from kdcache.errors import DataError, UsageError
from kdcache.experiments.run_sweep import CONSOLE, check_texts, divide, time_of_all
from kdcache.experiments.sweep_file import ScoredText, command_line, read_sweep
from kdcache.files.run_records import LOG_FILE
from kdcache.losses.objective_config import Ramp

# The file


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    """Sections become the students' settings and tests; what is not written has its default."""
    sweep = read(tmp_path, BASE, "[grid]\nseed = [1, 2]\n[[arms]]\nname = 'a'\nskip_bad = true", TEST)
    assert (sweep.output, sweep.baseline) == (Path("sweep"), None)
    base = tomllib.loads(BASE)["base"]
    assert [one.settings for one in sweep.students] == [{**base, "skip_bad": True, "seed": seed} for seed in (1, 2)]
    assert sweep.tests == (ScoredText("t", "test.src", ("test.tgt",), ("bleu", "chrf")),)
    assert (sweep.tests[0].beam_size, sweep.tests[0].lowercase) == (4, False)


MISTAKES = [
    ("seeds = 3", "sweep.toml: 'seeds' is not known"),
    ("valid_source = 'v'", "valid_source is an option of student-train. Write it into [base]"),
    ("[base]\nalfa = 1", "[base]: 'alfa' is no option of student-train. Options are written by their long names"),
    ("[base]\noutput = 'x'", "[base]: 'output' is no option"),
    ("[base]\nalpha = [1, 0.5]", "alpha takes one value here, not [1, 0.5]. Lists of values belong into [grid]"),
    ("[base]\nalpha = false", "the value of alpha must be a number or a text, not False"),
    ("[base]\nskip_bad = 'yes'", "the value of skip_bad must be true or false, not 'yes'"),
    ("base = 3", "base must be a table: begin it with a line [base]"),
    ("[grid]\nalpha = 1", "[grid]: alpha takes a list of values such as [1, 2, 3], not 1"),
    ("[grid]\nalpha = []", "takes a list of values"),
    ("[base]\nalpha = 1\n[grid]\nalpha = [1]", "alpha stands in [base] as well"),
    ("[grid]\nalpha = [1]\n[[arms]]\nname = 'a'\nalpha = 1", "[[arms]] a: alpha stands in [grid] as well"),
    ("[arms]\nname = 'a'", "begin each arm with a line [[arms]]"),
    ("[[arms]]\nalpha = 1", "[[arms]] number 1: name must be a text that is not empty, not None"),
    ("[[arms]]\nname = 'a'\n[[arms]]\nname = 'a'", "two arms have the name a"),
    ("[test.t]\nsource = 's'", "[test.t]: reference must be a text or a list of texts, not None"),
    ("[test.t]\nsource = 's'\nreference = 'r'\nmetric = 'bleu'", "[test.t]: 'metric' is not known"),
    ("[test.t]\nsource = 's'\nreference = 'r'\nmetrics = 'blue'", "[test.t]: metrics: 'blue' is not known"),
    ("[test.t]\nsource = 's'\nreference = 'r'\nlowercase = 1", "lowercase takes a value such as true, not 1"),
    ("[test.'1']\nsource = 's'\nreference = 'r'", "a test set is a table whose name begins with a letter"),
    (f"{TEST}\nbeam_size = 0", "[test.t]: generation would be refused: --beam-size must be between 1 and 1000, not 0"),
    (f"{TEST}\nlength_penalty = nan", "would be refused: --length-penalty must be between -2 and 10, not nan"),
    (f"{TEST}\nlength_penalty = -inf", "would be refused: --length-penalty must be between -2 and 10, not -inf"),
    (f"{TEST}\nlength_penalty = 1{'0' * 400}", "would be refused: --length-penalty must be between -2 and 10"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_what_means_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A key or value that means nothing is refused, with its place and what to write instead."""
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)
    assert str(tmp_path / "sweep.toml") in str(refused.value)


@pytest.mark.parametrize("line", ["beam_size = 1", "length_penalty = -0.5", "length_penalty = 0"])
def test_every_finite_search_is_allowed(tmp_path: Path, line: str) -> None:
    """Greedy search and penalties of any sign are not refused."""
    read(tmp_path, BASE, TEST, line)


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    """A missing file and one that is not TOML are errors that name it."""
    with pytest.raises(DataError, match="not TOML"):
        read(tmp_path, "a = = 1")
    (tmp_path / "sweep.toml").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not TOML"):
        read_sweep(tmp_path / "sweep.toml", {}, read_student)
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_sweep(tmp_path / "none.toml", {}, read_student)


# The grid


def test_the_grid_by_hand(tmp_path: Path) -> None:
    """Two arms, two values of alpha and two seeds are eight runs, with these names, rows, commands and settings."""
    grid = "[grid]\nalpha = [1.0, '1:0.5:20']\nseed = [1, 2]"
    arms = "[[arms]]\nname = 'plain'\n[[arms]]\nname = 'bucket'\nobjective = 'bucket'\nmax_tokens = 200"
    sweep = read(tmp_path, BASE, grid, arms)
    runs = sweep.students
    rows = ["plain,alpha=1.0", "plain,alpha=1:0.5:20", "bucket,alpha=1.0", "bucket,alpha=1:0.5:20"]
    assert [run.row for run in runs[::2]] == rows
    assert names(sweep) == [f"{row.replace(':', '~')},seed={seed}" for row in rows for seed in (1, 2)]
    assert shlex.join(command_line(runs[-1].settings)) == (
        "--cache cache --valid-source valid.src --valid-target valid.tgt --device cpu --max-tokens 200 "
        "--objective bucket --alpha 1:0.5:20 --seed 2"
    )
    last, first = runs[-1].config, runs[0].config
    assert (last.training.seed, last.objective.alpha, last.objective.name) == (2, Ramp(1.0, 0.5, 20), "bucket")
    assert (last.cache, last.training.max_tokens, first.training.max_tokens) == ("cache", 200, 300)


def test_names_are_safe_and_different(tmp_path: Path) -> None:
    """Whatever an arm is called, its folder is one plain part of a path, without a dot, and no other arm's.

    Nor is what it writes to the terminal kept in the log of the sweep itself.
    """
    odd = ["<b>", "(b)", "..", "../x", "a/b", "a b", "-x", "ä", "table.md", "kdcache", "x" * 300, "x" * 299 + "y"]
    arms = "".join(f"[[arms]]\nname = {name!r}\nalpha = {number / 100}\n" for number, name in enumerate(odd))
    sweep = read(tmp_path, BASE, arms)
    found = names(sweep)
    assert sweep.rows == odd
    assert len(set(found)) == len(odd)
    assert LOG_FILE not in [student.beside(CONSOLE).name for student in sweep.students]
    for name in found:
        assert len(name) <= 120
        assert all(sign.isascii() and (sign.isalnum() or sign in "_+-~") for sign in name), name
        assert not name.startswith("-")


def test_a_grid_of_nothing_is_one_run(tmp_path: Path) -> None:
    """Without grid and arms there is one run; a flag that is true is written alone, one that is false not at all."""
    assert names(read(tmp_path, BASE)) == ["run"]
    assert command_line({"skip_bad": True, "alpha": 1, "x": False}) == ["--skip-bad", "--alpha", "1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nalpha = [1, 1.0]", "the runs alpha=1 and alpha=1.0 have the same settings"),
        ("[grid]\nalpha = [2]", "the run alpha=2 would be refused: --alpha must be between 0 and 1, not 2.0"),
        (
            "[grid]\ntopk = ['many']",
            "the run topk=many would be refused: Invalid value for '--topk': 'many' is not a valid integer",
        ),
        ("[grid]\nsize = ['huge']", "the run size=huge would be refused: --size must be one of tiny, small, base"),
        ("[grid]\nalpha = [1.0, 0.5]", "baseline 'alpha=1' is none of the rows. Write one of alpha=1.0; alpha=0.5"),
    ],
)
def test_settings_are_checked_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    """What student-train would refuse is refused at once, naming the run; so are equal runs and a foreign baseline."""
    with pytest.raises(UsageError) as refused:
        read(tmp_path, "baseline = 'alpha=1'", BASE, text)
    assert message in str(refused.value)


# The machine


@pytest.mark.parametrize(
    ("jobs", "runs", "gpus", "cores", "given", "expected"),
    [
        (None, 12, [], 8, "", (8, "1", None)),
        (None, 3, [], 8, "", (3, "2", None)),
        (None, 12, [], 8, "4", (2, "4", None)),
        (None, 12, [], 2, "8", (1, "8", None)),
        (4, 12, [], 8, "", (4, "2", None)),
        (4, 12, [], 2, "", (4, "1", None)),
        (None, 12, ["0", "1"], 16, "", (2, "8", ["0", "1"])),
        (None, 1, ["0", "1"], 16, "", (1, "16", ["0"])),
        (3, 12, ["GPU-a", "GPU-b"], 16, "", (3, "5", ["GPU-a", "GPU-b", "GPU-a"])),
        (None, 12, [], 8, "junk", (8, "1", None)),
    ],
)
def test_a_machine_is_divided(
    jobs: int | None, runs: int, gpus: list[str], cores: int, given: str, expected: tuple[int, str, list[str] | None]
) -> None:
    """One run for each GPU, or as many as cores and threads allow; threads times runs are the cores."""
    environments, description = divide(jobs, runs, gpus, cores, {"OMP_NUM_THREADS": given})
    count, threads, devices = expected
    assert len(environments) == count
    assert {one["OMP_NUM_THREADS"] for one in environments} == {threads}
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in environments] == (devices or [None] * count)
    assert f"{count} at a time" in description


@pytest.mark.parametrize(
    ("hours", "at_a_time", "expected"),
    [
        ([1.0, 1.0, 1.0], 8, 1.0),
        ([1.0, 1.0, 1.0], 2, 2.0),
        # Two begin, the shorter one's place takes the third, which ends after 1 + 3; then 2 + 2 = 4 as well.
        ([2.0, 1.0, 3.0, 2.0], 2, 4.0),
        # In the order of the file: the long one begins last and is waited for.
        ([1.0, 1.0, 5.0], 2, 6.0),
        ([], 3, 0.0),
    ],
)
def test_the_time_of_all_is_that_of_the_run_that_ends_last(hours: list[float], at_a_time: int, expected: float) -> None:
    """Runs begin in their order, each as soon as one before it has ended; the time of all is when the last ends."""
    assert time_of_all(hours, at_a_time) == expected


def test_the_seed_of_the_bootstrap_is_looked_at_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A SACREBLEU_SEED that scoring would refuse is refused before anything runs, if there is a text to score."""
    monkeypatch.chdir(tmp_path)
    for name in ("test.src", "test.tgt"):
        Path(name).write_text("a b\n")
    tests = read(tmp_path, BASE, TEST).tests
    check_texts(tests)
    monkeypatch.setenv("SACREBLEU_SEED", "none")
    with pytest.raises(UsageError, match="SACREBLEU_SEED must be a whole number"):
        check_texts(tests)
    check_texts([])


def test_a_metric_that_the_script_rules_out_is_refused_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TER of Thai, which scoring refuses, is refused before anything is trained."""
    monkeypatch.chdir(tmp_path)
    for name in ("test.src", "test.tgt"):
        Path(name).write_text("หนังสือเล่มนี้น่าสนใจมาก\n")
    (text,) = read(tmp_path, BASE, TEST).tests
    with pytest.raises(UsageError, match="--metric ter counts words"):
        check_texts([replace(text, metrics=("bleu", "ter"))])


def test_the_example_in_the_documents_is_a_sweep(tmp_path: Path) -> None:
    """The complete file in docs/guides/compare.md is read, and gives the runs that the page says."""
    text = (ROOT / "docs" / "guides" / "compare.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(example)["baseline"]
    runs = read(tmp_path, example).students
    assert len(runs) == 9
    assert "nine runs" in text
    assert runs[0].name in text
