"""A test aid: points in the code at which a process can be made to die or to stall.

The environment variable `KDCACHE_FAILPOINT="NAME:N"` makes a process kill itself with SIGKILL when it reaches the
point NAME for the N-th time, as a power cut or `kill -9` at that moment would. `"NAME:N:stop"` stops it with SIGSTOP
instead, so that a test can let others overtake it and wake it with SIGCONT. The points stand at the steps of the
commit protocol: `claiming`, `file-opened`, `file-written`, `file-synced`, `file-published`, `file-replaced`,
`shard-published`, `record-published`, `setting-aside`, `finalizing`. Without the variable a point costs one look into
the environment.
"""

import os
import signal
from collections import Counter

VARIABLE = "KDCACHE_FAILPOINT"

_reached: Counter[str] = Counter()


def reach(name: str) -> None:
    """Die or stall here if the environment says so."""
    armed = os.environ.get(VARIABLE)
    if armed is None:
        return
    wanted, _, rest = armed.partition(":")
    if wanted != name:
        return
    _reached[name] += 1
    number, _, action = rest.partition(":")
    if number == str(_reached[name]):
        os.kill(os.getpid(), signal.SIGSTOP if action == "stop" else signal.SIGKILL)
