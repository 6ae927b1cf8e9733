"""A whole dump as kdcache makes it, and as the code of 2020 stored it: the same teacher, text and batches.

The code of Chen et al. (ACL 2020) takes two steps. The first writes the hidden states of every masked position,
float16, into a shelve with a pickled tensor for each pair. The second reads them, multiplies them with the vocabulary
matrix, and writes the 128 largest logits of each position, float16, with their ids, int64, into another shelve. This is
written anew from that description, with kdcache's batches, so that only what is stored and how it is stored differ.
Both run once more on states at hand, without the forward pass, which on a CPU takes nearly all the time. What counts is
processor time of one thread of PyTorch and whatever writes.
"""

from __future__ import annotations

import argparse
import pickle
import shelve
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from benchmarks.dump import dump_once
from benchmarks.job import PASSES, SHAPES, TOKENS, forward, make_job, save_teacher
from benchmarks.report import alternate, publish, ratio, spread
from benchmarks.text import first_pairs
from kdcache.compute.device import autocast
from kdcache.dump.dump_job import Job
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.masking import MaskedViews, partition_batches

_TOPK_2020 = 128
_STATES, _LOGITS = "states", "logits"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--pairs", type=int, default=192, help="pairs dumped in one run")
    parser.add_argument("--teacher", help="a trained teacher, in place of one with random weights")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="minilm", help="of the random teacher")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each arm")


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = first_pairs(folder, options.pairs)
        if options.teacher:
            (folder / "teacher").symlink_to(Path(options.teacher).resolve())
        else:
            save_teacher(folder / "teacher", text, options.shape)
        job = make_job(folder, text, options.precision)
        idle = StatesAtHand.load(folder / "teacher")
        idle.at_hand = True
        at_hand = replace(job, teachers=(idle,))
        shards = [job.encode(index) for index in range(job.plan.n_shards)]
        special = job.teacher.tokenizer.special
        batches = [batch for pairs in shards for batch in partition_batches(pairs, PASSES, TOKENS, special)]
        targets = sum(pairs.n_targets for pairs in shards)
        works: dict[str, Callable[[], object]] = {"forward": lambda: forward(job, batches)}
        for suffix, one in (("", job), (", states at hand", at_hand)):
            home = folder / f"made{suffix}"
            works |= {
                f"kdcache, top 8{suffix}": partial(dump_once, one, home / "8"),
                f"kdcache, top 128{suffix}": partial(dump_once, _with_topk(one, _TOPK_2020), home / "128"),
                f"2020, top 128{suffix}": partial(dump_as_in_2020, one, home / "2020"),
            }
        arms = {arm: partial(_rate, targets, work) for arm, work in works.items()}
        rates = alternate(arms, options.rounds)  # type: ignore[arg-type]
        made = folder / "made"
        sizes = {
            "kdcache, top 8": _size(made / "8" / "shards"),
            "kdcache, top 128": _size(made / "128" / "shards"),
            "2020, states": _size(made / "2020" / _STATES),
            "2020, top 128": _size(made / "2020" / _LOGITS),
        }
    rows = [("what", "median [range]")]
    rows += [(f"{arm}: targets/s", spread(values, 0)) for arm, values in rates.items()]
    rows += [(f"{name}: bytes/target", f"{size / targets:,.1f}") for name, size in sizes.items()]
    figures = {f"bytes_per_target_{_label(name)}": size / targets for name, size in sizes.items()}
    for suffix in ("", ", states at hand"):
        for arm in ("kdcache, top 8", "kdcache, top 128"):
            over = ratio(rates[arm + suffix], rates[f"2020, top 128{suffix}"])
            figures[f"{_label(arm + suffix)}_over_2020"] = over
    publish(rows, figures)


class StatesAtHand(Teacher):
    """A teacher whose forward pass costs nothing once it is tried; what its states say means nothing."""

    at_hand = False

    def hidden(self, views: MaskedViews, device: torch.device) -> Tensor:
        """The same rows of the vocabulary matrix, whatever is asked: `[masked, width]`."""
        if not self.at_hand:
            return super().hidden(views, device)
        weight = self.output_layer.weight.to(device)
        return weight[torch.arange(len(views.masked), device=device) % len(weight)]


def _with_topk(job: Job, topk: int) -> Job:
    return replace(job, plan=replace(job.plan, topk=topk))


def dump_as_in_2020(job: Job, folder: Path) -> None:
    """Both steps, from text to the second shelve; the first one stays, as it did."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in (_STATES, _LOGITS):
        (folder / name).mkdir(parents=True)
    _write_states(job, folder / _STATES / "shelve")
    _write_logits(job, folder / _STATES / "shelve", folder / _LOGITS / "shelve")


@torch.inference_mode()
def _write_states(job: Job, path: Path) -> None:
    teacher = job.teacher
    if not isinstance(teacher, Teacher):
        raise TypeError("this arm needs the real teacher")
    with _shelf(path, "n") as shelf:
        for index in range(job.plan.n_shards):
            pairs, first = job.encode(index), job.plan.bounds(index)[0]
            states = torch.empty(pairs.n_targets, teacher.width, dtype=torch.float16)
            for views in partition_batches(pairs, PASSES, TOKENS, teacher.tokenizer.special):
                with autocast(job.device, job.plan.precision):
                    found = teacher.hidden(views, job.device)
                states[torch.from_numpy(views.target_rows.astype(np.int64))] = found.half().cpu()
            for i in range(pairs.n_pairs):
                shelf[str(first + i)] = states[int(pairs.target_offsets[i]) : int(pairs.target_offsets[i + 1])].clone()


@torch.inference_mode()
def _write_logits(job: Job, source: Path, path: Path) -> None:
    layer = job.teacher.output_layer  # type: ignore[attr-defined]
    with _shelf(source, "r") as states, _shelf(path, "n") as shelf:
        for key in states:
            with autocast(job.device, job.plan.precision):
                logits = layer.exact_logits(states[key].to(job.device).to(layer.weight.dtype))
            values, ids = logits.topk(min(_TOPK_2020, logits.shape[-1]), dim=-1)
            shelf[key] = (ids.cpu(), values.half().cpu())


def _shelf(path: Path, flag: Literal["r", "n"]) -> shelve.Shelf[Any]:
    return shelve.open(str(path), flag, protocol=pickle.HIGHEST_PROTOCOL)  # noqa: S301


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _rate(targets: int, work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return targets / (time.process_time() - start)


def _label(name: str) -> str:
    return name.replace(", ", "_").replace(" ", "")
