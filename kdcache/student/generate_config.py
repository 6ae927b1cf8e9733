"""How texts are generated."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from kdcache.errors import UsageError


@dataclass(frozen=True, slots=True)
class GenerateConfig:
    """How texts are generated.

    Attributes:
        student: folder of a trained student.
        source: file with one sentence a line.
        beam_size: hypotheses kept; 1 is greedy search.
        length_penalty: p; hypotheses are ranked by log P / length^p. GNMT's, which papers quote as "0.6", divides by
            ((5 + length) / 6)^0.6 instead: the two numbers do not compare.
        max_tokens: source tokens of one batch, padding included.
        device: "auto", "cpu" or "cuda".
    """

    student: str
    source: str
    beam_size: int = 4
    length_penalty: float = 1.0
    max_tokens: int = 2_048
    device: str = "auto"

    def check(self) -> None:
        """Raise UsageError if a value is outside its range."""
        if self.beam_size < 1:
            raise UsageError(f"--beam-size must be at least 1, not {self.beam_size}.")
        # Not math.isfinite, which has no answer for an integer beyond all floating-point numbers.
        if not abs(self.length_penalty) <= sys.float_info.max:
            raise UsageError(f"--length-penalty must be a finite number, not {self.length_penalty}.")
        if self.max_tokens < 1:
            raise UsageError(f"--max-tokens must be at least 1, not {self.max_tokens}.")
