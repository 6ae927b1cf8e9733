"""Write the results of the fault tests into the tables of `docs/why/reliability.md`.

The page has one row for each fault: its number, the fault, what must come out, and what the row's tests did. Tests
belong to a row by their names, which begin with `test_fault_` and its number.

    python docs/make_reliability.py [--quick] [REPORT.xml]
    python docs/make_reliability.py --check

The first form runs these tests, or reads a report that pytest wrote with `--junitxml`, and writes how many passed and
how long they took. With `--quick` the long loops are left out. The second form runs nothing: it checks that every row
has a test and every test a row, and that the page is as this program writes it.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "why" / "reliability.md"
# Number, fault, what must come out, protections removed and noticed; then what this program writes.
_ROW = re.compile(r"^\| (?P<number>\d+) \|(?P<words>(?:[^|\n]*\|){3})(?P<results>[^|\n]*\|[^|\n]*)\|$", re.MULTILINE)
_LAST_RUN = re.compile(r"^The last run, on .*$", re.MULTILINE)


@dataclass
class Outcome:
    """What the tests of one row did; their time in seconds, all of them together."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        counts = [str(self.passed)]
        counts += [f"**{self.failed} failed**"] if self.failed else []
        counts += [f"{self.skipped} skipped"] if self.skipped else []
        return f"{', '.join(counts)} | {self.seconds:.0f}"


def run_tests(quick: bool, report: Path) -> None:
    """Run all fault tests and write pytest's report into `report`."""
    tier = ["-m", "not full"] if quick else []
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "-k", "test_fault_", *tier, f"--junitxml={report}"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False)


def read_report(report: Path) -> dict[int, Outcome]:
    """The outcomes in a report of pytest, by row."""
    outcomes: dict[int, Outcome] = {}
    for case in ET.parse(report).iter("testcase"):  # noqa: S314
        if row := re.match(r"test_fault_(\d+)", case.get("name", "")):
            outcome = outcomes.setdefault(int(row[1]), Outcome())
            outcome.seconds += float(case.get("time", 0))
            outcome.failed += case.find("failure") is not None or case.find("error") is not None
            outcome.skipped += case.find("skipped") is not None
            outcome.passed += len(case) == 0
    return outcomes


def write_results(page: str, outcomes: Mapping[int, Outcome], quick: bool) -> str:
    """The page with these outcomes in its rows and in the sentence about the last run."""
    tier = "without the long loops" if quick else "with the long loops"
    passed, failed = (sum(getattr(one, name) for one in outcomes.values()) for name in ("passed", "failed"))
    sentence = f"The last run, on {datetime.date.today().isoformat()} {tier}: {passed} tests passed, {failed} failed."

    def row(match: re.Match[str]) -> str:
        number = int(match["number"])
        return f"| {number} |{match['words']} {outcomes.get(number, Outcome())} |"

    return _LAST_RUN.sub(sentence, _ROW.sub(row, page))


def find_mistakes(page: str, tests: Path) -> list[str]:
    """Rows without tests, tests without rows, rows out of order, and a sum that is not that of the rows."""
    rows = [int(match["number"]) for match in _ROW.finditer(page)]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in tests.rglob("test_*.py"))
    tested = {int(number) for number in re.findall(r"def test_fault_(\d+)_", sources)}
    mistakes = [f"row {number} has no test" for number in sorted(set(rows) - tested)]
    mistakes += [f"tests of fault {number} have no row" for number in sorted(tested - set(rows))]
    if rows != sorted(set(rows)):
        mistakes.append("the rows are not in order, or one stands twice")
    counted = sum(int(match["results"].split()[0].rstrip(",")) for match in _ROW.finditer(page))
    if len(told := _LAST_RUN.findall(page)) != 1 or f": {counted} tests passed," not in told[0]:
        mistakes.append(f"the rows have {counted} tests that passed, the sentence about the last run says otherwise")
    return mistakes


def main(arguments: list[str]) -> int:
    """Run or check; the exit code."""
    page = PAGE.read_text(encoding="utf-8")
    if arguments == ["--check"]:
        mistakes = find_mistakes(page, ROOT / "tests")
        for mistake in mistakes:
            print(f"{PAGE.relative_to(ROOT)}: {mistake}", file=sys.stderr)
        return bool(mistakes)
    quick = arguments[:1] == ["--quick"]
    reports = arguments[quick:]
    if len(reports) > 1 or any(name.startswith("-") for name in reports):
        print("usage: python docs/make_reliability.py [--quick] [REPORT.xml] | --check", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = Path(reports[0]) if reports else Path(folder) / "report.xml"
        if not reports:
            run_tests(quick, report)
        outcomes = read_report(report)
    PAGE.write_text(write_results(page, outcomes, quick), encoding="utf-8")
    return any(outcome.failed for outcome in outcomes.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
