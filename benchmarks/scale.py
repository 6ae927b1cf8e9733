"""Whether memory stays flat while the corpus or a training grows: peak anonymous memory of fresh processes."""

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
FIRST_STEPS, STEP_TOKENS = 50, 2_048
PRECISIONS = ("float32", "bfloat16")
_EVERY = 0.02


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--pairs", type=int, default=1_000_000, help="pairs of the large corpus; 10000000 by hand")
    parser.add_argument("--steps", type=int, default=500, help="steps of a teacher's training; 2000 by hand")
    parser.add_argument("--folder", help="where the text and the caches go; a temporary folder if not given")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        peaks: dict[str, dict[int, float]] = {"dump": {}, "read": {}}
        spent: dict[str, dict[int, float]] = {"dump": {}, "read": {}}
        for n_pairs in (BASE, options.pairs):
            for work in peaks:
                alone = _alone(work, name, n_pairs)
                peaks[work][n_pairs], spent[work][n_pairs] = alone["mib"], alone["seconds"]
        trained = {precision: _alone(precision, name, options.steps) for precision in PRECISIONS}
    rows = [("work", f"{BASE:,} pairs", f"{options.pairs:,} pairs", "growth", "seconds")]
    figures = {}
    for work, found in peaks.items():
        small, large = found.values()
        cells = (f"{small:,.1f} MiB", f"{large:,.1f} MiB", f"{large - small:+,.1f} MiB")
        rows.append((work, *cells, f"{spent[work][options.pairs]:,.0f}"))
        figures[f"memory_growth_mib_{work}"] = large - small
    figures["memory_growth_mib"] = max(figures.values())
    figures["pairs"] = options.pairs
    rows.append(("training", f"{FIRST_STEPS} steps", f"{options.steps:,} steps", "ratio", "seconds"))
    for precision, alone in trained.items():
        early, late, took = alone["early"], alone["mib"], alone["seconds"]
        rows.append((precision, f"{early:,.0f} MiB", f"{late:,.0f} MiB", f"{late / early:.2f}", f"{took:,.0f}"))
        figures[f"training_memory_ratio_{precision}"] = late / early
    publish(rows, figures)


def _alone(work: str, folder: str, count: int) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.scale", work, folder, str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


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


def work_alone(work: str, folder: Path, count: int) -> None:
    """Dump or read so many pairs, or train so many steps in a precision, in this process, and print the peak."""
    import torch

    torch.set_num_threads(1)
    start, found = time.perf_counter(), {}
    with Peak() as peak:
        if work in PRECISIONS:
            found = {"early": _train(folder, count, work, peak)}
        else:
            (_dump if work == "dump" else _read)(folder, count)
    print(json.dumps({**found, "mib": peak.mib, "seconds": time.perf_counter() - start}))


def _train(folder: Path, steps: int, precision: str, peak: Peak) -> float:
    """Train a teacher of MiniLM's shape; return the peak of its first steps."""
    from benchmarks.job import save_teacher
    from benchmarks.text import training_text
    from kdcache.losses.projection import LossSums
    from kdcache.teacher.masked_lm import Teacher
    from kdcache.teacher.masking import MaskedViews
    from kdcache.teacher.train_teacher import TeacherTask
    from kdcache.text.corpus import Corpus
    from kdcache.text.encode_corpus import encode_sections
    from kdcache.training.batches import TextSections
    from kdcache.training.loop import fit
    from kdcache.training.training_config import TrainingConfig

    save_teacher(folder / "teacher", training_text())
    teacher = Teacher.load(folder / "teacher")
    parts = encode_sections(Corpus(training_text()), teacher.tokenizer, teacher.positions, skip_bad=True)
    early: list[float] = []
    output = folder / precision
    output.mkdir()

    class Watched(TeacherTask):
        def loss(self, batch: MaskedViews, step: int) -> LossSums:
            if step == FIRST_STEPS + 1:
                early.append(peak.mib)
            return super().loss(batch, step)

    config = TrainingConfig(1e-4, "linear", STEP_TOKENS, max_steps=steps, device="cpu", precision=precision)
    fit(Watched(teacher, 1, None), TextSections(list(parts)), config, output, precision)
    return early[0]


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
