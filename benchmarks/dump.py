"""How close dumping comes to the bare forward pass, and two processes to twice one."""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks import pinned
from benchmarks.job import PASSES, SHARD_PAIRS, TOKENS, forward, make_job, save_teacher
from benchmarks.report import alternate, publish, ratio, seconds, spread
from benchmarks.text import first_pairs, training_text
from kdcache.cache.writer import CacheWriter
from kdcache.corpus import Corpus, TextFiles
from kdcache.dump.job import Job
from kdcache.dump.run import write_shards
from kdcache.encode import encode_slice
from kdcache.interrupt import StopRequest
from kdcache.masking import partition_batches
from kdcache.teacher.model import Teacher


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--pairs", type=int, default=192, help="pairs dumped in one run")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each arm")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    rows, figures = [("what", "median [range]")], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = first_pairs(folder, options.pairs)
        save_teacher(folder / "teacher", text)
        for precision, suffix in (("float32", ""), ("bfloat16", "_bf16")):
            found = against_forward(folder, text, precision, options.rounds)
            figures[f"dump_over_forward{suffix}"] = ratio(found["dump"], found["forward"])
            rows += [(f"{precision}, {arm}: targets/s", spread(values, 0)) for arm, values in found.items()]
        share, views = masked_views(folder)
        figures |= {"padding_share": share, "views_per_s": views}
        rows += [("padding, share of tokens", f"{share:.4f}"), ("masked views/s, one core", f"{views:,.0f}")]
        found = pinned.measure(folder, text, options.rounds)
        rows += [(f"pinned, {arm}: targets/s", spread(values, 0)) for arm, values in found.items()]
        figures["two_over_one"] = ratio(found["dump, two"], found["dump, one"])
        figures["two_over_one_forward"] = ratio(found["forward, two"], found["forward, one"])
    publish(rows, figures)


def against_forward(folder: Path, text: TextFiles, precision: str, rounds: int) -> dict[str, list[float]]:
    """Targets per second of a whole dump, text to disk, and of the forward pass over the same batches alone."""
    job = make_job(folder, text, precision)
    pairs = job.encode(0)
    batches = list(partition_batches(pairs, PASSES, TOKENS, job.teacher.tokenizer.special))
    arms: dict[str, Callable[[], object]] = {
        "dump": lambda: dump_once(job, folder / "cache"),
        "forward": lambda: forward(job, batches),
    }
    targets = pairs.n_targets
    return alternate({name: lambda arm=arm: targets / seconds(arm) for name, arm in arms.items()}, rounds)  # type: ignore[misc]


def dump_once(job: Job, cache: Path) -> None:
    """Write the whole cache into a fresh folder."""
    shutil.rmtree(cache, ignore_errors=True)
    writer = CacheWriter(cache, job.plan, job.teacher.tokenizer)
    write_shards(job, writer, writer.missing(), StopRequest())
    writer.finalize()


def masked_views(folder: Path) -> tuple[float, float]:
    """Share of padding over the whole training text in shards of the usual size, and views built per second."""
    teacher = Teacher.load(folder / "teacher")
    special = teacher.tokenizer.special
    corpus = Corpus(training_text())
    tokens = padded = views = 0
    spent = 0.0
    for start in range(0, corpus.n_pairs, SHARD_PAIRS):
        stop = min(start + SHARD_PAIRS, corpus.n_pairs)
        pairs = encode_slice(corpus, teacher.tokenizer, teacher.positions, start, stop, skip_bad=True)
        began = time.perf_counter()
        for batch in partition_batches(pairs, PASSES, TOKENS, special):
            tokens += int(batch.lengths.sum())
            padded += batch.input_ids.size
            views += len(batch.lengths)
        spent += time.perf_counter() - began
    return 1 - tokens / padded, views / spent
