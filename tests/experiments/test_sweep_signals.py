"""Signals to what a sweep has started: several of them are one request to stop, and what was trained is saved."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from models import wait_until
from sweeps import write_inputs

from kdcache.errors import StoppedError
from kdcache.process.signals import stop_on_signals

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
# Nothing saves before the end but a request to stop.
TRAIN = ("student-train", "--cache", "cache", "--max-steps", "100000", "--device", "cpu", "--output", "s")


def test_a_repeated_signal_does_not_keep_a_run_from_saving(tmp_path: Path) -> None:
    """A run of a sweep that is signalled twice before it can act on the first signal saves a checkpoint and stops."""
    write_inputs(tmp_path)
    command = [sys.executable, "-m", "kdcache.experiments.child_command", *TRAIN]
    with (
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, cwd=tmp_path, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=log, stderr=log, text=True
        ) as process,
    ):
        metrics = tmp_path / "s" / "metrics.jsonl"
        try:
            assert wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, process)
            # Stopped, it finds both when it goes on.
            for number in (signal.SIGSTOP, signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
                process.send_signal(number)
            code = process.wait(timeout=120)
        finally:
            process.kill()
    said = (tmp_path / "log").read_text()
    assert code in (128 + signal.SIGINT, 128 + signal.SIGTERM), said
    assert "Stopped by SIG" in said
    assert list((tmp_path / "s" / "checkpoints").glob("step-*"))


def test_only_what_comes_soon_is_a_repetition() -> None:
    """Within the seconds of grace, which an inner block has too, a second signal is ignored; after them it stops."""
    with pytest.raises(StoppedError) as caught, stop_on_signals(grace_seconds=60.0), stop_on_signals() as stop:  # noqa: PT012 (the last signal is the claim)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
            assert stop.number == signal.SIGTERM
        stop.grace_seconds = 0.0
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("not stopped")
    assert caught.value.exit_code == 128 + signal.SIGINT


def test_an_inner_block_knows_what_was_asked_before_it() -> None:
    """A signal that came before a block inside another is a request to stop there too."""
    with stop_on_signals(grace_seconds=60.0):
        os.kill(os.getpid(), signal.SIGTERM)
        with stop_on_signals() as stop, pytest.raises(StoppedError):
            stop.check()


@pytest.mark.parametrize("first", [signal.SIGINT, None])
def test_the_end_of_the_pipe_asks_whom_nobody_has_asked(first: signal.Signals | None) -> None:
    """A child whose sweep is gone asks itself to stop; one that is stopping already goes on with that undisturbed."""
    program = (
        "import os, sys\n"
        "from kdcache.process.signals import stop_on_signals\n"
        "from kdcache.experiments.child_command import watch\n"
        "with stop_on_signals() as stop:\n"
        "    for number in map(int, sys.argv[1:]):\n"
        "        os.kill(os.getpid(), number)\n"
        "    watch()\n"
        "    print(stop.number)\n"
    )
    arguments = [] if first is None else [str(int(first))]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.strip() == str(int(signal.SIGTERM if first is None else first)), done.stderr
