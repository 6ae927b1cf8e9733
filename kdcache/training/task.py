"""What differs between training a teacher and training a student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import torch
from torch import nn

from kdcache.losses.projection import LossSums
from kdcache.training.batches import Selection

B = TypeVar("B")


class Task(Protocol[B]):
    """A model and its losses; `B` is what one forward pass reads."""

    @property
    def model(self) -> nn.Module:
        """The module whose parameters are trained."""

    @property
    def width(self) -> int:
        """Size of the hidden states, for the schedule."""

    @property
    def valid(self) -> Sequence[B] | None:
        """The validation text in batches; None if there is no such text."""

    def collate(self, selection: Selection, bounds: Sequence[tuple[int, int]]) -> list[B]:
        """Micro-batches of the rows start … stop (exclusive) of a step's selection, one for each of `bounds`.

        Whatever is drawn at random is a function of the seed and the whole selection, not of `bounds`. Called in the
        loader's thread.
        """

    def move(self, batch: B, device: torch.device) -> B:
        """A batch on the device, or what needs no moving yet. Called in the loader's thread."""

    def loss(self, batch: B, step: int) -> LossSums:
        """Loss sums of one micro-batch of optimizer step `step`, counted from 1."""

    def valid_loss(self, batch: B) -> LossSums:
        """Plain loss of a batch of `valid`."""
