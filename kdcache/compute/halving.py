"""Running batches in parts that fit into memory."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol, Self, TypeVar

import torch

from kdcache.compute.device import is_out_of_memory
from kdcache.errors import ModelError
from kdcache.files.run_records import log


class Rows(Protocol):
    """Padded sequences."""

    @property
    def shape(self) -> tuple[int, int]:
        """How many, and how many tokens each has with its padding."""

    def rows(self, start: int, stop: int) -> Self:
        """Those from `start` to `stop` (exclusive)."""


B = TypeVar("B", bound=Rows)
# The result of one part.
P = TypeVar("P")


@dataclass(slots=True)
class HalvingRunner:
    """Runs batches. One for which memory does not suffice is halved until it does, and so are later ones of its size.

    Attributes:
        single: what the smallest part is, as in "one sequence".
        remedy: what helps where even that does not fit, as in "Free memory".
        most: padded tokens that are tried at once; a part that does not fit lowers it for all later batches.
    """

    single: str
    remedy: str
    most: int | None = None

    def parts(self, batch: B, run: Callable[[B], P]) -> Iterator[tuple[B, P]]:
        """The batch in one part or several, in order, each with what `run` returns for it.

        Raises:
            ModelError: memory does not suffice for a single row.
        """
        waiting = [batch]
        while waiting:
            part = waiting.pop()
            fits = self.most is None or _tokens(part) <= self.most or part.shape[0] == 1
            result = self._try(part, run) if fits else None
            if result is not None:
                yield part, result
                continue
            count, middle = part.shape[0], part.shape[0] // 2
            waiting += [part.rows(middle, count), part.rows(0, middle)]

    def _try(self, part: B, run: Callable[[B], P]) -> P | None:
        tokens = _tokens(part)
        try:
            return run(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if part.shape[0] == 1:
                raise ModelError(
                    f"The memory does not suffice for {self.single} of {tokens:,} tokens, the smallest part of a "
                    f"batch. {self.remedy}, or use a larger device."
                ) from error
        # Only here the failed attempt's tensors, which the exception holds, are gone.
        self.most = tokens // 2
        log.warning(
            "The memory does not suffice for %s padded tokens at once; going on with %s at most, which is slower.",
            f"{tokens:,}",
            f"{self.most:,}",
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _tokens(part: Rows) -> int:
    count, longest = part.shape
    return count * longest
