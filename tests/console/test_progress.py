"""Progress: numbers that a reader can trust, a bar on a terminal and lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time

import pytest
from conftest import ROOT

from kdcache.console.progress import Progress, duration

SCRIPT = """
import time
from kdcache.console.progress import Progress
with Progress("working", 40, "items", 10) as progress:
    for _ in range(30):
        time.sleep(0.02)
        progress.advance(1, "loss 1.5")
"""


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


def test_work_of_an_earlier_run_is_not_in_the_rate() -> None:
    """A continued run counts what was done before, but computes its rate from its own work alone."""
    progress = Progress("dumping", 1_000, "pairs", 900)
    assert progress.message() == "dumping: 900/1,000 pairs"
    progress.advance(50)
    assert progress.message().startswith("dumping: 950/1,000 pairs, ")
    assert "left" in progress.message()


@pytest.mark.parametrize(
    ("seconds", "done", "begun", "words"),
    [
        (10, 50, 0, "5 units/s, 10s left"),
        (10, 2, 0, "0.2 units/s, 8m 10s left"),
        (90, 1, 0, "0.67 units/min, 2h 28m left"),
        (3_600, 1, 0, "1 units/h, 4d 03h left"),
        (36_000, 0, 0.5, "0.05 units/h, 82d 22h left"),
        (100, 1, 1.5, "1.5 units/min, 1h 05m left"),
    ],
)
def test_rate_and_time_left(
    seconds: float, done: int, begun: float, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Slow work is counted by the minute or hour, and parts of units that are under way shorten the time left."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress("working", 100, "units", shown=False)
    clock[0] += seconds
    progress.advance(done, begun=begun)
    assert progress.message() == f"working: {done}/100 units, {words}"


def test_a_unit_that_an_earlier_run_began(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an earlier run did of a unit counts neither in the rate nor in what is left to do."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    progress = Progress("working", 4, "units", shown=False)
    progress.inherit(0.5)
    clock[0] += 100
    progress.advance(0, begun=0.75)
    assert progress.message() == "working: 0/4 units, 0.15 units/min, 21m 40s left"
    clock[0] += 100
    progress.advance(1, begun=0)
    assert progress.message() == "working: 1/4 units, 0.15 units/min, 20m 00s left"


def test_a_terminal_gets_a_bar() -> None:
    """On a terminal one line is redrawn with bar, rate, time left and note, and is taken away at the end."""
    main, side = pty.openpty()
    done = subprocess.Popen([sys.executable, "-c", SCRIPT], stderr=side, cwd=ROOT)
    os.close(side)
    output = b""
    try:
        while chunk := os.read(main, 65_536):
            output += chunk
    except OSError:
        pass  # the other side was closed
    assert done.wait(timeout=60) == 0
    os.close(main)
    text = output.decode()
    assert "\n" not in text
    assert "[######" in text
    assert "items/s" in text
    assert "loss 1.5" in text
    assert text.endswith("\r")


def test_elsewhere_short_work_says_nothing() -> None:
    """Without a terminal no bar is drawn; lines come only now and then, so short work prints none."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")
