"""How much memory a piece of work takes at its peak, counted by the system."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch


def peak_growth(work: Callable[[], object]) -> float:
    """By how many MiB memory grows at most while `work` runs: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        work()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    # Linux starts the peak anew at the present size.
    Path("/proc/self/clear_refs").write_text("5")
    before = _status("VmRSS")
    work()
    return (_status("VmHWM") - before) / 1024


def _status(name: str) -> int:
    """A line of /proc/self/status, in KiB."""
    text = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(text.split(f"{name}:")[1].split()[0])
