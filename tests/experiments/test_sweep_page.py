"""The page of a sweep: one sound file with everything in it, whatever the runs are called, and its curves."""

import dataclasses
import importlib.resources
import re
import shlex
import unicodedata
from typing import Any

import pytest
from pages import HOSTILE, Page, check_sound
from sweeps import sweep_of

from kdcache.experiments.sweep_file import Student
from kdcache.experiments.sweep_report import mean_curves, page, picture
from kdcache.pictures.curves import read_curves

TAGS = {
    *("html", "head", "meta", "title", "style", "body", "main", "section", "h1", "h2", "p", "div", "pre", "ul", "li"),
    *("table", "thead", "tbody", "tr", "th", "td", "figure", "figcaption", "details", "summary"),
    *("svg", "clippath", "rect", "g", "line", "text", "polyline"),
}


def texts_of(found: Page) -> str:
    return "\n".join("".join(parts) for parts in found.texts.values())


def shown(text: str) -> str:
    """The text without what no page may hold: control characters, and code points that are none of Unicode's."""
    return "".join("\ufffd" if unicodedata.category(sign) in ("Cc", "Cn") else sign for sign in text)


def renamed(one: tuple[Student, dict[str, Any]], text: str) -> tuple[Student, dict[str, Any]]:
    """The same with `text` for the names of run and row, and as an argument of its command."""
    student, outcome = one
    return (
        dataclasses.replace(student, name=text, row=text, settings={"cache": text}),
        {**outcome, "name": text, "row": text},
    )


def curves_of(students: list[Student]) -> dict[str, list[tuple[int, float]]]:
    """The mean curves of the students' rows."""
    return mean_curves([(one.row, dict(read_curves([one.folder], "valid_nll")[0].finite)) for one in students])


def test_the_page_has_everything(students: list[Student], outcomes: list[dict[str, Any]]) -> None:
    """The page needs nothing from elsewhere, runs no code, and has each run, its command and each row's curve."""
    found = check_sound(page(*sweep_of(students, outcomes[:-1])), scripts=())
    assert {tag for tag, _ in found.elements} == TAGS
    text = texts_of(found)
    for one in students:
        assert one.name in text
        assert shlex.join(["kdcache", *one.arguments]) in found.texts["pre"]
    assert found.texts["h1"] == ["<i>.toml"]
    assert "4 of 5 runs are finished" in text
    assert "not finished" in text
    assert "3 more runs" in text
    assert "41.00" in text
    assert "of the mean over these seeds, each scored by itself" in text
    assert len(found.all("polyline")) == 2
    assert [one["class"] for one in found.all("tr") if one] == ["marked"]
    assert [name for name in found.texts["th"] if "(baseline)" in name] == [f"{students[0].row} (baseline)"]
    best = [float(cell.split()[0]) for cell in found.texts["td"] if cell.endswith(" (best)")]
    assert best == [41.0, 1.5], "the highest BLEU and the lowest loss"


@pytest.mark.parametrize("text", [*HOSTILE, "<script>\x1b[31m</script>\x00"])
def test_hostile_names_stay_text(finished: list[tuple[Student, dict[str, Any]]], text: str) -> None:
    """Markup and control characters in the names of file, runs and rows are shown wherever they stand, not obeyed."""
    enemies = [*finished[:3], *(renamed(one, text) for one in finished[3:])]
    file = text.replace("/", "|")  # no file has such a name otherwise
    written = page(*sweep_of([student for student, _ in enemies], [outcome for _, outcome in enemies][:-1], file))
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe]", written)
    found = check_sound(written, scripts=())
    assert {tag for tag, _ in found.elements} == TAGS
    safe = shown(text)
    assert found.texts["h1"] == [shown(file)]
    assert found.texts["title"] == [shown(file), "plain", safe]  # of the page, and of the two curves
    assert found.texts["li"] == ["plain", safe]
    assert found.texts["th"].count(safe) == 3
    assert [one.startswith(f"{safe} (in odd,seed=") for one in found.texts["summary"]] == [False] * 3 + [True] * 2
    assert all(shown(shlex.quote(text)) in one for one in found.texts["pre"][3:])
    assert safe in str(found.all("svg")[0]["aria-label"])


def test_curves_are_means_at_common_steps(students: list[Student]) -> None:
    """A row's curve is the mean of its runs at the steps that all of them have."""
    (students[0].folder / "metrics.jsonl").write_text(
        '{"step": 20, "valid_nll": 1.0}\n{"step": 30, "valid_nll": 1.0}\n'
    )
    plain, odd = curves_of(students).values()
    assert plain == [(20, pytest.approx((1.0 + 2.7 + 9.5) / 3))]
    assert odd == [(10, 2.5), (20, 2.0), (40, 1.75)]


def test_curves_lie_where_the_axes_say() -> None:
    """A value lies on the grid line with its name, a step above its mark; what is cut off lies above the picture."""
    found = Page(picture({"a": [(0, 90.0), (10, 2.4), (20, 2.0), (40, 1.8)]}))
    (curve,) = found.all("polyline")
    places = [[float(one) for one in point.split(",")] for point in str(curve["points"]).split()]
    names = dict(zip(found.texts["text"], found.all("text"), strict=True))
    grid = [float(str(one["y1"])) for one in found.all("line") if one["class"] == "grid"]
    heights = dict(zip((name for name in names if "." in name), grid, strict=True))
    assert [places[1][1], places[2][1], places[3][1]] == [heights["2.4"], heights["2.0"], heights["1.8"]]
    assert [places[0][0], places[1][0], places[3][0]] == [float(str(names[step]["x"])) for step in ("0", "10", "40")]
    (inside,) = found.all("rect")
    top, bottom = float(str(inside["y"])), float(str(inside["y"])) + float(str(inside["height"]))
    assert places[0][1] < 0 < top <= min(grid)
    assert max(grid) <= bottom
    (group,) = found.all("g")
    assert group["clip-path"] == f"url(#{found.all('clippath')[0]['id']})"


def test_many_curves_are_told_apart(students: list[Student], outcomes: list[dict[str, Any]]) -> None:
    """32 lines differ in colour or dashes, a legend has those of its curves, and each has rules for light and dark."""
    (line,) = curves_of(students[3:4]).values()
    lines = {f"row {number}": line for number in range(33)}
    kinds = [one["class"] for one in Page(picture(lines)).all("polyline")]
    assert len(set(kinds)) == 32
    assert kinds[32] == kinds[0]
    drawn = Page(page(*sweep_of(students, outcomes)))
    keys = [one["class"] for one in drawn.all("line") if str(one["class"]).startswith("curve")]
    assert keys == [one["class"] for one in drawn.all("polyline")]
    style = (importlib.resources.files("kdcache.experiments") / "templates" / "palette.css").read_text()
    classes = {one for kind in kinds for one in str(kind).split()} - {"curve", "d0"}
    for one in sorted(name for name in classes if name.startswith("c")):
        assert f".{one} {{ stroke: var(--{one}); }}" in style
        light, dark = re.findall(rf"--{one}: (#\w{{6}});", style)
        assert light != dark
    rules = [
        re.findall(rf"\.{one} {{ stroke-dasharray: ([\d ]+); }}", style) for one in sorted(classes) if one[0] == "d"
    ]
    assert len({pattern for (pattern,) in rules}) == 3
