"""How close dumping comes to the bare forward pass, and two processes to twice one."""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from transformers import AutoConfig

from benchmarks import pinned
from benchmarks.job import PASSES, SHAPES, SHARD_PAIRS, TOKENS, forward, make_job, save_teacher
from benchmarks.peak import forward_operations, operations_per_second
from benchmarks.report import alternate, publish, ratio, seconds, spread
from benchmarks.text import first_pairs, training_text
from kdcache.cache.commit_protocol import CacheWriter
from kdcache.cache.fill_cache import write_shards
from kdcache.dump.dump_job import Job
from kdcache.dump.dump_shards import Dumping
from kdcache.process.signals import StopRequest
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.masking import partition_batches
from kdcache.text.corpus import Corpus, TextFiles
from kdcache.text.encode_corpus import encode_slice

_PAIRS, _PAIRS_GPU = 192, 16_384


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    pairs = _PAIRS_GPU if torch.cuda.is_available() else _PAIRS
    parser.add_argument("--pairs", type=int, default=pairs, help="pairs dumped in one run")
    shapes = [*SHAPES] if torch.cuda.is_available() else ["minilm"]
    parser.add_argument("--shapes", nargs="+", choices=[*SHAPES], default=shapes, help="of the teacher")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each arm")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    rows, figures = [("what", "median [range]")], {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = first_pairs(folder, options.pairs)
        on_gpu = torch.cuda.is_available()
        for shape in options.shapes:
            save_teacher(folder / "teacher", text, shape)
            for precision, suffix in (("float32", ""), ("bfloat16", "_bf16")):
                arms = f"{shape}, {precision}"
                suffix += "_base" if shape == "base" else ""
                found, peak = against_forward(folder, text, precision, options.rounds)
                figures[f"dump_over_forward{suffix}"] = ratio(found["dump"], found["forward"])
                figures[f"share_of_peak{suffix}"] = peak
                rows += [(f"{arms}, {arm}: targets/s", spread(values, 0)) for arm, values in found.items()]
                rows.append((f"{arms}, dump: share of peak", f"{peak:.2f}"))
        share, views = masked_views(folder)
        figures |= {"padding_share": share, "views_per_s": views}
        rows += [("padding, share of tokens", f"{share:.4f}"), ("masked views/s, one core", f"{views:,.0f}")]
        if not on_gpu:
            found = pinned.measure(folder, text, options.rounds)
            rows += [(f"pinned, {arm}: targets/s", spread(values, 0)) for arm, values in found.items()]
            figures["two_over_one"] = ratio(found["dump, two"], found["dump, one"])
            figures["two_over_one_forward"] = ratio(found["forward, two"], found["forward, one"])
    publish(rows, figures)


def against_forward(folder: Path, text: TextFiles, precision: str, rounds: int) -> tuple[dict[str, list[float]], float]:
    """A whole dump, text to disk, and the forward pass over the same batches alone.

    Returns:
        Targets per second of both, and the dump's share of the operations that one large matrix product does.
    """
    job = make_job(folder, text, precision)
    shards = [job.encode(index) for index in range(job.plan.n_shards)]
    special = job.teacher.tokenizer.special
    batches = [batch for pairs in shards for batch in partition_batches(pairs, PASSES, TOKENS, special)]
    arms: dict[str, Callable[[], object]] = {
        "dump": lambda: dump_once(job, folder / "cache"),
        "forward": lambda: forward(job, batches),
    }
    targets = sum(pairs.n_targets for pairs in shards)
    found = alternate({name: lambda arm=arm: targets / seconds(arm) for name, arm in arms.items()}, rounds)  # type: ignore[misc]
    config = AutoConfig.from_pretrained(folder / "teacher")
    speed = forward_operations(config, batches) * statistics.median(found["dump"]) / targets
    return found, speed / operations_per_second(job.device, precision)


def dump_once(job: Job, cache: Path) -> None:
    """Write the whole cache into a fresh folder."""
    shutil.rmtree(cache, ignore_errors=True)
    writer = CacheWriter(cache, job.plan, job.teacher.tokenizer)
    write_shards(Dumping(job), writer, writer.missing(), StopRequest())
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
