"""Progress: numbers that a reader can trust, a bar on a terminal and lines elsewhere."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
import time

import pytest
from conftest import ROOT

from kdcache.console import progress as module
from kdcache.console.progress import Progress, duration

SCRIPT = """
import logging, sys, time
from kdcache.console.progress import Progress, above_bars
logging.getLogger("kdcache.progress").setLevel(int(sys.argv[1]))
with Progress("working", 40_000, "items", 10_000) as progress:
    for number in range(30):
        time.sleep(0.03)
        progress.advance(1_000, "loss 1.500")
        if number == 20:
            with above_bars():
                print("a message", file=sys.stderr)
"""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test moves."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m 00s"),
        (185, "3m 05s"),
        (3_599, "59m 59s"),
        (3_600, "1h 00m"),
        (7_800, "2h 10m"),
        (86_400, "1d 00h"),
        (4 * 86_400 + 6 * 3_600, "4d 06h"),
        (-5, "0s"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    """A time span is written in its two largest units."""
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "done", "begun", "words"),
    [
        (10, 50, 0, "5 units/s, 10s left"),
        (10, 2, 0, "0.2 units/s, 8m 10s left"),
        (90, 1, 0, "0.67 units/min, 2h 28m left"),
        (3_600, 1, 0, "1 unit/h, 4d 03h left"),
        (36_000, 0, 0.5, "0.05 units/h, 82d 22h left"),
        (100, 1, 1.5, "1.5 units/min, 1h 05m left"),
        (10, 99, 0, "9.9 units/s, 1s left"),
    ],
)
def test_rate_and_time_left(seconds: float, done: int, begun: float, words: str, clock: list[float]) -> None:
    """Slow work is counted by the minute or hour, parts of units shorten the time left, and 0s is never left."""
    progress = Progress("working", 100, "units", shown=False)
    clock[0] += 3
    progress.advance(0)
    clock[0] += seconds
    progress.advance(done, begun=begun)
    assert progress.message() == f"working: {done}/100 units, {words}"


def test_no_estimate_counts_the_start(clock: list[float]) -> None:
    """Work whose first unit takes ten times as long as the others is estimated by the others alone."""
    progress = Progress("working", 101, "units", shown=False)
    clock[0] += 10
    progress.advance(1)
    assert progress.message() == "working: 1/101 units"
    for _ in range(3):
        clock[0] += 1
        progress.advance(1)
        left = 101 - 1 - round(clock[0] - 110)
        assert progress.message() == f"working: {101 - left}/101 units, 1 unit/s, {duration(left)} left"


def test_work_of_an_earlier_run_is_not_in_the_rate(clock: list[float]) -> None:
    """A continued run counts what was done before, but computes its rate from its own work alone."""
    progress = Progress("dumping", 1_000, "pairs", 900, shown=False)
    assert progress.message() == "dumping: 900/1,000 pairs"
    clock[0] += 5
    progress.advance(0)
    clock[0] += 5
    progress.advance(50)
    assert progress.message() == "dumping: 950/1,000 pairs, 10 pairs/s, 5s left"


def test_a_unit_that_an_earlier_run_began(clock: list[float]) -> None:
    """What an earlier run did of a unit counts neither in the rate nor in what is left to do."""
    progress = Progress("working", 4, "units", shown=False)
    clock[0] += 3
    progress.advance(0)
    progress.inherit(0.5)
    clock[0] += 100
    progress.advance(0, begun=0.75)
    assert progress.message() == "working: 0/4 units, 0.15 units/min, 21m 40s left"
    clock[0] += 100
    progress.advance(1, begun=0)
    assert progress.message() == "working: 1/4 units, 0.15 units/min, 20m 00s left"


def test_one_unit_is_no_plural() -> None:
    """A single shard is called a shard."""
    assert Progress("reading", 1, "shards", shown=False).message() == "reading: 0/1 shard"


def on_a_terminal(columns: int, level: int = 0) -> str:
    """What the script writes on a terminal of this width."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    done = subprocess.Popen([sys.executable, "-c", SCRIPT, str(level)], stderr=side, cwd=ROOT)
    os.close(side)
    output = b""
    try:
        while chunk := os.read(main, 65_536):
            output += chunk
    except OSError:
        pass  # the other side was closed
    assert done.wait(timeout=60) == 0
    os.close(main)
    return output.decode()


@pytest.mark.parametrize("columns", [60, 80])
def test_a_terminal_gets_a_bar(columns: int) -> None:
    """One line is redrawn and taken away at the end; the note is whole on a narrow one, and a message stands above."""
    text = on_a_terminal(columns)
    drawn = text.replace("\n", "\r").split("\r")
    assert any(line.startswith("working: 3") and "items, loss 1.500" in line for line in drawn)
    assert all(len(line) <= columns for line in drawn)
    assert "a message\r\n" in text
    assert text.count("\n") == 1
    assert text.endswith("\r")


def test_the_level_of_the_logger_keeps_it_quiet() -> None:
    """Above INFO nothing is drawn; what the program itself prints is."""
    assert on_a_terminal(80, 30).strip() == "a message"


def test_elsewhere_lines_come_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal short work prints nothing, and long work a plain line every 15 seconds."""
    monkeypatch.setattr(module._log, "level", 0)
    with Progress("working", 100, "items") as progress:
        for _ in range(40):
            clock[0] += 1
            progress.advance(1)
    assert capsys.readouterr().err.splitlines() == [
        "working: 15/100 items, 1 item/s, 1m 25s left",
        "working: 30/100 items, 1 item/s, 1m 10s left",
    ]
