"""Write `docs/reliability.md`: every fault, and what its tests did when they ran last.

`python docs/make_reliability.py` runs all tests whose name begins with `test_fault_` and a row's number, the long
loops included, and writes the page. With `--quick` it leaves the long loops out. Given a file
that pytest wrote with `--junitxml`, it takes the outcomes from there. What `make_protections.py` found last
is written beside it.
"""

from __future__ import annotations

import datetime
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import make_protections

ROOT = Path(__file__).parent.parent
PAGE = Path(__file__).parent / "reliability.md"
_ROW = re.compile(r"test_fault_(\d+)")

# Row: what is done to kdcache, and what must come out.
ROWS: dict[str, dict[int, tuple[str, str]]] = {
    "Dumping": {
        1: ("SIGKILL at each step of the commit protocol", "the invariant"),
        2: ("SIGKILL at random moments", "the invariant"),
        3: ("SIGKILL while resuming", "the invariant"),
        4: ("SIGKILL between a shard and its record", "the shard is adopted, or set aside and made anew"),
        5: ("SIGKILL while the manifest is written", "no manifest or a whole one; a re-run completes it"),
        6: ("the disk is full", "an error with the bytes needed; after room was made, the invariant"),
        7: ("the limit on file sizes is reached", "as for a full disk"),
        8: ("write, fsync or the folder's fsync fail", "nothing is committed; the shard is written again"),
        9: ("short writes, interrupted system calls", "the invariant"),
        10: ("a temporary file or shard lost its end in a crash", "no record names bytes that are not there"),
        11: ("one of several processes dies", "the others finish their share; the invariant"),
        12: ("a process stalls and wakes when others have finished", "the first publication wins"),
        13: ("two launches on one folder", "the invariant, or a refusal"),
        14: ("resuming with other batches or another number of processes", "the same positions, equal up to rounding"),
        15: ("targets that the number of processes does not divide", "nothing twice, nothing missing"),
        16: ("another teacher, tokenizer, corpus or setting on resume", "refused, naming the field"),
        17: ("the teacher's values are not finite", "an error naming the line; nothing of the shard is stored"),
        18: ("the device is out of memory", "the batch is split"),
        19: ("SIGTERM; SIGINT twice", "a quick exit that can be continued"),
        20: ("a read-only, deleted or blocked output folder", "an immediate error"),
        21: ("an exception in the writing thread", "it reaches the caller; no manifest, no hang"),
        22: ("an empty corpus, one pair, an end on a shard's boundary", "the invariant, or a clear error"),
    },
    "Reading": {
        23: ("single-bit flips anywhere in a shard, with and without the SHA-256 check", "none goes unnoticed"),
        24: ("a truncated, extended or partly zeroed shard", "an error naming the shard"),
        25: ("two shards exchanged; a shard of another cache", "an error"),
        26: ("missing or additional shards or records", "an error"),
        27: ("a manifest that is empty, no JSON, huge, deep, or repeats keys", "an error"),
        28: ("missing chunks; chunks that skip their checksum", "refused"),
        29: ("a shard deleted in the middle of an epoch", "an error, no hang"),
        30: ("the loader's thread fails (there are no loader processes)", "its error reaches the caller; no hang"),
        31: ("fork, spawn and forkserver, 1 and 4 workers, in a user's DataLoader", "the same stream"),
        32: ("incomplete or changed downloads of a remote cache; damaged local copies", "fetched again and verified"),
        33: ("too little room for remote shards", "a clear error at the start"),
    },
    "Resuming a training": {
        34: ("resuming at every batch of an epoch", "the same rest"),
        35: ("resuming at the end of an epoch, in a later one, twice", "the same rest"),
        36: ("another number of processes with the same global batch", "the same order, nothing lost or doubled"),
        37: ("batches that were read ahead when the state was saved", "counted as not consumed"),
        38: ("the state of another cache or seed", "refused"),
        39: ("SIGKILL while a checkpoint is saved", "the one before loads"),
        40: ("left-over parts of a checkpoint", "saving works"),
        41: ("one of several processes cannot save", "all fail together"),
        42: ("the newest checkpoint has flipped bits", "a warning, and the one before"),
        43: ("an interrupted run beside an undisturbed one", "equal bit by bit (CPU, float32, dropout on)"),
        44: ("another random state, or none", "none is needed; a state without its step is an error"),
        45: ("SIGTERM, also to one of several processes or in validation", "all save the same step and end"),
        46: ("a loss that is not finite on one of several processes", "all skip it; ten in a row end all"),
    },
    "Hostile files": {
        47: ("links, virtual datasets, external storage in a shard", "refused before they are followed"),
        48: ("huge declared shapes; small chunks that inflate to gigabytes", "refused within bounded memory"),
        49: ("mutated shards, records, manifests", "an error, never a crash"),
        50: ("pickles, `../` in a record, links in place of shards", "refused"),
    },
    "Text": {
        51: ("line counts, empty lines, CRLF, BOM, bad UTF-8, U+2028", "an error or a counted skip; no shift"),
        52: ("a pair longer than the teacher's positions", "an error or a counted skip, never cut"),
        53: ("special tokens spelled in the text; a vocabulary that does not fit", "text; refused above a share"),
    },
}  # fmt: skip
_HEAD = """\
# Reliability

What is done to kdcache, on purpose and for real, and what came out. **The invariant**: after any fault, and the same
command run again, the committed shards are those of the plan, every target position is there exactly once, and every
stored value equals that of a run that was never disturbed: bit by bit with the same batches, precision, threads and
device.

This page is written by `python docs/make_reliability.py` from a run of the tests whose names begin with `test_fault_`
and the row's number. Faults are injected for real: processes are killed, a preloaded library makes system calls fail,
bits are flipped in files.

A test proves something only if it fails without what it tests: [the second table](#without-protection) says what was
removed from kdcache for a while, and which test noticed.

Not tested here, because no machine of the project can: loss of power (fsync is called and its failures are tested,
but whether a disk obeys it is the disk's affair), NFS, and object stores.
"""


_PROTECTIONS = """\
## Without protection

For each row that has tests, `python docs/make_protections.py` copies the checkout, removes
one protection from the source in the copy, as `docs/protections.toml` says, and runs the row's quick tests there until
one fails. A protection that nothing notices would be an error. With everything in its place all of them pass.
"""


@dataclass
class Outcome:
    """What the tests of one row did."""

    passed: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0


def run_tests(quick: bool) -> dict[int, Outcome]:
    """Run all fault tests; outcomes by row."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        tier = ["-m", "not full"] if quick else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-n", "2", "-k", "test_fault_", *tier, f"--junitxml={report}"],
            cwd=ROOT,
            env=environment,
            check=False,
        )
        return outcomes(report)


def outcomes(report: Path) -> dict[int, Outcome]:
    """What a report of pytest says about the rows."""
    found: defaultdict[int, Outcome] = defaultdict(Outcome)
    for case in ET.parse(report).iter("testcase"):  # noqa: S314
        row = _ROW.match(case.get("name", ""))
        if row is not None:
            one = found[int(row[1])]
            one.seconds += float(case.get("time", 0))
            one.failed += case.find("failure") is not None or case.find("error") is not None
            one.skipped += case.find("skipped") is not None
            one.passed += len(case) == 0
    return dict(found)


def page(found: dict[int, Outcome], quick: bool) -> str:
    """The whole page."""
    total = sum(one.passed for one in found.values())
    tier = "the quick tier" if quick else "with the long loops"
    parts = [_HEAD, f"Last run: {datetime.date.today().isoformat()}, {tier}: {total} tests passed.\n"]
    for title, rows in ROWS.items():
        parts.append(f"## {title}\n\n| | fault | expected | tests passed | seconds |\n|---|---|---|---|---|")
        for number, (fault, expected) in rows.items():
            parts.append(f"| {number} | {fault} | {expected} | {_result(number, found.get(number))} |")
        parts.append("")
    return "\n".join([*parts, _PROTECTIONS, make_protections.section(make_protections.read_results()), ""])


def _result(number: int, one: Outcome | None) -> str:
    if one is None:
        return "none | "
    counts = f"{one.passed}"
    counts += f", **{one.failed} failed**" if one.failed else ""
    counts += f", {one.skipped} skipped" if one.skipped else ""
    return f"{counts} | {one.seconds:.0f}"


def main(arguments: list[str]) -> int:
    """Run, write, return the exit code."""
    quick = arguments[:1] == ["--quick"]
    reports = arguments[quick:]
    if len(reports) > 1 or any(name.startswith("-") for name in reports):
        print("usage: python docs/make_reliability.py [--quick] [REPORT.xml]", file=sys.stderr)
        return 2
    found = outcomes(Path(reports[0])) if reports else run_tests(quick)
    PAGE.write_text(page(found, quick), encoding="utf-8")
    return 1 if any(one.failed for one in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
