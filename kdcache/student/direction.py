"""Whether a student is asked to write in the direction in which it learned to."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
import torch

from kdcache.losses.objective_config import PLAIN
from kdcache.losses.projection import projected_loss
from kdcache.student.seq2seq import Student
from kdcache.text.corpus import Pair
from kdcache.training.batches import Section, Selection, collate

_SAMPLE_PAIRS = 32
# Nats a position. The right direction is several ahead, even for a student of few steps.
_MARGIN = 1.0


def seems_exchanged(student: Student, sources: Sequence[str], targets: Sequence[str]) -> bool:
    """Whether the student finds the sources, given the targets, more probable by far than the targets.

    The first 32 pairs that have text on both sides are read.
    """
    texts = ((one, two) for one, two in zip(sources, targets, strict=True) if one.strip() and two.strip())
    pairs = [Pair(one, two) for one, two in islice(texts, _SAMPLE_PAIRS)]
    given, turned = (_loss(student, some) for some in (pairs, [Pair(pair.target, pair.source) for pair in pairs]))
    return given - turned > _MARGIN


@torch.inference_mode()
def _loss(student: Student, texts: Sequence[Pair]) -> float:
    """Mean of -log p of the target positions of those pairs that fit into the student's positions; 0 without any."""
    pairs = student.tokenizer.encode_pairs(list(texts))
    longest = np.maximum(pairs.source_lengths, pairs.target_lengths)
    rows = np.flatnonzero((longest < student.positions) & (pairs.target_lengths > 0))
    if not len(rows):
        return 0.0
    batch = collate(Selection(Section(pairs), rows, 0, 0), student.tokenizer.special, None).to(student.model.device)
    sums = projected_loss(student.hidden(batch), student.output_layer, batch.labels, None, PLAIN)
    return float(sums.total) / sums.n_tokens
