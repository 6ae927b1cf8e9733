"""Runs a teacher over every masked view of some pairs, and reduces its distribution at each target position.

With one masking, distributions are reduced batch by batch. With several, they are averaged first: over whole
distributions, as probabilities, on the device. So that these fit, pairs are taken some at a time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcache.cache.plan import Plan
from kdcache.compute.device import moved
from kdcache.compute.halving import HalvingRunner
from kdcache.labels import counter_random
from kdcache.teacher.masking import MaskedViews, partition_batches, passes_of_positions
from kdcache.teacher.reduction import Predictions, Reduction
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs
from kdcache.text.tokenizer import Tokenizer

# Probabilities that are added up at the same time: 128 MiB in float32.
_SUMS = 1 << 25
# The smallest normal float32; smaller probabilities count as that.
_MIN_PROB = torch.finfo(torch.float32).tiny


class Predictor(Protocol):
    """The part of a teacher that a dump uses; see `kdcache.teacher.masked_lm.Teacher`."""

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, which cache and students share."""

    @property
    def positions(self) -> int:
        """Tokens that fit into one view."""

    @property
    def vocabulary(self) -> int:
        """Size of the output vocabulary."""

    @property
    def weights(self) -> int:
        """Number of weights that work on every token: all but those of the embeddings."""

    def log_probs(self, views: MaskedViews, device: torch.device, precision: str) -> Tensor:
        """Log-probabilities of all words at each masked position."""

    def predict(self, views: MaskedViews, reduction: Reduction, device: torch.device, precision: str) -> Predictions:
        """The part of them that `reduction` keeps."""

    def fingerprint(self) -> str:
        """SHA-256 that identifies the teacher."""


@dataclass(frozen=True, slots=True)
class Passes:
    """How the views of pairs are run.

    Attributes:
        teacher: on its device.
        plan: passes, maskings, seed, and what is kept.
        max_tokens: padded tokens in one forward pass.
        device: of the teacher.
    """

    teacher: Predictor
    plan: Plan
    max_tokens: int
    device: torch.device
    _halving: HalvingRunner = field(default_factory=lambda: HalvingRunner("one sequence", "Free memory"))

    def run(
        self, pairs: EncodedPairs, first: int, after_batch: Callable[[int], None]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Predictions]]:
        """Yield rows of the pairs' flat `target_ids` and what is kept of the distributions there, each row once.

        `first` is the index of the first pair in the corpus; `after_batch` is called with the number of views done.

        Raises:
            ModelError: memory does not suffice for a single view.
        """
        plan, targets = self.plan, pairs.target_lengths
        keys = None
        if plan.draws:
            owner = np.repeat(first + np.arange(pairs.n_pairs), targets)
            within = np.arange(pairs.n_targets) - np.repeat(pairs.target_offsets[:-1], targets)
            keys = counter_random.keys(counter_random.DRAWS, plan.seed, owner, within)
        reduction = Reduction(plan.topk, plan.temperatures, plan.draws, keys)
        if self.plan.maskings > 1:
            yield from self._averaged(pairs, first, reduction, after_batch)
            return

        def predict(views: MaskedViews) -> Predictions:
            return self.teacher.predict(views, reduction, self.device, self.plan.precision)

        for batch in partition_batches(pairs, self.plan.passes, self.max_tokens, self.teacher.tokenizer.special):
            for views, predictions in self._halving.parts(batch, predict):
                yield views.target_rows, predictions
                after_batch(len(views.lengths))

    @torch.inference_mode()
    def _averaged(
        self, pairs: EncodedPairs, first: int, reduction: Reduction, after_batch: Callable[[int], None]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Predictions]]:
        for group in groups(pairs, _SUMS // self.teacher.vocabulary):
            part, rows = pairs.take(group), ragged.positions(pairs.target_offsets, group)
            sums = torch.zeros((len(rows), self.teacher.vocabulary), device=self.device)
            for masking in range(self.plan.maskings):
                in_pass = passes_of_positions(part, self.plan.passes, masking, self.plan.seed, first + group)
                self._add(part, in_pass, sums, after_batch)
            log_probs = sums.div_(self.plan.maskings).clamp_(min=_MIN_PROB).log_()
            yield rows, reduction(log_probs, part.target_ids.astype(np.int64), rows)

    def _add(self, pairs: EncodedPairs, in_pass: ragged.Ints, sums: Tensor, after_batch: Callable[[int], None]) -> None:
        """Add the probabilities of one partition to `sums` [ΣN, vocabulary]."""

        def predict(views: MaskedViews) -> Tensor:
            return self.teacher.log_probs(views, self.device, self.plan.precision)

        special = self.teacher.tokenizer.special
        for batch in partition_batches(pairs, self.plan.passes, self.max_tokens, special, in_pass):
            for views, log_probs in self._halving.parts(batch, predict):
                # From here on nothing large is reserved, so a part that was predicted is added, whole and once.
                sums.index_add_(0, moved(torch.from_numpy(views.target_rows), self.device), log_probs.exp_())
                after_batch(len(views.lengths))


def groups(pairs: EncodedPairs, rows: int) -> Iterator[ragged.Ints]:
    """Cut the usable pairs into runs of at most `rows` target positions, at least one pair, the longest pairs first."""
    targets = pairs.target_lengths
    order = np.argsort(-(pairs.source_lengths + targets), kind="stable")
    order = order[targets[order] > 0]
    start = 0
    while start < len(order):
        ends = np.cumsum(targets[order[start:]])
        stop = start + max(1, int(np.searchsorted(ends, rows, side="right")))
        yield order[start:stop]
        start = stop
