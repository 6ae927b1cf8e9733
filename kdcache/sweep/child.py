"""A kdcache command in a process that stops when the one that started it is gone.

`python -m kdcache.sweep.child COMMAND …` is `kdcache COMMAND …`. Its standard input is a pipe into which nobody writes:
it ends when the starting process does, however that happened, and then this one asks itself to stop.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Watch the pipe and run the command."""
    threading.Thread(target=_watch, daemon=True).start()
    runpy.run_module("kdcache", run_name="__main__")


def _watch() -> None:
    os.read(sys.stdin.fileno(), 1)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
