"""A sweep on paper: its file, its grid, the division of a machine, and what is computed from results."""

from __future__ import annotations

import shlex
import statistics
import tomllib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from conftest import ROOT
from sweeps import BASE, TEST, names, read, runs_of

from kdcache.cli.sweep import read_student
from kdcache.compare import compare
from kdcache.errors import DataError, UsageError
from kdcache.interrupt import StopRequest
from kdcache.objective import Ramp
from kdcache.sweep.chart import mean_lines, svg
from kdcache.sweep.config import ScoredText
from kdcache.sweep.devices import places
from kdcache.sweep.folders import Student
from kdcache.sweep.grid import Run, command_line
from kdcache.sweep.page import page
from kdcache.sweep.results import Outcome, Spread, contrasts, spreads
from kdcache.sweep.table import Report, contrast_cells, markdown, value_cells

# The file


def test_a_file_is_read_with_its_defaults(tmp_path: Path) -> None:
    """Sections become settings, grid, arms and tests; what is not written has its default."""
    sweep = read(tmp_path, BASE, "[grid]\nseed = [1, 2]\n[[arms]]\nname = 'a'\nskip_bad = true", TEST)
    assert (sweep.output, sweep.baseline) == ("sweep", None)
    assert sweep.base["max_tokens"] == 300
    assert sweep.grid == {"seed": (1, 2)}
    assert sweep.arms == {"a": {"skip_bad": True}}
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
]


@pytest.mark.parametrize(("text", "message"), MISTAKES, ids=lambda value: str(value)[:40])
def test_what_means_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """A key or value that means nothing is refused, with its place and what to write instead."""
    with pytest.raises(UsageError) as refused:
        read(tmp_path, text)
    assert message in str(refused.value)
    assert str(tmp_path / "sweep.toml") in str(refused.value)


def test_a_file_that_is_not_toml_is_refused(tmp_path: Path) -> None:
    """A missing file and one that is not TOML are errors that name it."""
    with pytest.raises(DataError, match="not TOML"):
        read(tmp_path, "a = = 1")
    (tmp_path / "sweep.toml").write_bytes(b"\xff")
    with pytest.raises(DataError, match="not TOML"):
        read_bytes(tmp_path / "sweep.toml")
    with pytest.raises(DataError, match="cannot be read: No such file"):
        read_bytes(tmp_path / "none.toml")


def read_bytes(file: Path) -> None:
    from kdcache.sweep.config import read_sweep

    read_sweep(file, {})


# The grid


def test_the_grid_by_hand(tmp_path: Path) -> None:
    """Two arms, two values of alpha and two seeds are eight runs, with these names, rows, commands and settings."""
    grid = "[grid]\nalpha = [1.0, '1:0.5:20']\nseed = [1, 2]"
    arms = "[[arms]]\nname = 'plain'\n[[arms]]\nname = 'bucket'\nobjective = 'bucket'\nmax_tokens = 200"
    runs = runs_of(read(tmp_path, BASE, grid, arms))
    assert names(runs) == [
        "plain,alpha=1.0,seed=1",
        "plain,alpha=1.0,seed=2",
        "plain,alpha=1~0.5~20,seed=1",
        "plain,alpha=1~0.5~20,seed=2",
        "bucket,alpha=1.0,seed=1",
        "bucket,alpha=1.0,seed=2",
        "bucket,alpha=1~0.5~20,seed=1",
        "bucket,alpha=1~0.5~20,seed=2",
    ]
    assert [run.row for run in runs[::2]] == [
        "plain,alpha=1.0",
        "plain,alpha=1:0.5:20",
        "bucket,alpha=1.0",
        "bucket,alpha=1:0.5:20",
    ]
    last = runs[-1]
    assert shlex.join(last.arguments) == (
        "--cache cache --valid-source valid.src --valid-target valid.tgt --device cpu --max-tokens 200 "
        "--objective bucket --alpha 1:0.5:20 --seed 2"
    )
    assert (last.seed, last.config.objective.alpha, last.config.objective.name) == (2, Ramp(1.0, 0.5, 20), "bucket")
    assert (last.config.cache, last.config.training.max_tokens, runs[0].config.training.max_tokens) == (
        "cache",
        200,
        300,
    )


def test_flags_are_written_without_a_value() -> None:
    """A flag that is true is written alone, one that is false not at all."""
    assert command_line({"skip_bad": True, "alpha": 1, "x": False}) == ("--skip-bad", "--alpha", "1")


def test_names_are_safe_and_different(tmp_path: Path) -> None:
    """Whatever an arm is called, its folder is one plain part of a path, without a dot, and no other arm's."""
    odd = ["<b>", "(b)", "..", "../x", "a/b", "a b", "-x", "ä", "table.md", "x" * 300, "x" * 299 + "y"]
    arms = "".join(f"[[arms]]\nname = {name!r}\nalpha = {number / 100}\n" for number, name in enumerate(odd))
    runs = runs_of(read(tmp_path, BASE, arms))
    found = names(runs)
    assert [run.row for run in runs] == odd
    assert len(set(found)) == len(odd)
    for name in found:
        assert len(name) <= 120
        assert all(sign.isascii() and (sign.isalnum() or sign in "_+-~") for sign in name), name
        assert not name.startswith("-")


def test_a_grid_of_nothing_is_one_run(tmp_path: Path) -> None:
    """Without grid and arms there is one run."""
    assert names(runs_of(read(tmp_path, BASE))) == ["run"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[grid]\nalpha = [1, 1.0]", "the runs alpha=1 and alpha=1.0 have the same settings"),
        ("[grid]\nalpha = [2]", "the run alpha=2 would be refused: --alpha must be between 0 and 1, not 2.0"),
        (
            "[grid]\ntopk = ['many']",
            "the run topk=many would be refused: Invalid value for '--topk': 'many' is not a valid integer",
        ),
        ("[grid]\nsize = ['huge']", "the run size=huge would be refused: Invalid value for '--size'"),
    ],
)
def test_settings_are_checked_before_anything_runs(tmp_path: Path, text: str, message: str) -> None:
    """What student-train would refuse is refused at once, naming the run; so are runs that are the same."""
    with pytest.raises(UsageError) as refused:
        runs_of(read(tmp_path, BASE, text))
    assert message in str(refused.value)


def test_the_baseline_must_be_a_row(tmp_path: Path) -> None:
    """A baseline that is no row is refused, and the message lists the rows."""
    with pytest.raises(UsageError, match=r"baseline 'alpha=1' is none of the rows. Write one of alpha=1.0; alpha=0.5"):
        runs_of(read(tmp_path, "baseline = 'alpha=1'", BASE, "[grid]\nalpha = [1.0, 0.5]"))


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
    jobs: int | None,
    runs: int,
    gpus: list[str],
    cores: int,
    given: str,
    expected: tuple[int, str, list[str] | None],
) -> None:
    """One run for each GPU, or as many as cores and threads allow; threads times runs are the cores."""
    found = places(jobs, runs, gpus, cores, {"OMP_NUM_THREADS": given})
    count, threads, devices = expected
    assert len(found.environments) == count
    assert {one["OMP_NUM_THREADS"] for one in found.environments} == {threads}
    assert [one.get("CUDA_VISIBLE_DEVICES") for one in found.environments] == (devices or [None] * count)
    assert f"{count} at a time" in found.words


# Results


def test_mean_and_deviation_by_hand() -> None:
    """Of 1, 2 and 6 the mean is 3 and the sample standard deviation √7; of one value there is no deviation."""
    assert Spread.of([1.0, 2.0, 6.0]) == Spread(3.0, pytest.approx(7**0.5), 3)
    assert Spread.of([4.0]) == Spread(4.0, None, 1)


TEXT = ScoredText("t", "test.src", ("test.tgt",), ("bleu",))
REFERENCE = [f"the quick brown fox number {number} jumps over the lazy dog" for number in range(12)]
WORSE = [line.replace("lazy", "old") if number % 2 else line for number, line in enumerate(REFERENCE)]
ODD = "<b>&'\"|`"


def outcome(folder: Path, row: str, seed: int, bleu: float, loss: float, written: list[str]) -> Outcome:
    config = read_student(["--cache", "c", "--seed", str(seed), "--device", "cpu"])
    run = Run(f"{row},seed={seed}", row, {"seed": seed}, ("--cache", "c", "--seed", str(seed)), config)
    student = Student(run, folder / f"{'odd' if row == ODD else row},seed={seed}")
    student.folder.mkdir()
    student.hypotheses(TEXT).write_text("".join(f"{line}\n" for line in written))
    lines = (f'{{"step": {step}, "valid_nll": {loss + 10 / step}}}\n' for step in (10, 20, 40))
    (student.folder / "metrics.jsonl").write_text("".join(lines))
    scores = {"t": [{"name": "bleu", "value": bleu, "signature": "nrefs:1|x"}]}
    return Outcome(student, (40,), 61.0, "root", "ab" * 32, {"valid_nll": loss, "t bleu": bleu}, scores)


@pytest.fixture
def outcomes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Outcome]:
    """Two rows of two seeds, and a third seed of the first row alone."""
    monkeypatch.chdir(tmp_path)
    Path("test.tgt").write_text("".join(f"{line}\n" for line in REFERENCE))
    return [
        outcome(tmp_path, "plain", 1, 10.0, 2.0, WORSE),
        outcome(tmp_path, "plain", 2, 14.0, 2.2, WORSE),
        outcome(tmp_path, "plain", 3, 99.0, 9.0, WORSE),
        outcome(tmp_path, ODD, 1, 13.0, 1.5, REFERENCE),
        outcome(tmp_path, ODD, 2, 15.0, 1.5, WORSE),
    ]


def report_of(outcomes: list[Outcome]) -> Report:
    found = contrasts(outcomes, "plain", [TEXT], StopRequest())
    planned = {"plain": 3, ODD: 4}
    return Report("<i>.toml", ["plain", ODD], planned, spreads(outcomes), found, "plain", {"t bleu": "nrefs:1|x"})


def test_rows_are_means_over_seeds(outcomes: list[Outcome]) -> None:
    """Each row has mean, deviation and number of its seeds, written with the digits of its kind."""
    rows = value_cells(report_of(outcomes))
    assert rows[0] == ("settings", "seeds", "validation loss", "t bleu")
    deviation = statistics.stdev([10.0, 14.0, 99.0])
    assert rows[1] == ("plain", "3", "4.4000 ± 3.9850", f"41.00 ± {deviation:.2f}")
    assert rows[2] == (ODD, "2 of 4", "1.5000 ± 0.0000", "14.00 ± 1.41")


def test_differences_pair_seeds_and_pool_outputs(outcomes: list[Outcome]) -> None:
    """Differences are between equal seeds only, and p is that of the test on the lines of both seeds together."""
    loss, bleu = contrasts(outcomes, "plain", [TEXT], StopRequest())
    assert (bleu.row, bleu.column, bleu.spread) == (ODD, "t bleu", Spread(2.0, pytest.approx(2**0.5), 2))
    whole = compare([*REFERENCE, *WORSE], [*WORSE, *WORSE], [REFERENCE * 2], "bleu")
    assert bleu.p_value == whole.p_value
    assert whole.p_value < 0.2
    assert loss.spread == Spread(pytest.approx(-0.6), pytest.approx(0.2 / 2**0.5), 2)
    assert loss.p_value is None
    _, one_seed = contrasts([outcomes[0], *outcomes[2:]], "plain", [TEXT], StopRequest())
    assert one_seed.spread == Spread(3.0, None, 1)
    cells = contrast_cells(report_of(outcomes))
    assert cells[1:] == [
        (ODD, "validation loss", "-0.6000 ± 0.1414", "2", "–"),
        (ODD, "t bleu", "+2.00 ± 1.41", "2", f"{bleu.p_value:.3f}"),
    ]


def test_markdown_is_escaped(outcomes: list[Outcome]) -> None:
    """Every line of a table has its number of cells, and no tag and no code of a name gets through."""
    text = markdown(report_of(outcomes))
    assert "<b>" not in text
    assert "&lt;b&gt;&amp;'\"\\|\\`" in text
    table = [line.replace("\\|", "") for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table[:4]} == {5}
    assert {line.count("|") for line in table[4:]} == {6}


class Page(HTMLParser):
    """A page's text, its tags, and whether every tag that was opened was closed."""

    EMPTY = ("meta", "rect", "path")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links.extend(str(value) for name, value in attrs if name in ("href", "src", "xlink:href"))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_has_everything_and_escapes_it(outcomes: list[Outcome]) -> None:
    """The page is well-formed, needs nothing from elsewhere, and has each run, its command and each row's curve."""
    students = [one.student for one in outcomes]
    report = report_of(outcomes)
    found = Page(page(report, students, outcomes[:-1], others=3))
    assert found.open == []
    assert found.links == []
    assert "script" not in found.tags
    assert "b" not in found.tags
    assert "i" not in found.tags
    assert "url(http" not in found.text
    for one in outcomes:
        assert one.student.run.name in found.text
        assert shlex.join(["kdcache", *one.student.arguments]) in found.text
    assert "4 of 5 runs are finished" in found.text
    assert "not finished" in found.text
    assert "3 more runs" in found.text
    assert "41.00" in found.text
    assert "takes the outputs of several seeds for one sentence as independent" in found.text
    assert found.tags.count("polyline") == 2


def test_curves_are_means_at_common_steps(outcomes: list[Outcome]) -> None:
    """A row's curve is the mean of its runs at the steps that all of them have."""
    (outcomes[0].student.folder / "metrics.jsonl").write_text(
        '{"step": 20, "valid_nll": 1.0}\n{"step": 30, "valid_nll": 1.0}\n'
    )
    plain, odd = mean_lines([one.student for one in outcomes])
    assert plain.points == ((20, pytest.approx((1.0 + 2.7 + 9.5) / 3)),)
    assert odd.points == ((10, 2.5), (20, 2.0), (40, 1.75))


def test_many_curves_are_told_apart(outcomes: list[Outcome]) -> None:
    """The ninth line has the first one's colour and dashes."""
    (line,) = mean_lines([outcomes[3].student])
    drawn = svg([line] * 9)
    assert drawn.count('class="c0"') == 2
    assert drawn.count("stroke-dasharray") == 1


def test_the_example_in_the_documents_is_a_sweep(tmp_path: Path) -> None:
    """The complete file in docs/sweeps.md is read, and gives the runs that the page says."""
    text = (ROOT / "docs" / "sweeps.md").read_text(encoding="utf-8")
    example = text.partition("```toml\n")[2].partition("```")[0]
    assert tomllib.loads(example)["baseline"]
    runs = runs_of(read(tmp_path, example))
    assert f"{len(runs)} runs" in text
    assert runs[0].name in text
