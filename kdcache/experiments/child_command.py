"""A kdcache command in a process that stops when the one that started it is gone.

`python -m kdcache.experiments.child_command COMMAND …` is `kdcache COMMAND …`. Its standard input is a pipe into which
nobody writes: it ends when the starting process does, however that happened, and then this one asks itself to stop.
"""

import os
import runpy
import signal
import sys
import threading

from kdcache.process import signals

_GRACE_SECONDS = 5.0


def main() -> None:
    """Watch the pipe and run the command."""
    with signals.stop_on_signals(grace_seconds=_GRACE_SECONDS):
        threading.Thread(target=watch, daemon=True).start()
        runpy.run_module("kdcache", run_name="__main__")


def watch() -> None:
    """Wait for the end of the pipe, and ask this process to stop unless somebody has before."""
    os.read(sys.stdin.fileno(), 1)
    if not signals.stop_asked():
        os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
