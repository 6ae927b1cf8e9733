"""How well the teacher of a dump does on text that it did not learn from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.cache.cache_files import held_out_of
from kdcache.console.progress import Progress
from kdcache.dump.dump_job import Job
from kdcache.errors import CorruptError, DataError
from kdcache.files.run_records import earlier_result
from kdcache.labels.verdict import HeldOut
from kdcache.teacher.masking import view_counts
from kdcache.teacher.passes import Passes
from kdcache.text.corpus import Corpus
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import concatenate


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
    tokenizer, plan = job.teacher.tokenizer, replace(job.plan, topk=1, draws=0, temperatures=())
    sections = encode_sections(valid, tokenizer, job.teacher.positions, skip_bad=job.config.skip_bad)
    pairs = concatenate(list(sections))
    surprise, right = 0.0, 0
    with Progress("measuring", int(view_counts(pairs, plan.passes, plan.maskings).sum()), "views") as progress:
        passes = Passes(job.teacher, plan, job.config.max_tokens, job.device)
        for rows, kept in passes.run(pairs, 0, progress.advance):
            surprise -= float(kept.target_log_prob.sum(dtype="float64"))
            right += int((kept.ids[:, 0] == pairs.target_ids[rows]).sum())
    if not math.isfinite(surprise):
        raise DataError(f"{valid.name}: the teacher's prediction is not finite. Is the teacher damaged?")
    n = max(1, pairs.n_targets)
    return HeldOut(surprise / n, right / n, n, valid.fingerprint)
