"""How far training steps stay from the peak of matrix products, and in which operators their time goes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.job import save_teacher
from benchmarks.peak import operations_per_second
from benchmarks.report import alternate, ratio, seconds
from benchmarks.student_step import TeacherTrainer, Trainer, make_cache
from kdcache.text.corpus import TextFiles

_SHOWN = 7
_PRECISIONS = ("float32", "bfloat16")


def measure(folder: Path, text: TextFiles, rounds: int) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Rows and figures for a teacher of MiniLM's shape and a small student, in each precision."""
    save_teacher(folder / "minilm", text)
    cache = make_cache(folder, text)
    rows, figures = [], {}
    for precision in _PRECISIONS:
        trainers = {
            "teacher": TeacherTrainer(folder / "minilm", text, precision),
            "student": Trainer(cache, "small", 0.5, precision=precision),
        }
        for name, one in trainers.items():
            operations = _operations(one)
            found = alternate(
                {
                    "steps": lambda one=one, operations=operations: operations / seconds(one.steps),  # type: ignore[misc]
                    "peak": lambda one=one, precision=precision: operations_per_second(one.device, precision),  # type: ignore[misc]
                },
                rounds,
            )
            figures[f"share_of_peak_{name}_{precision}"] = share = ratio(found["steps"], found["peak"])
            rows.append((f"training a {name}, {precision}: share of peak", f"{share:.2f}"))
            rows.append((f"training a {name}, {precision}: share of the time", _shares(one.steps)))
    return rows, figures


def _operations(trainer: Trainer) -> int:
    """Multiplications and additions in the matrix products of its steps, backward passes included."""

    def added(_sum: Any, one: Any, other: Any, **_more: Any) -> int:
        return int(2 * one[0] * one[1] * other[1])

    # The counter knows products that make a tensor, not those that add to one.
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added})
    with counter:
        trainer.steps()
    return int(counter.get_total_flops())


def _shares(work: Callable[[], object]) -> str:
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        work()
    times = {one.key.removeprefix("aten::"): one.self_cpu_time_total for one in seen.key_averages()}
    most = sorted(times, key=lambda name: -times[name])[:_SHOWN]
    return ", ".join(f"{name} {100 * times[name] / sum(times.values()):.0f} %" for name in most)
