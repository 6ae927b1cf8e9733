"""Running a teacher in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch

from kdcache.device import is_out_of_memory
from kdcache.errors import ModelError
from kdcache.masking import MaskedViews
from kdcache.runs import log

# What a teacher gives for a batch.
P = TypeVar("P")


class PartwiseTeacher:
    """Predicts batches; one for which memory does not suffice is halved until it does, and so are later ones.

    The size that was found to fit is kept for all that follow.
    """

    def __init__(self) -> None:
        self._most: int | None = None

    def parts(self, views: MaskedViews, predict: Callable[[MaskedViews], P]) -> Iterator[tuple[MaskedViews, P]]:
        """The views in one part or several, in order, each with what `predict` gives for it.

        Raises:
            ModelError: memory does not suffice for a single view.
        """
        waiting = [views]
        while waiting:
            part = waiting.pop()
            found = self._try(part, predict) if self._fits(part) else None
            if found is not None:
                yield part, found
                continue
            middle = len(part.lengths) // 2
            waiting += [part.rows(middle, len(part.lengths)), part.rows(0, middle)]

    def _fits(self, part: MaskedViews) -> bool:
        return self._most is None or part.input_ids.size <= self._most or len(part.lengths) == 1

    def _try(self, part: MaskedViews, predict: Callable[[MaskedViews], P]) -> P | None:
        try:
            return predict(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(part.lengths) == 1:
                raise ModelError(
                    f"The memory does not suffice for one sequence of {part.input_ids.size:,} tokens, the smallest "
                    "batch there is. Free memory, or use a larger device."
                ) from error
        # Only here the failed attempt's tensors, which the exception holds, are gone.
        self._most = part.input_ids.size // 2
        log.warning(
            "The memory does not suffice for %s tokens in a batch; going on with %s at most. Lower --max-tokens to "
            "avoid the attempts.",
            f"{part.input_ids.size:,}",
            f"{self._most:,}",
        )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None
