"""All that a GPU has to show, in one command of at most nine minutes, as one table that can be sent.

Each piece is a process with a limit of its own; one that fails, or takes too long, is a row that says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.report import machine
from kdcache import __version__
from kdcache.console.tables import escape, markdown_table
from kdcache.files.atomic import replace_file

_ROOT = Path(__file__).parents[1]
_GPU_TESTS = (
    "tests/compute",
    "tests/training/test_loader.py",
    "tests/losses/test_objectives.py",
    "tests/dump/test_dump_memory.py",
)


@dataclass(frozen=True, slots=True)
class Piece:
    """Arguments of Python, and the seconds that it may take."""

    name: str
    arguments: tuple[str, ...]
    limit: float


GOALS = {"share_of_peak_bf16_base": "≥ 0.45"}
PIECES = (
    Piece("dump", ("-m", "benchmarks", "dump", "--pairs", "4096", "--rounds", "3"), 170),
    Piece("train", ("-m", "benchmarks", "train", "--rounds", "3"), 150),
    Piece("memory", ("-m", "benchmarks.gpu_memory", "--seconds", "30"), 110),
    Piece("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", *_GPU_TESTS), 100),
)
REHEARSAL = (
    Piece("dump", ("-m", "benchmarks", "dump", "--pairs", "8", "--rounds", "1"), 600),
    Piece("train", ("-m", "benchmarks", "train", "--pairs", "8", "--rounds", "1", "--part", "loader"), 600),
    Piece(
        "memory",
        (
            *("-m", "benchmarks.gpu_memory", "--pairs", "64", "--shape", "minilm", "--size", "tiny"),
            *("--tokens", "256", "--early", "2", "--steps", "4"),
        ),
        600,
    ),
    Piece("tests", ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/compute/test_device.py"), 600),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--output", default="gpu-results", help="folder for gpu.md, gpu.json and each piece's output")
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on the CPU, without limits")


def run(options: argparse.Namespace) -> None:
    """Run all pieces, and write and print the table."""
    if not (options.rehearse or torch.cuda.is_available()):
        raise SystemExit("PyTorch sees no GPU here: run this where there is one, or try it out with --rehearse.")
    folder = Path(options.output).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    # Without the devices a rehearsal on a machine with a GPU is the same.
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if options.rehearse else {}
    found = [run_piece(piece, folder, hidden) for piece in (REHEARSAL if options.rehearse else PIECES)]
    write(folder, found, _machine(rehearsal=options.rehearse))
    print((folder / "gpu.md").read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a piece: figures, or why there are none."""

    name: str
    seconds: float
    figures: dict[str, float]
    failure: str | None


def run_piece(piece: Piece, folder: Path, environment: dict[str, str]) -> Outcome:
    """Run it; what it prints goes to `folder`/NAME.log."""
    path = folder / f"{piece.name}.log"
    start = time.monotonic()
    with path.open("w", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *piece.arguments],
            cwd=_ROOT,
            env={**os.environ, "PYTHONPATH": str(_ROOT), "HF_HUB_OFFLINE": "1", **environment},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(piece.limit)
        except subprocess.TimeoutExpired:
            # With the processes that it has started itself.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = None
    spent = time.monotonic() - start
    lines = path.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
    figures = _figures(lines[-1])
    failure = None
    if code is None:
        failure = f"stopped after {piece.limit:.0f} s"
    elif code:
        failure = f"failed ({code}): {lines[-1][:200]}"
    return Outcome(piece.name, spent, figures, failure)


def _figures(last: str) -> dict[str, float]:
    """Those of a benchmark's last line, or the counts of a test run's."""
    if last.startswith("{"):
        return dict(json.loads(last))
    return {what: float(number) for number, what in re.findall(r"(\d+) (passed|failed|skipped|errors?)\b", last)}


def write(folder: Path, found: list[Outcome], about: dict[str, str]) -> None:
    """Write `folder`/gpu.md and `folder`/gpu.json."""
    rows = [("piece", "figure", "value", "goal")]
    for one in found:
        rows += [(one.name, name, f"{value:,.4g}", GOALS.get(name, "")) for name, value in one.figures.items()]
        rows.append((one.name, "seconds", f"{one.seconds:,.0f}", ""))
        if one.failure is not None:
            rows.append((one.name, "**failed**", escape(one.failure), ""))
    lines = [f"{name}: {escape(value)}  " for name, value in about.items()]
    replace_file(folder / "gpu.md", "\n".join([*lines, "", markdown_table(rows), ""]).encode())
    record = {
        "about": about,
        "pieces": [
            {"name": one.name, "seconds": round(one.seconds, 1), "failure": one.failure, "figures": one.figures}
            for one in found
        ],
    }
    replace_file(folder / "gpu.json", (json.dumps(record, indent=1) + "\n").encode())


def _machine(*, rehearsal: bool) -> dict[str, str]:
    about = {"kdcache": __version__, "machine": machine()}
    if rehearsal:
        return {"rehearsal": "tiny sizes on the CPU; no figure here says anything about speed", **about}
    seen = torch.cuda.get_device_properties(0)
    return {"GPU": f"{seen.name}, {seen.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}", **about}
