"""The table of protections fits the source, and each of them was seen to be noticed."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import make_protections
from make_protections import Edit, Protection

TABLE = make_protections.read_table()
ROWS = range(1, 54)


@pytest.mark.parametrize("row", ROWS)
def test_every_text_of_a_row_stands_once_in_the_source(row: int) -> None:
    """Each row of dumping, reading, hostile files and text has a protection, and its text is in the source once."""
    protections = [one for one in TABLE if one.row == row]
    assert protections
    for one in protections:
        for path, content in make_protections.without(one, ROOT).items():
            assert content != path.read_text(encoding="utf-8")
            compile(content, str(path), "exec")


def test_every_protection_was_noticed() -> None:
    """Each entry of the table was tried, a test of its row that exists noticed, and no result is left of another."""
    results = make_protections.read_results()
    assert [(one.row, one.removed) for one in results] == [(one.row, one.removed) for one in TABLE]
    names = {name for path in ROOT.glob("tests/test_*.py") for name in re.findall(r"def (test_\w+)", path.read_text())}
    for one in results:
        assert one.noticed is not None, one
        assert one.noticed.startswith(f"test_fault_{one.row:02d}_")
        assert one.noticed.partition("[")[0] in names, one


def test_a_text_that_is_not_there_once_is_refused(tmp_path: Path) -> None:
    """A text that stands twice or not at all is an error that says so; nothing is written."""
    (tmp_path / "a.py").write_text("x\nx\ny\n")
    for text, count in (("x", 2), ("z", 0)):
        with pytest.raises(ValueError, match=f"its text stands {count} times"):
            make_protections.without(Protection(1, "p", (Edit("a.py", text, ""),)), tmp_path)
    assert make_protections.without(Protection(1, "p", (Edit("a.py", "y", "z"),)), tmp_path) == {
        tmp_path / "a.py": "x\nx\nz\n"
    }


def test_only_failures_of_tests_count(tmp_path: Path) -> None:
    """A failing test is named; passing ones are counted; tests that cannot even begin are an error, not a finding."""
    (tmp_path / "tests").mkdir()
    test = tmp_path / "tests" / "test_a.py"
    test.write_text("def test_fault_01_a(): pass\ndef test_fault_01_b(): assert False\ndef test_fault_02_c(): 1 / 0\n")
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\nmarkers = ["full"]\n')
    assert make_protections.run_rows(tmp_path, [1]) == (1, "test_fault_01_b")
    test.write_text("def test_fault_01_a(): pass\n")
    assert make_protections.run_rows(tmp_path, [1]) == (1, None)
    for broken in (
        "import nothing_of_that_name\ndef test_fault_01_a(): pass\n",
        "def test_fault_01_a(missing): pass\n",
    ):
        test.write_text(broken)
        with pytest.raises(RuntimeError, match="tests of rows"):
            make_protections.run_rows(tmp_path, [1])
