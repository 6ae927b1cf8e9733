"""Remove kdcache's protections one at a time, and see that the tests of the fault in question notice.

`protections.toml` names, for each row of the fault matrix, what protects kdcache and which exact text in its source
does it. `python docs/make_protections.py` copies the checkout, removes one protection in the copy, runs the row's
quick tests there and wants at least one to fail; then the next. What it found goes into `protections.json`, from which
`make_reliability.py` makes a part of its page. With row numbers as arguments it runs those rows and keeps the other
results. A protection that nobody noticed ends it with exit code 1.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
TABLE = Path(__file__).parent / "protections.toml"
RESULTS = Path(__file__).parent / "protections.json"
_COPIED = ("kdcache", "tests", "data", "docs", "cli.py", "setup.cfg", "pyproject.toml")
# For the tests of one row. Those of the slowest take a minute.
_SECONDS_MAX = 300.0


@dataclass(frozen=True, slots=True)
class Edit:
    """An exact text that stands once in `file`, and what takes its place."""

    file: str
    text: str
    by: str


@dataclass(frozen=True, slots=True)
class Protection:
    """What keeps a fault from doing harm.

    Attributes:
        row: of the fault matrix.
        removed: what was taken away, in words.
        edits: how; several where two checks stand behind each other.
    """

    row: int
    removed: str
    edits: tuple[Edit, ...]


@dataclass(frozen=True, slots=True)
class Finding:
    """What the tests did without a protection: the first that failed, or None; and when that was tried."""

    row: int
    removed: str
    noticed: str | None
    date: str


def read_table() -> list[Protection]:
    """The protections of `protections.toml`, ordered by row."""
    found = []
    for entry in tomllib.loads(TABLE.read_text(encoding="utf-8"))["protection"]:
        edits = entry.get("edits") or [{name: entry[name] for name in ("file", "text", "by")}]
        found.append(Protection(entry["row"], entry["removed"], tuple(Edit(**edit) for edit in edits)))
    return sorted(found, key=lambda one: one.row)


def read_results() -> list[Finding]:
    """What was found last, ordered as the table was."""
    return [Finding(**one) for one in json.loads(RESULTS.read_text(encoding="utf-8"))]


def without(protection: Protection, folder: Path) -> dict[Path, str]:
    """The files below `folder` that the protection is in, with it removed.

    Raises:
        ValueError: a text does not stand exactly once in its file.
    """
    changed: dict[Path, str] = {}
    for edit in protection.edits:
        path = folder / edit.file
        content = changed.get(path) or path.read_text(encoding="utf-8")
        if (count := content.count(edit.text)) != 1:
            raise ValueError(f"row {protection.row}, {protection.removed}: its text stands {count} times in {path}")
        changed[path] = content.replace(edit.text, edit.by)
    return changed


@contextmanager
def removed(protection: Protection, folder: Path) -> Iterator[None]:
    """Remove a protection below `folder` for a while."""
    changed = without(protection, folder)
    before = {path: path.read_text(encoding="utf-8") for path in changed}
    try:
        for path, content in changed.items():
            path.write_text(content, encoding="utf-8")
        yield
    finally:
        for path, content in before.items():
            path.write_text(content, encoding="utf-8")


def copy_checkout(folder: Path) -> None:
    """Copy what the tests need into `folder`."""
    ignored = shutil.ignore_patterns("__pycache__", ".hypothesis")
    for name in _COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, folder / name)


def run_rows(folder: Path, rows: Sequence[int]) -> tuple[int, str | None]:
    """Run the quick tests of `rows` in a copy: how many passed, and which failed first (then the others did not run).

    Raises:
        TimeoutError: they hang.
        RuntimeError: they did not run at all.
    """
    names = [f"def test_fault_{row:02d}_" for row in rows]
    files = [path for path in sorted(folder.glob("tests/test_*.py")) if any(n in path.read_text() for n in names)]
    report = folder / "report.xml"
    report.unlink(missing_ok=True)
    # What stands first in the path is the copy, before the checkout that is installed.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    chosen = " or ".join(f"test_fault_{row:02d}" for row in rows)
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-m", "not full", "-k", chosen, f"--junitxml={report}"]
    process = subprocess.Popen(
        [*command, "-p", "no:cacheprovider", *map(str, files)],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=_SECONDS_MAX * len(rows))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise TimeoutError(f"the tests of rows {rows} hang") from None
    if process.returncode not in (0, 1):
        raise RuntimeError(f"the tests of rows {rows} did not run:\n{said[-1_000:]}")
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314
    if any(case.find("error") is not None for case in cases):
        raise RuntimeError(f"the tests of rows {rows} could not begin:\n{said[-1_000:]}")
    failed = [str(case.get("name")) for case in cases if case.find("failure") is not None]
    return sum(len(case) == 0 for case in cases), failed[0] if failed else None


def try_all(protections: Sequence[Protection]) -> Iterator[Finding]:
    """Remove each in turn, after seeing that all tests pass with everything in its place."""
    rows = sorted({one.row for one in protections})
    with tempfile.TemporaryDirectory(prefix="protections-") as name:
        folder = Path(name)
        copy_checkout(folder)
        for one in protections:
            without(one, folder)
        passed, failed = run_rows(folder, rows)
        if failed is not None:
            raise RuntimeError(f"{failed} fails although nothing was removed")
        print(f"{passed} tests pass with everything in place", flush=True)
        for one in protections:
            with removed(one, folder):
                try:
                    _, noticed = run_rows(folder, [one.row])
                except (TimeoutError, RuntimeError) as error:
                    # Tests that hang or cannot begin do not say which fault they found.
                    print(f"{one.row}: {one.removed}: {error}")
                    noticed = None
            print(f"{one.row}: {one.removed}: {noticed or 'NOT NOTICED'}", flush=True)
            yield Finding(one.row, one.removed, noticed, datetime.date.today().isoformat())


def keep(table: Sequence[Protection], new: Finding) -> None:
    """Write a finding among those of other protections; what the table no longer has is dropped."""
    old = read_results() if RESULTS.exists() else []
    found = {(one.row, one.removed): one for one in (*old, new)}
    ordered = [found[key] for key in ((one.row, one.removed) for one in table) if key in found]
    data = [dataclasses.asdict(one) for one in ordered]
    RESULTS.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def section(findings: Sequence[Finding]) -> str:
    """The part of the page on reliability that says which test noticed what."""
    lines = ["| | removed | noticed by | on |", "|---|---|---|---|"]
    for one in findings:
        noticed = "**nothing**" if one.noticed is None else f"`{one.noticed}`"
        lines.append(f"| {one.row} | {one.removed} | {noticed} | {one.date} |")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    """Try, write, return the exit code."""
    if not all(argument.isdecimal() for argument in arguments):
        print("usage: python docs/make_protections.py [ROW]...", file=sys.stderr)
        return 2
    table = read_table()
    wanted = [one for one in table if not arguments or str(one.row) in arguments]
    unnoticed = 0
    for found in try_all(wanted):
        keep(table, found)
        unnoticed += found.noticed is None
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
