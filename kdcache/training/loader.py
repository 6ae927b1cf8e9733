"""Batches made ahead of the optimizer step, in a thread of their own.

The optimizer's steps count how far training is, so batches that were made ahead of a saved state are not consumed. The
thread draws nothing from PyTorch's random streams.
"""

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Generic, Protocol, TypeVar

import torch
from torch import nn

from kdcache.compute.device import use
from kdcache.errors import TrainingError
from kdcache.losses.projection import LossSums
from kdcache.process.prefetch import Prefetch
from kdcache.training.batches import Sections, Selection, epoch_order, micro_bounds
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group
from kdcache.training.training_config import TrainingConfig

DEPTH = 2
THREAD_NAME = "kdcache-loader"

T = TypeVar("T")
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


# The batches of this process's forward passes in one step, numbered from 0 through those of all processes.
MicroBatches = Sequence[tuple[int, B]]


@dataclass(frozen=True, slots=True)
class StepBatches(Generic[B]):
    """This process's share of one optimizer step, the `index`-th of its epoch; it may be empty."""

    index: int
    micro_batches: MicroBatches[B]


def step_batches(
    task: Task[B],
    sections: Sections,
    config: TrainingConfig,
    position: Position,
    group: Group,
    device: torch.device,
    give_up: Callable[[], None] = lambda: None,
) -> Generator[StepBatches[B] | None, None, None]:
    """Yield this process's share of each step after `position`, and None after each epoch, for ever.

    `give_up` is called now and then while a section is waited for; what it raises ends the wait.

    Raises:
        TrainingError: an epoch has no step.
        CorruptError: a shard is damaged or missing.
    """
    epoch, consumed = position.epoch, position.consumed
    while True:
        empty = consumed == 0
        for selection in epoch_order(sections, config.max_tokens, config.seed, epoch, consumed, give_up):
            empty = False
            bounds = micro_bounds(selection, config.most_tokens, group.count)
            numbers = range(group.process.rank, len(bounds), group.count)
            batches = task.collate(selection, [bounds[number] for number in numbers])
            micros = [(number, task.move(batch, device)) for number, batch in zip(numbers, batches, strict=True)]
            ready = StepBatches(selection.index, micros)
            # A name that this generator keeps while the next window is loaded would keep the last window in memory.
            del selection, batches, micros
            yield ready
            del ready
        if empty:
            raise TrainingError("The training text has no usable pair.")
        yield None
        epoch, consumed = epoch + 1, 0


class Loader(Prefetch[None, T]):
    """Takes items out of a generator in one thread, ahead of their use; what it raises comes in an item's place.

    `items` makes the generator from a function that the generator calls where it waits long. Leaving the block makes
    that function raise, waits for the thread and closes the generator.
    """

    def __init__(self, items: Callable[[Callable[[], None]], Generator[T, None, None]], device: torch.device) -> None:
        self._generator = items(lambda: self._pause(0.0))
        super().__init__(
            lambda _item, _pause: next(self._generator),
            repeat(None),
            DEPTH,
            prepare=partial(use, device),
            name=THREAD_NAME,
        )

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._generator.close()
