"""This process among others: signals that ask it to stop, its rank, and threads that work ahead.

This room may import errors, files and console; it loads no torch.
"""

from kdcache.process.prefetch import Prefetch
from kdcache.process.ranks import Process, this_process
from kdcache.process.signals import StopRequest, stop_on_signals

__all__ = ["Prefetch", "Process", "StopRequest", "stop_on_signals", "this_process"]
