"""How well the teacher of a dump does on text that it did not learn from."""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.cache.cache_files import held_out_of
from kdcache.console.progress import Progress
from kdcache.dump.dump_job import Job
from kdcache.errors import CorruptError, DataError
from kdcache.files.run_records import earlier_result
from kdcache.labels.verdict import HeldOut, TeacherFigures
from kdcache.teacher.folds import FoldPasses
from kdcache.teacher.masking import view_counts
from kdcache.text.corpus import Corpus
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import EncodedPairs, concatenate

_SAMPLE_PAIRS = 64


def own_figures(teacher: Path) -> HeldOut | None:
    """What teacher-train measured on its validation text; None where the teacher's run.json does not say."""
    result: dict[str, Any] = earlier_result(teacher, "teacher-train") or {}
    try:
        return held_out_of(result.get("held_out"), str(teacher))
    except CorruptError:
        return None


def measure(job: Job, valid: Corpus) -> HeldOut:
    """Run the teacher over all masked views of a text, as over the corpus.

    Raises:
        DataError: a pair cannot be used, or a prediction is not finite.
        ModelError: memory does not suffice for a single view.
    """
    sections = encode_sections(valid, job.teacher.tokenizer, job.teacher.positions, skip_bad=job.config.skip_bad)
    pairs = concatenate(list(sections))
    with Progress("measuring", int(view_counts(pairs, job.plan.passes, job.plan.maskings).sum()), "views") as progress:
        loss, accuracy = _means(job, pairs, progress.advance)
    if not math.isfinite(loss):
        raise DataError(f"{valid.name}: the teacher's prediction is not finite. Is the teacher damaged?")
    return HeldOut(loss, accuracy, max(1, pairs.n_targets), valid.fingerprint)


def gap_of_sample(job: Job, pairs: EncodedPairs, held_out: HeldOut) -> str | None:
    """What a large difference means between a few of the pairs that are to be labelled and held-out text."""
    sample = pairs.take(np.flatnonzero(pairs.target_lengths > 0)[:_SAMPLE_PAIRS])
    return TeacherFigures(_means(job, sample, lambda _views: None)[0], None, held_out).gap()


def _means(job: Job, pairs: EncodedPairs, after_batch: Callable[[int], None]) -> tuple[float, float]:
    """Mean of -log p of the target positions, and share of them that are the teacher's first word."""
    plan = replace(job.plan, topk=1, draws=0, temperatures=())
    passes = FoldPasses(job.teachers, plan, job.config.max_tokens, job.device)
    surprise, right = 0.0, 0
    for rows, kept in passes.run(pairs, 0, after_batch):
        surprise -= float(kept.target_log_prob.sum(dtype=np.float64))
        right += int((kept.ids[:, 0] == pairs.target_ids[rows]).sum())
    n = max(1, pairs.n_targets)
    return surprise / n, right / n
