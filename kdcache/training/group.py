"""The processes that train one model together: they add up their gradients and fail together.

Gradients and flags go through one flat sum for each step. What is rare (sums of validation, outcomes of writing) is
gathered as Python objects over the CPU.
"""

import datetime
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

from kdcache.compute.device import resolve_device, use
from kdcache.errors import TrainingError, UsageError
from kdcache.files.run_records import Run, log
from kdcache.process.ranks import Process, this_process

# Longer than any normal wait (a large checkpoint on a slow disk), and short enough to notice a machine that is gone.
TIMEOUT = datetime.timedelta(minutes=10)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train one model; by default this one alone.

    Attributes:
        process: which of them this one is.
    """

    process: Process = field(default_factory=Process)

    @property
    def count(self) -> int:
        """Number of processes."""
        return self.process.count

    @property
    def leads(self) -> bool:
        """Whether this is the first process, the only one that writes."""
        return self.process.rank == 0

    def add_up(self, tensor: Tensor) -> None:
        """Replace `tensor` by its sum over all processes; the result has the same bits in each.

        Raises:
            TrainingError: another process is gone.
        """
        if self.count > 1:
            with _peers_may_die():
                dist.all_reduce(tensor)

    def gather(self, value: T) -> list[T]:
        """The value of each process, in the order of ranks.

        Raises:
            TrainingError: another process is gone.
        """
        if self.count == 1:
            return [value]
        values: list[T | None] = [None] * self.count
        with _peers_may_die():
            dist.all_gather_object(values, value)
        return values  # type: ignore[return-value]

    @contextmanager
    def all_or_none(self) -> Iterator[None]:
        """If the block fails in one process it fails in all of them.

        Raises:
            TrainingError: it failed in another process.
        """
        try:
            yield
        except Exception as error:
            self.gather(f"{type(error).__name__}: {error}")
            raise
        for rank, failure in enumerate(self.gather("")):
            if failure:
                raise TrainingError(f"Process {rank} of {self.count} failed, so all stop. There: {failure}")

    def begin(self, start: Callable[[], Run]) -> Run:
        """Let the first process alone `start` the run of all; if that fails there, all fail.

        Raises:
            TrainingError: it failed in another process, or a process does not see what the first one wrote.
        """
        with self.all_or_none():
            begun = [start()] if self.leads else []
        run = self.gather(begun)[0][0]
        with self.all_or_none():
            if not run.record.exists():
                raise TrainingError(
                    f"{run.record}: process {self.process.rank} does not see it. All processes of a training must "
                    "share the --output folder."
                )
        return run


@contextmanager
def _peers_may_die() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise TrainingError(
            f"Another process of this training is gone or does not answer: {reason} Its own message says why. Run the "
            "same command again: it continues from the last checkpoint."
        ) from error


@contextmanager
def training_group(device: str) -> Iterator[Group]:
    """The group of the processes that `torchrun` started; without it this process alone.

    Inside, processes other than the first log errors only. `device` is that of the configuration.

    Raises:
        UsageError: RANK and WORLD_SIZE say that there are several, and nothing says where they meet.
    """
    process = this_process()
    if process.count == 1:
        yield Group()
        return
    where = resolve_device(device, process.local)
    use(where)
    if not dist.is_initialized():
        try:
            dist.init_process_group("cpu:gloo,cuda:nccl" if where.type == "cuda" else "gloo", timeout=TIMEOUT)
        except ValueError as error:
            raise UsageError(
                f"WORLD_SIZE is {process.count}, but the processes cannot meet: {error} Start training with torchrun, "
                "or unset RANK and WORLD_SIZE."
            ) from error
    group = Group(process)

    def is_shown(record: logging.LogRecord) -> bool:
        return group.leads or record.levelno >= logging.ERROR

    log.addFilter(is_shown)
    try:
        yield group
    finally:
        log.removeFilter(is_shown)
    # Not after a failure: other processes may be stuck in NCCL, and the end of this one must not wait for them.
    dist.destroy_process_group()
