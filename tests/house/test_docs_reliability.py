"""What docs/why/reliability.md says about the tests of faults is true of them."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from conftest import ROOT

sys.path.insert(0, str(ROOT / "docs"))

import make_reliability

PAGE = """\
The last run, on 2026-01-01 with the long loops: 3 tests passed, 0 failed.

| 1 | a kill | the invariant | 1/1 | 2 | 5 |
| 2 | a full disk | an error | 0/1 | 1, 1 skipped | 0 |
"""
REPORT = """\
<testsuites><testsuite>
<testcase name="test_fault_01_kill[a]" time="1.25"/>
<testcase name="test_fault_01_kill[b]" time="2.5"/>
<testcase name="test_fault_02_full" time="0.25"><failure/></testcase>
<testcase name="test_fault_02_quota" time="0"><skipped/></testcase>
<testcase name="test_other" time="9"/>
</testsuite></testsuites>
"""


def test_reliability_page_has_a_row_for_every_fault_test() -> None:
    """Each row of the fault matrix has a test and each fault test a row, and the page's sum is that of its rows."""
    command = [sys.executable, str(ROOT / "docs" / "make_reliability.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_outcomes_are_written_into_their_rows(tmp_path: Path) -> None:
    """Passed, failed and skipped tests of a report and their seconds replace those of the page, and nothing else."""
    report = tmp_path / "report.xml"
    report.write_text(REPORT)
    written = make_reliability.write_results(PAGE, make_reliability.read_report(report), quick=True)
    sentence, *rows = written.splitlines()
    assert re.fullmatch(r"The last run, on [\d-]{10} without the long loops: 2 tests passed, 1 failed\.", sentence)
    assert rows == [
        "",
        "| 1 | a kill | the invariant | 1/1 | 2 | 4 |",
        "| 2 | a full disk | an error | 0/1 | 0, **1 failed**, 1 skipped | 0 |",
    ]


def test_mistakes_of_a_page_are_named(tmp_path: Path) -> None:
    """A row without a test, a test without a row, rows out of order and a wrong sum are each found."""
    (tmp_path / "test_a.py").write_text("def test_fault_01_a() -> None: ...\ndef test_fault_02_b() -> None: ...\n")
    assert make_reliability.find_mistakes(PAGE, tmp_path) == []
    mistakes = "\n".join(make_reliability.find_mistakes(PAGE.replace("| 1 |", "| 3 |"), tmp_path))
    assert "row 3 has no test" in mistakes
    assert "tests of fault 1 have no row" in mistakes
    assert "not in order" in mistakes
    assert "otherwise" in make_reliability.find_mistakes(PAGE.replace(": 3 tests", ": 4 tests"), tmp_path)[0]
