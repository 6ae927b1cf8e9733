"""Training curves: what is read from metrics.jsonl, and the pictures of it."""

import contextlib
import itertools
import json
import math
import re
from pathlib import Path

import pytest
from conftest import run_cli, run_python
from hypothesis import example, given
from hypothesis import strategies as st

from kdcache.errors import CorruptError, DataError, KDCacheError, OutputError, UsageError
from kdcache.pictures import axes, png_plot, terminal_plot
from kdcache.pictures.curves import Curve, read_curves

VALUES = st.floats(allow_nan=False, allow_infinity=False, min_value=-1e299, max_value=1e299)


def write_run(folder: Path, *lines: dict[str, object] | str) -> Path:
    folder.mkdir(exist_ok=True)
    text = "".join((line if isinstance(line, str) else json.dumps(line) + "\n") for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


# Reading


def test_a_curve_is_read_with_its_gaps(tmp_path: Path) -> None:
    """Points stand in order, null is a gap, and the best is the first lowest or, for shares of right words, highest."""
    run = write_run(
        tmp_path / "run",
        {"step": 1, "nll": 3.0, "correct": 0.25},
        {"step": 20, "nll": None, "correct": 0.5},
        {"step": 40, "nll": 2, "correct": 0.5},
        {"step": 60, "nll": 2.0, "correct": 0.4},
    )
    (curve,) = read_curves([run], "nll")
    assert (curve.name, curve.metric) == ("run", "nll")
    assert curve.points == ((1, 3.0), (20, None), (40, 2.0), (60, 2.0))
    assert curve.best == (40, 2.0)
    assert read_curves([run], "correct")[0].best == (20, 0.5)


def test_validation_is_drawn_where_every_run_has_it(tmp_path: Path) -> None:
    """The default is the validation loss if all runs have one, else the training loss of all."""
    both = write_run(tmp_path / "both", {"step": 1, "loss": 3.0}, {"step": 2, "valid_nll": 2.0})
    plain = write_run(tmp_path / "plain", {"step": 1, "loss": 4.0})
    assert [curve.metric for curve in read_curves([both, both])] == ["valid_nll", "valid_nll"]
    assert [curve.points for curve in read_curves([both, plain])] == [((1, 3.0),), ((1, 4.0),)]


def test_a_torn_last_line_is_left_out(tmp_path: Path) -> None:
    """Cut after any byte, the file gives the lines that are whole, and never an error but for having none."""
    whole = '{"step": 1, "loss": 3.5}\n{"step": 20, "loss": 2.5}\n'
    first = whole.index("\n") + 1
    for cut in range(len(whole)):
        folder = write_run(tmp_path / "run", whole[:cut])
        if cut < first:
            with pytest.raises(DataError, match="no value yet"):
                read_curves([folder])
        else:
            assert read_curves([folder])[0].points == ((1, 3.5),)


def test_equal_names_are_told_apart(tmp_path: Path) -> None:
    """Two folders of one name are called by their paths."""
    for name in "ab":
        (tmp_path / name).mkdir()
        write_run(tmp_path / name / "student", {"step": 1, "loss": 1.0})
    folders = [tmp_path / name / "student" for name in "ab"]
    assert [curve.name for curve in read_curves(folders)] == [str(folder) for folder in folders]


BAD = [
    ("[1, 2]\n", "metrics.jsonl:1: expected an object with a whole number as its step"),
    ('{"step": true, "loss": 1.0}\n', "whole number as its step"),
    ('{"step": 1.5, "loss": 1.0}\n', "whole number as its step"),
    ('{"step": -1, "loss": 1.0}\n', "whole number as its step"),
    (f'{{"step": {2**53}, "loss": 1.0}}\n', "whole number as its step"),
    ('{"step": 1, "loss": "1.0"}\n', "metrics.jsonl:1: loss: expected a number or null, found '1.0'"),
    ('{"step": 1, "loss": true}\n', "expected a number or null"),
    ('{"step": 1, "loss": 1e300}\n', "expected a number or null"),
    (f'{{"step": 1, "loss": 1{"0" * 400}}}\n', "expected a number or null"),
    ('{"step": 1, "loss": NaN}\n', "not valid JSON"),
    ('{"step": 1, "\\u001b[2J": 1}\n', r"'\x1b[2J' is no name of a metric"),
    ('{"step": 20, "loss": 1}\n{"step": 20, "loss": 1}\n', "metrics.jsonl:2: loss of step 20 stands behind that of"),
    ('{"step": 1, "loss": 1}\n{"step": 20, "lo\n{"step": 40, "loss": 1}\n', "metrics.jsonl:2: not valid JSON"),
    ("[" * 100_000 + "\n", "metrics.jsonl:1"),
]


@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[-30:] + str(i) for i, (_, message) in enumerate(BAD)])
def test_what_training_does_not_write_is_refused(tmp_path: Path, text: str, message: str) -> None:
    """Foreign or damaged metrics give one error that names the line."""
    with pytest.raises(CorruptError, match=re.escape(message)):
        read_curves([write_run(tmp_path, text)])


def test_no_curve_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    """A missing file, an empty one, a metric that is not there, and one without a finite value are told apart."""
    with pytest.raises(DataError, match="Give folders that teacher-train or student-train wrote"):
        read_curves([tmp_path / "none"])
    with pytest.raises(DataError, match="no value yet"):
        read_curves([write_run(tmp_path / "empty", "")])
    run = write_run(tmp_path / "run", {"step": 1, "loss": None, "nll": 1.0})
    with pytest.raises(UsageError, match=r"--metric bleu: .*run has no such values. It has loss, nll\."):
        read_curves([run], "bleu")
    with pytest.raises(DataError, match="no value of loss is finite"):
        read_curves([run])
    (tmp_path / "link").mkdir()
    (tmp_path / "link" / "metrics.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(DataError, match="no such file"):
        read_curves([tmp_path / "link"])


@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]":,.0123456789-+eEnulstp \n', max_size=60).map(str.encode))
def test_no_bytes_break_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    """Any bytes at all give curves that can be drawn, or an error of ours."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "metrics.jsonl").write_bytes(data + b"\n")
    with contextlib.suppress(KDCacheError):
        terminal_plot.plot(read_curves([folder]), 80)


# The terminal


def test_a_picture_drawn_by_hand() -> None:
    """A falling line and a level one, cell by cell: 0 to 4 on both axes, 17 rows, 21 columns."""
    falling = Curve("falling", "loss", ((0, 4.0), (4, 0.0)))
    level = Curve("level", "loss", ((0, 2.0), (2, 2.0), (3, None), (4, 2.0)))
    # One column more than 4 times 5, so that the ticks lie on columns 0, 5, 10, 15, 20.
    drawn = terminal_plot.plot([falling, level], width=21 + 3)
    assert drawn.splitlines() == [
        "4 +o",
        "  | o",
        "  |  oo",
        "  |    o",
        "3 +     o",
        "  |      o",
        "  |       oo",
        "  |         o",
        "2 +xxxxxxxxxxo         x",
        "  |           o",
        "  |            oo",
        "  |              o",
        "1 +               o",
        "  |                o",
        "  |                 oo",
        "  |                   o",
        "0 +                    o",
        "  ++----+----+----+----+",
        "   0    1    2    3    4",
        "      optimizer step",
    ]


def test_curves_that_meet_take_turns() -> None:
    """Of two equal curves both marks are seen, one after the other, from edge to edge."""
    points = ((0, 1.0), (10, 1.0))
    picture = terminal_plot.plot([Curve(name, "loss", points) for name in "ab"], 30).splitlines()
    (row,) = [line for line in picture[:17] if "o" in line]
    drawn = row[row.index("+") + 1 :]
    assert len(drawn) == 30 - row.index("+") - 1
    assert set(drawn) == {"o", "x"}
    assert "oo" not in drawn
    assert "xx" not in drawn


@given(low=VALUES, high=VALUES)
@example(low=0.0, high=5e-324)
@example(low=0.0, high=1e-299)
def test_ticks_span_what_is_drawn(low: float, high: float) -> None:
    """Ticks rise evenly, enclose both ends, and are few, however large, small or close the values are."""
    low, high = min(low, high), max(low, high)
    ticks = axes.ticks(low, high)
    slack = 1e-9 * max(abs(low), abs(high))
    assert ticks[0] <= low + slack
    assert ticks[-1] >= high - slack
    assert 2 <= len(ticks) <= 7
    assert all(a < b for a, b in itertools.pairwise(ticks))


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 4, (0, 1, 2, 3, 4)),
        (0, 3_000, (0, 1_000, 2_000, 3_000)),
        (2.1, 5.9, (2, 3, 4, 5, 6)),
        (-0.3, 0.4, (-0.4, -0.2, 0, 0.2, 0.4)),
        (0, 0, (-0.05, 0, 0.05)),
    ],
)
def test_ticks_by_hand(low: float, high: float, expected: tuple[float, ...]) -> None:
    """Steps of 1, 2 or 5 times a power of ten, four intervals or about as many."""
    assert axes.ticks(low, high) == pytest.approx(expected)


@given(
    curves=st.lists(
        st.lists(st.none() | VALUES, min_size=1, max_size=30).filter(lambda values: any(v is not None for v in values)),
        min_size=1,
        max_size=8,
    ),
    width=st.integers(1, 200),
)
def test_any_curves_fit_the_terminal(curves: list[list[float | None]], width: int) -> None:
    """Whatever the values, all lines fit the width (of 40 columns at least), and every curve is seen."""
    drawn = [Curve(f"run {i}", "loss", tuple(enumerate(values, 1))) for i, values in enumerate(curves)]
    text = terminal_plot.plot(drawn, width)
    assert max(map(len, text.splitlines())) <= max(40, width)
    assert len(text.splitlines()) == 20
    if len(curves) == 1:
        assert "o" in text.split("optimizer")[0]
    assert max(map(len, terminal_plot.summary(drawn, width).splitlines())) <= max(80, width)


def test_the_table_is_the_legend(tmp_path: Path) -> None:
    """Each run's mark, name, best and last value with their steps, in 80 columns however long the name is."""
    one = Curve("student", "valid_correct", ((100, 0.25), (2_000, 0.5), (3_000, 0.125)))
    two = Curve("x" * 100, "valid_correct", ((100, 0.75),))
    rows = [line.split() for line in terminal_plot.summary([one, two], 80).splitlines()]
    assert rows[2] == ["o", "student", "3", "0.5", "2,000", "0.125", "3,000"]
    assert rows[3][0] == "x"
    assert re.fullmatch("…x+", rows[3][1])
    assert max(len(line) for line in terminal_plot.summary([one, two], 80).splitlines()) <= 80


# The PNG


def test_the_png_shows_every_curve(tmp_path: Path) -> None:
    """A picture has each curve in its own colour, names that look like formulas included, and is drawn over itself."""
    from matplotlib import image
    from matplotlib.colors import to_rgb

    folders = [
        write_run(tmp_path / name, *({"step": step, "loss": level / step} for step in (1, 2, 3)))
        for level, name in enumerate(["plain", "_hidden", "$a_1$", "<b>"], 1)
    ]
    output = tmp_path / "curves.png"
    curves = read_curves(folders)
    png_plot.save_png(curves, output)
    pixels = image.imread(output)[..., :3].reshape(-1, 3)
    for colour in png_plot._COLOURS[:4]:
        assert (abs(pixels - to_rgb(colour)).max(axis=1) < 0.01).sum() > 500
    assert not (abs(pixels - to_rgb(png_plot._COLOURS[4])).max(axis=1) < 0.01).any()
    before = output.read_bytes()
    png_plot.save_png(curves[:1], output)
    assert output.read_bytes() != before


def test_every_run_stands_in_the_legend() -> None:
    """The legend has every name as it is written, with its best value and step; the axes are named with units."""
    from matplotlib.figure import Figure

    plot = Figure().add_subplot()
    png_plot._draw(plot, [Curve(name, "valid_nll", ((100, 2.5), (200, 2.25), (300, None))) for name in ("_a", "$b$")])
    legend = plot.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [f"{n}: 2.25 at step 200" for n in ("_a", "$b$")]
    assert not any(text.get_parse_math() for text in legend.get_texts())
    assert (plot.get_xlabel(), plot.get_ylabel()) == ("optimizer step", "validation loss, nats a target")
    (line, _) = plot.get_lines()
    assert line.get_markevery() == [1]
    assert list(line.get_xdata()) == [100, 200, 300]
    assert math.isnan(line.get_ydata()[2])


def test_only_pictures_of_its_own_are_replaced(tmp_path: Path) -> None:
    """Another's file, a missing folder and a name that is not a PNG's are refused, and nothing is changed."""
    curves = [Curve("run", "loss", ((1, 1.0),))]
    other = tmp_path / "other.png"
    other.write_bytes(b"precious")
    with pytest.raises(OutputError, match="is no picture that kdcache drew"):
        png_plot.save_png(curves, other)
    assert other.read_bytes() == b"precious"
    with pytest.raises(OutputError, match="its folder does not exist"):
        png_plot.save_png(curves, tmp_path / "none" / "x.png")
    with pytest.raises(UsageError, match=r"must end in \.png"):
        png_plot.save_png(curves, tmp_path / "x.pdf")


# The command


def test_the_command_draws_and_saves(tmp_path: Path) -> None:
    """`kdcache curves` prints title, picture and table in 80 columns, writes the PNG, and loads no torch."""
    for name, best in (("plain", 2.5), ("soft", 2.25)):
        lines = [{"step": 100, "valid_nll": 4.0}, {"step": 200, "valid_nll": best}, {"step": 300, "valid_nll": 3.0}]
        write_run(tmp_path / name, *lines)
    code = "import sys\nfrom kdcache.cli import main\nmain(standalone_mode=False)\nprint('torch' in sys.modules)"
    done = run_python("-c", code, "curves", "plain", "soft", "--output", "c.png", cwd=tmp_path, COLUMNS="80")
    assert (done.returncode, done.stderr) == (0, "c.png: the same as a picture.\n")
    assert done.stdout.startswith("validation loss, nats a target\n4.0 +")
    *drawn, plain, soft, torch_is_loaded = done.stdout.splitlines()
    assert max(map(len, drawn)) <= 80
    assert plain.split() == ["o", "plain", "3", "2.5", "200", "3", "300"]
    assert soft.split() == ["x", "soft", "3", "2.25", "200", "3", "300"]
    assert (tmp_path / "c.png").read_bytes().startswith(b"\x89PNG")
    assert torch_is_loaded == "False"


def test_without_matplotlib_the_remedy_is_named(tmp_path: Path) -> None:
    """Where matplotlib is absent the curves are drawn all the same, and the error for the PNG says what to install."""
    write_run(tmp_path / "run", {"step": 1, "loss": 2.0})
    (tmp_path / "absent").mkdir()
    (tmp_path / "absent" / "matplotlib.py").write_text("raise ModuleNotFoundError('No module named matplotlib')\n")
    done = run_cli("curves", "run", "--output", "c.png", cwd=tmp_path, PYTHONPATH=str(tmp_path / "absent"))
    assert done.returncode == 2
    assert "training loss" in done.stdout
    assert "pip install matplotlib" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "c.png").exists()


def test_nine_runs_are_too_many() -> None:
    """As many runs as there are marks can be drawn, one more is refused."""
    curves = [Curve(f"run {number}", "loss", ((1, 1.0),)) for number in range(9)]
    terminal_plot.plot(curves[:8], 80)
    with pytest.raises(UsageError, match="At most 8 runs can be told apart"):
        terminal_plot.plot(curves, 80)
