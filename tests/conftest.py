"""What tests share: small real text, a small real teacher, a small real cache."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

# Tests never reach for a network; a hub that is asked must fail at once.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TQDM_DISABLE"] = "1"

ROOT = Path(__file__).parent.parent
SUPPORT = ROOT / "tests" / "support"
SHARED = ROOT.parent / "shared" / "data"


@pytest.fixture(scope="session")
def multi30k() -> Path:
    """The real corpus beside the checkout."""
    folder = SHARED / "multi30k_de-en"
    if not folder.is_dir():
        pytest.skip("no real corpus beside this checkout")
    return folder


def run_here(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `kdcache` inside this process, where an exception that is no error of ours fails the test.

    It saves the seconds of a new interpreter. Start-up, signals and crashes need `run_cli`.
    """
    from click.testing import CliRunner

    from kdcache.cli import main

    loggers = [logging.getLogger(name) for name in (None, "kdcache", "kdcache.progress")]
    before = [(one, one.level, list(one.handlers)) for one in loggers]
    try:
        with contextlib.chdir(cwd or Path.cwd()):
            done = CliRunner(env=environment).invoke(
                main, [*map(str, arguments)], prog_name="kdcache", catch_exceptions=False
            )
    finally:
        logging.captureWarnings(False)
        for one, level, handlers in before:
            for handler in set(one.handlers) - set(handlers):
                handler.close()
            one.handlers = handlers
            one.setLevel(level)
    return subprocess.CompletedProcess(arguments, done.exit_code, done.stdout, done.stderr)


def run_cli(*arguments: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `kdcache` as its user does, in a process of its own."""
    return run_python(ROOT / "cli.py", *arguments, cwd=cwd, **environment)


def run_python(*command: object, cwd: Path | None = None, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run this Python on `command`, in a process of its own that knows kdcache from wherever it runs."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={
            **os.environ,
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests", SUPPORT))),
            **environment,
        },
        timeout=600,
        check=False,
    )


pytest_plugins = ["fixtures_models", "fixtures_caches", "fixtures_sweeps"]
