"""Axes with round ticks, for every kind of picture."""

import math
from dataclasses import dataclass

_INTERVALS = 4
_SMALLEST = 1e-300


@dataclass(frozen=True, slots=True)
class Axis:
    """An axis of `cells` character cells; its ticks are multiples of one round number and span the data."""

    ticks: tuple[float, ...]
    cells: int = 1

    def cell(self, value: float) -> int:
        """The cell of a value; the first tick lies in cell 0."""
        first, last = self.ticks[0], self.ticks[-1]
        return round((value - first) / (last - first) * (self.cells - 1))

    def labels(self) -> list[str]:
        """The ticks as text, with as many decimals as tell them apart."""
        digits = max(0, -math.floor(math.log10(self.ticks[1] - self.ticks[0]) + 1e-9))
        size = max(abs(self.ticks[0]), abs(self.ticks[-1]))
        short = size < (1e9 if digits == 0 else 1e6) and digits <= 5
        return [f"{value:,.{digits}f}" if short else f"{value:.4g}" for value in self.ticks]


def ticks(low: float, high: float, intervals: int = _INTERVALS) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten: the first at most `low`, the last at least `high`, two at least.

    They make about `intervals` intervals, mostly fewer.
    """
    size = max(abs(low), abs(high))
    # Smaller numbers lose their digits; they are drawn as 0.
    size = size if size > _SMALLEST else 1.0
    if high - low < 1e-6 * size:
        low, high = low - size / 20, high + size / 20
    rough = (high - low) / intervals
    power = 10.0 ** math.floor(math.log10(rough))
    unit = next(factor for factor in (1, 2, 5, 10) if factor * power >= rough or factor == 10) * power
    return tuple(unit * i for i in range(math.floor(low / unit), math.ceil(high / unit) + 1))


def whole_ticks(low: int, high: int) -> list[int]:
    """Round whole numbers between two others, and the lower one itself."""
    step = max(1, round(ticks(low, high, 8)[1] - ticks(low, high, 8)[0]))
    return [low, *(value for value in range(0, high + 1, step) if value > low and 2 * (value - low) >= step)]
