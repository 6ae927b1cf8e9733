"""Training from a cache against training with the teacher at hand, and when a cache has paid for itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.job import PASSES, TOKENS, TOPK, save_teacher
from benchmarks.report import alternate, ratio, seconds, spread
from benchmarks.student_step import Trainer, make_cache
from kdcache.compute.device import resolve_device, resolve_precision
from kdcache.student.student_config import SIZES
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.masking import MaskedViews, partition_batches, random_views
from kdcache.teacher.reduction import Reduction
from kdcache.text.corpus import TextFiles
from kdcache.text.encoded_pairs import EncodedPairs

TEACHERS = ("minilm", "base")
# Padded tokens of a student's step here: small, so that BERT-base on a CPU takes seconds.
STEP_TOKENS = 1_024


class Live:
    """A teacher beside a student's step."""

    def __init__(self, folder: Path, text: TextFiles, shape: str) -> None:
        save_teacher(folder / shape, text, shape)
        self.teacher = Teacher.load(folder / shape)
        self.device = resolve_device("auto")
        self.precision = resolve_precision("auto", self.device)
        self.teacher.model.to(self.device).eval()

    def seven(self, pairs: EncodedPairs) -> None:
        """Every target position once: what the cache holds."""
        special = self.teacher.tokenizer.special
        for views in partition_batches(pairs, PASSES, TOKENS, special):
            self._predict(views)

    def one(self, pairs: EncodedPairs) -> None:
        """One mask of 15 %: soft labels at a seventh of the positions."""
        generator = np.random.default_rng(1)
        self._predict(random_views(pairs, np.arange(pairs.n_pairs), generator, self.teacher.tokenizer.special))

    def _predict(self, views: MaskedViews) -> None:
        self.teacher.predict(views, Reduction(TOPK), self.device, self.precision).target_log_prob.sum()


def measure(folder: Path, text: TextFiles, rounds: int) -> tuple[list[tuple[str, str]], dict[str, float]]:
    """Rows and figures for every teacher and student, with seven passes a step and with one."""
    cache = make_cache(folder, text)
    students = {size: Trainer(cache, size, 0.5, STEP_TOKENS) for size in SIZES}
    selection = students["tiny"].selections[0]
    pairs = selection.window.pairs.take(selection.rows)
    arms: dict[str, Callable[[], float]] = {
        size: lambda one=one: seconds(lambda: one.step(selection))  # type: ignore[misc]
        for size, one in students.items()
    }
    for shape in TEACHERS:
        live = Live(folder, text, shape)
        arms[f"{shape} 7"] = lambda live=live: seconds(lambda: live.seven(pairs))  # type: ignore[misc]
        arms[f"{shape} 1"] = lambda live=live: seconds(lambda: live.one(pairs))  # type: ignore[misc]
    times = alternate(arms, rounds)
    rows = [(f"{name}: s a step of {pairs.n_targets} targets", spread(values, 3)) for name, values in times.items()]
    figures = {}
    for shape in TEACHERS:
        pays = ratio(times[f"{shape} 7"], times[f"{shape} 1"])
        rows.append((f"{shape}: epochs, of all students together, after which a cache pays", f"1; one mask {pays:.1f}"))
        figures[f"break_even_epochs_one_mask_{shape}"] = pays
        for size in SIZES:
            for passes in ("7", "1"):
                beside = [a + b for a, b in zip(times[f"{shape} {passes}"], times[size], strict=True)]
                figures[f"live_over_cached_time_{shape}_{size}_{passes}"] = ratio(beside, times[size])
    figures["live_over_cached_time"] = figures["live_over_cached_time_minilm_tiny_7"]
    return rows, figures
