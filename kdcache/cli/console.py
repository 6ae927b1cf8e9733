"""The screen: messages, the one translation of errors, and libraries kept quiet."""

from __future__ import annotations

import logging
import os
import signal
import sys
from typing import Any

import click

from kdcache.console import progress
from kdcache.errors import KDCacheError, StoppedError

log = logging.getLogger("kdcache")


class _Screen(logging.Handler):
    """Messages on standard error, above the progress bar."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        erase = "\r\033[K" if sys.stderr.isatty() else ""
        click.echo(f"{erase}{prefix}{record.getMessage()}", err=True)


def set_up(verbose: bool, quiet: bool) -> None:
    """Send kdcache's messages to the screen and libraries' only to the log file."""
    screen = _Screen(logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO)
    log.setLevel(logging.DEBUG)
    log.handlers = [screen]
    root = logging.getLogger()
    root.setLevel(logging.INFO)
    # Without any handler Python itself would print warnings.
    root.addHandler(logging.NullHandler())
    logging.captureWarnings(True)
    progress.quiet = quiet
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


def quiet_transformers() -> None:
    """Send what the transformers library says to the log file; imports it."""
    from transformers.utils import logging as library

    library.disable_default_handler()
    library.enable_propagation()
    library.disable_progress_bar()  # type: ignore[no-untyped-call]
    # The hub client reports its retries on the screen; the error that follows says what matters.
    hub = logging.getLogger("huggingface_hub")
    hub.handlers.clear()
    hub.propagate = True


class Group(click.Group):
    """A group that turns kdcache's errors into one message and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KDCacheError as error:
            if isinstance(error, StoppedError):
                # An impatient second Ctrl-C must not break into the interpreter's own end.
                signal.signal(signal.SIGINT, signal.SIG_IGN)
            log.debug("%s", type(error).__name__, exc_info=True)
            click.echo(f"kdcache: {error}", err=True)
            ctx.exit(error.exit_code)
