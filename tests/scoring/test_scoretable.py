"""Tables of results: what stands in which column, what is marked, and both notations."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from kdcache.cli import main
from kdcache.errors import CorruptError, DataError
from kdcache.scoring.lineage import Lineage
from kdcache.scoring.score_corpus import Difference, Score
from kdcache.scoring.score_file import VERSION, Bootstrap, Comparison, ScoreFile, read_scores
from kdcache.scoring.score_table import Row, latex, latex_text, markdown, read_rows
from kdcache.scoring.scorers import Estimate

SIGNATURE = "nrefs:1|case:mixed"


def score(name: str, value: float, half: float = 0.5, signature: str = SIGNATURE) -> Score:
    parts = (Estimate(1, 0, 2), Estimate(3, 2, 4)) if name.startswith("rouge") else (None, None)
    return Score(name, value, value - half, value + half, signature, 1_000, *parts)


def result(*scores: Score, text: str = "h", **lineage: str) -> ScoreFile:
    """A result of hypotheses whose fingerprint is `text`."""
    made = Lineage(text, ("r" * 64,), lineage.get("source"), lineage.get("student"), lineage.get("cache"))
    return ScoreFile(VERSION, "given", scores, (), Bootstrap(1_000, 12_345), made, None)


def against(found: ScoreFile, text: str, **p_values: float) -> ScoreFile:
    """The same with a comparison that has these p-values."""
    differences = tuple(Difference(n, 1, 2, 1, 0, 2, p, 1_000, 1, SIGNATURE) for n, p in p_values.items())
    scores = tuple(score(name, 1) for name in p_values)
    other = replace(found.lineage, hypothesis=text)
    return replace(found, comparison=Comparison("some/baseline", scores, other, differences))


def save(path: Path, found: ScoreFile) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(found.content())
    path.with_name(path.name + ".run.json").write_text("{}")
    return path


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_a_table_by_hand() -> None:
    """Best values are bold, the lowest for TER; intervals, marks, fingerprints and notes stand in their places."""
    soft = result(score("bleu", 41.204, 0.61), score("ter", 30.0), text="a", student="0123456789", cache="f" * 64)
    hard = result(score("bleu", 40.0), score("ter", 29.5), score("rougeL", 70.0), text="b", student="9" * 64)
    rows = [Row("soft", against(soft, "b", bleu=0.0099, ter=0.049)), Row("hard", hard)]
    head, rule, *lines = markdown(rows).splitlines()
    assert cells(head) == ["System", "BLEU", "TER", "ROUGE-L", "n", "student", "cache"]
    assert re.fullmatch(r"\|:-+\|(-+:\|){6}", rule)
    assert [cells(line) for line in lines[:2]] == [
        ["soft", "**41.20** ± 0.61‡", "30.00 ± 0.50†", "–", "1,000", "01234567", "ffffffff"],
        ["hard", "40.00 ± 0.50", "**29.50** ± 0.50", "70.00 ± 0.50", "1,000", "99999999", "–"],
    ]
    assert lines[2:] == [
        "",
        "- ±: half of the 95 % interval, by sacreBLEU's bootstrap over sentences (1,000 resamples, seed 12345).",
        "- TER: less is better.",
        "- † p below 0.05, ‡ p below 0.01: paired bootstrap, one tail; compared were soft with hard.",
        f"- BLEU, TER, ROUGE-L: `{SIGNATURE}`",
    ]


@pytest.mark.parametrize(("p_value", "mark"), [(0.0099, "‡"), (0.01, "†"), (0.0499, "†"), (0.05, ""), (1.0, "")])
def test_marks_begin_below_their_levels(p_value: float, mark: str) -> None:
    """A p-value of 0.01 is not below 0.01, and one of 0.05 is not below 0.05."""
    table = markdown([Row("a", against(result(score("bleu", 1)), "x", bleu=p_value))])
    assert cells(table.splitlines()[2])[1] == f"1.00 ± 0.50{mark}"


def test_a_baseline_outside_the_table_is_named() -> None:
    """Where no row has the baseline's text, the note has the name that it was given."""
    for text in ("h", "x"):
        table = markdown([Row("a", against(result(score("bleu", 1), text=text), "x", bleu=0.5))])
        assert "compared were a with some/baseline" in table
    assert "p below" not in markdown([Row("a", result(score("bleu", 1)))])


def test_other_signatures_are_other_columns() -> None:
    """A metric with two signatures has two numbered columns; no value is bold because of one in the other column."""
    rows = [
        Row("cased", result(score("bleu", 30, signature="case:mixed"), score("chrf", 50))),
        Row("lower", result(score("bleu", 35, signature="case:lc"), score("chrf", 40))),
    ]
    lines = markdown(rows).splitlines()
    assert cells(lines[0])[1:4] == ["BLEU¹", "BLEU²", "chrF"]
    assert cells(lines[2])[1:4] == ["30.00 ± 0.50", "–", "**50.00** ± 0.50"]
    assert cells(lines[3])[1:4] == ["–", "35.00 ± 0.50", "40.00 ± 0.50"]
    assert lines[-3:] == ["- BLEU¹: `case:mixed`", "- BLEU²: `case:lc`", f"- chrF: `{SIGNATURE}`"]
    assert "BLEU$^{1}$ & BLEU$^{2}$ & chrF" in latex(rows)
    assert r"BLEU$^{2}$: \texttt{case:lc}" in latex(rows)


def test_equal_as_printed_is_equally_good() -> None:
    """Values that print alike are both bold; a single value is not the best of anything."""
    rows = [Row("a", result(score("bleu", 30.001))), Row("b", result(score("bleu", 30.004)))]
    assert markdown(rows).count("**30.00**") == 2
    assert "**" not in markdown(rows[:1])


def test_latex_by_hand() -> None:
    """A row of LaTeX has a bold value, ± and a raised mark; no name is taken for an option of the row before it."""
    rows = [
        Row("a_b", against(result(score("bleu", 41.204, 0.61), student="0123456789"), "x", bleu=0.02)),
        Row("50%", result(score("bleu", 40))),
        Row("[1em]", result(score("bleu", 40))),
        Row("*best*", result(score("bleu", 40))),
    ]
    lines = latex(rows).splitlines()
    rest = r" & 40.00 $\pm$ 0.50 & 1,000 & \textendash{} & \textendash{} \\"
    assert lines[:10] == [
        r"\begin{tabular}{lrrrr}",
        r"\toprule",
        r"System & BLEU & n & student & cache \\",
        r"\midrule",
        r"a\_b & \textbf{41.20} $\pm$ 0.61$^{\dagger}$ & 1,000 & 01234567 & \textendash{} \\",
        r"50\%" + rest,
        "{}[1em]" + rest,
        "{}*best*" + rest,
        r"\bottomrule",
        r"\end{tabular}",
    ]
    assert lines[-1] == r"\par{\footnotesize BLEU: \texttt{nrefs:1\textbar{}case:mixed}}"


# What LaTeX prints for the commands that may come out of the escaping.
PRINTED = {
    r"\textbackslash": "\\",
    r"\textasciitilde": "~",
    r"\textasciicircum": "^",
    r"\textbar": "|",
    r"\textless": "<",
    r"\textgreater": ">",
    r"\textasciigrave": "`",
    r"\textendash": "–",
}

QUOTE = r"\texttt{\char34}"


def typeset(source: str) -> str:
    """What LaTeX would print for `source`, by its rules for commands, groups, ligatures and special characters."""
    printed = []
    for piece in re.findall(r"\\texttt\{\\char34\}|\\[a-zA-Z]+\{\}|\\.|\{\}|--|''|.", source):
        if piece == "{}":
            continue
        if piece == QUOTE:
            printed.append('"')
            continue
        if piece.startswith("\\"):
            printed.append(PRINTED[piece[:-2]] if piece.endswith("{}") and len(piece) > 2 else piece[1])
            continue
        assert piece not in ("--", "''"), "a ligature"
        assert piece not in '&%$#_{}~^\\<>|"`', f"{piece} means something to LaTeX"
        printed.append(piece)
    return "".join(printed)


@given(st.text(st.sampled_from("ab &%$#_{}~^\\<>|\"`'-–")))
def test_latex_prints_what_the_text_says(text: str) -> None:
    """Whatever characters LaTeX gives a meaning to, it prints the text as it is, blanks joined."""
    assert typeset(latex_text(text)) == " ".join(text.split())


@given(st.text(st.characters(blacklist_categories=["Cs"]), min_size=1))
def test_a_name_cannot_break_the_markdown_table(name: str) -> None:
    """Whatever a file is called, its row stays one line with as many cells as the head."""
    lines = markdown([Row(name, result(score("bleu", 1)))]).split("\n")
    assert not re.search(r"(?<!\\)~", lines[2])  # tildes strike text out in GitHub's Markdown
    assert len(cells(lines[2])) == len(cells(lines[0]))
    assert lines[3] == ""


def test_results_are_read_from_files_and_folders(tmp_path: Path) -> None:
    """Rows keep the given order, a folder's by name; JSON without a record beside it is passed over."""
    for name in ("b", "a"):
        save(tmp_path / "folder" / f"{name}.json", result(score("bleu", 1)))
    (tmp_path / "folder" / "config.json").write_text("{}")
    alone = save(tmp_path / "z.json", result(score("bleu", 2)))
    alone.with_name("z.json.run.json").unlink()
    rows = read_rows([alone, tmp_path / "folder"])
    assert [row.name for row in rows] == ["z", "a", "b"]
    assert rows[0].found == result(score("bleu", 2))


def test_rows_of_one_name_have_their_folders(tmp_path: Path) -> None:
    """Files of one name in different folders are told apart by their paths."""
    paths = [save(tmp_path / folder / "scores.json", result(score("bleu", 1))) for folder in ("a", "b")]
    assert [row.name for row in read_rows(paths)] == [str(path.with_suffix("")) for path in paths]


def test_a_file_comes_back_as_it_was_written(tmp_path: Path) -> None:
    """What is written is read back equal, comparison, ceilings and parts of ROUGE included."""
    found = against(result(score("rouge1", 1.25), source="s"), "x", rouge1=0.5)
    found = replace(found, ceilings=(score("rouge1", 99.5),))
    assert read_scores(save(tmp_path / "x.json", found)) == found


@pytest.mark.parametrize("content", ["[]", "{}", '{"version": 2}', '{"version": true}', '{"version": 1}', "x"])
def test_other_json_is_refused(content: str, tmp_path: Path) -> None:
    """JSON that `score --json` did not write, or of another version, is refused with the file's name."""
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(CorruptError, match=r"x\.json: (no result of kdcache score|expected an object|not valid JSON)"):
        read_rows([tmp_path / "x.json"])
    with pytest.raises(CorruptError, match=r"missing\.json: no such file"):
        read_rows([tmp_path / "missing.json"])


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """A folder without results is an error that says what was looked for."""
    with pytest.raises(DataError, match="no results here"):
        read_rows([tmp_path])


def test_other_test_sets_are_refused(tmp_path: Path) -> None:
    """Results on other references, in any order, or from another source as far as it is known, share no table."""
    one = result(score("bleu", 1), source="s")
    others = {
        "other references than": replace(one, lineage=replace(one.lineage, references=("q" * 64,))),
        "another source text than": replace(one, lineage=replace(one.lineage, source="t")),
    }
    first = save(tmp_path / "one.json", one)
    unknown = save(tmp_path / "unknown.json", replace(one, lineage=replace(one.lineage, source=None)))
    assert len(read_rows([unknown, first, first.parent / "unknown.json"])) == 3
    orders = [replace(one, lineage=replace(one.lineage, references=names)) for names in (("p", "q"), ("q", "p"))]
    assert len(read_rows([save(tmp_path / f"order{i}.json", found) for i, found in enumerate(orders)])) == 2
    for number, (message, other) in enumerate(others.items()):
        path = save(tmp_path / f"{number}.json", other)
        with pytest.raises(DataError, match=message):
            read_rows([unknown, first, path])


def invoke(*arguments: str) -> Result:
    """`kdcache score` in this process."""
    return CliRunner().invoke(main, ["score", *arguments])


def test_scoring_and_tables_from_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scored texts give a table in both notations, whose numbers are those of their files."""
    monkeypatch.chdir(tmp_path)
    for name, text in (("r", "a b c d\ne f g h\n"), ("one", "a b c d\ne f g x\n"), ("two", "a b c x\ne f x h\n")):
        Path(name).write_text(text)
    Path("results").mkdir()
    values = {}
    for name, baseline in (("one", ["--baseline", "two"]), ("two", [])):
        done = invoke("--reference", "r", "--hypothesis", name, *baseline, "--json", f"results/{name}.json")
        assert done.exit_code == 0, done.output
        values[name] = json.loads(Path(f"results/{name}.json").read_text())["scores"][0]["value"]
    done = invoke("--table", "results/two.json", "results/one.json")
    lines = done.stdout.splitlines()
    two, one = (cells(line)[:2] for line in lines[2:4])
    assert (two[0], two[1][:5]) == ("two", f"{values['two']:.2f}")
    assert (one[0], one[1][:9]) == ("one", f"**{values['one']:.2f}**")
    assert "compared were one with two" in done.stdout
    assert rf"one & \textbf{{{values['one']:.2f}}}" in invoke("--table", "results", "--format", "latex").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--table", "--table needs results"),
        ("--table x.json --reference r", "leave --reference out"),
        ("--table x.json --beam-size 4", "leave --beam-size out"),
        ("--table x.json --json y", "leave --json out"),
        ("x.json y.json", "RESULTs belong to --table"),
        ("r h x", "Only REF and HYP go without an option"),
        ("r h --reference x", "--reference was given twice"),
        ("--pairs p --student s --source x", "leave --source out"),
        ("--reference r --hypothesis h --format latex", "RESULT and --format belong to --table"),
        ("--reference r --student s", "--student DIR and --source F belong together"),
        ("--hypothesis h", "Give --reference F"),
        ("--reference r", "either --hypothesis F, or --student DIR"),
        ("--reference r --hypothesis h --json x --sentences x", "--json and --sentences"),
    ],
)
def test_options_that_do_not_go_together(arguments: str, message: str) -> None:
    """Contradictions, and --table with what scores, are refused in one line with exit code 2."""
    done = invoke(*arguments.split())
    assert done.exit_code == 2
    assert message in done.output
    assert done.output.count("\n") == 1
