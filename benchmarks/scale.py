"""Whether memory stays flat while the corpus grows: peak anonymous memory of fresh processes."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from benchmarks.report import publish

BASE = 100_000
TOKENS = 8_192
_EVERY = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs of the large corpus; 10000000 by hand")
    parser.add_argument("--folder", help="where the text and the caches go; a temporary folder if not given")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        peaks: dict[str, dict[int, float]] = {"dump": {}, "read": {}}
        spent: dict[str, dict[int, float]] = {"dump": {}, "read": {}}
        for n_pairs in (BASE, options.pairs):
            for work in peaks:
                command = [sys.executable, "-m", "benchmarks.scale", work, name, str(n_pairs)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found = json.loads(done.stdout.splitlines()[-1])
                peaks[work][n_pairs], spent[work][n_pairs] = found["mib"], found["seconds"]
    rows = [("work", f"{BASE:,} pairs", f"{options.pairs:,} pairs", "growth", "seconds")]
    figures = {}
    for work, found in peaks.items():
        small, large = found.values()
        cells = (f"{small:,.1f} MiB", f"{large:,.1f} MiB", f"{large - small:+,.1f} MiB")
        rows.append((work, *cells, f"{spent[work][options.pairs]:,.0f}"))
        figures[f"memory_growth_mib_{work}"] = large - small
    figures["memory_growth_mib"] = max(figures.values())
    figures["pairs"] = options.pairs
    publish(rows, figures)


class Peak:
    """The largest anonymous memory of this process while it is watched, in MiB."""

    def __init__(self) -> None:
        self.mib = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(_EVERY):
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            kib = next(line.split()[1] for line in status.splitlines() if line.startswith("RssAnon"))
            self.mib = max(self.mib, int(kib) / 1024)


def work_alone(work: str, folder: Path, n_pairs: int) -> None:
    """Dump or read in this process, and print the peak."""
    import torch

    torch.set_num_threads(1)
    start = time.perf_counter()
    with Peak() as peak:
        (_dump if work == "dump" else _read)(folder, n_pairs)
    print(json.dumps({"mib": peak.mib, "seconds": time.perf_counter() - start}))


def _dump(folder: Path, n_pairs: int) -> None:
    from benchmarks.synthetic import label_text, make_tokenizer, write_text

    label_text(folder / f"cache-{n_pairs}", write_text(folder, n_pairs), make_tokenizer())


def _read(folder: Path, n_pairs: int) -> None:
    from kdcache.cache.reader import CacheReader
    from kdcache.student.cached_labels import CacheSections
    from kdcache.training.batches import collate, epoch_order

    reader = CacheReader(folder / f"cache-{n_pairs}")
    special = reader.tokenizer().special
    for selection in epoch_order(CacheSections(reader, soft=True), TOKENS, 1, 0):
        collate(selection, special, None)
        # As in training: what is still named would stay in memory while the next window is read.
        del selection


if __name__ == "__main__":
    work_alone(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
