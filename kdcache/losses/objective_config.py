"""What a student minimises, as settings. The equations are in `kdcache.losses.objectives`."""

from __future__ import annotations

import math
from dataclasses import dataclass

from kdcache.errors import UsageError

OBJECTIVES = ("chen2020", "hinton", "bucket", "forward-kl", "reverse-kl", "jensen-shannon", "sampled")
# What these compare contains the mass of the tail: at temperature 1 the k best words give it, elsewhere a normalizer.
BUCKETED = frozenset({"bucket", "forward-kl", "reverse-kl", "jensen-shannon"})
GATES = ("none", "confident", "known")


@dataclass(frozen=True, slots=True)
class Ramp:
    """A value that goes from `start` to `stop` in a straight line over the first `steps` optimizer steps."""

    start: float
    stop: float
    steps: int

    def at(self, step: int) -> float:
        """The value at optimizer step `step`, counted from 1; `stop` from step `steps` + 1 on."""
        share = min(1.0, (step - 1) / self.steps)
        return self.start + share * (self.stop - self.start)

    def ends(self) -> tuple[float, float]:
        """The two values between which all others lie."""
        return self.start, self.stop


@dataclass(frozen=True, slots=True)
class Weights:
    """What may change from step to step: α, the weight of the hard labels, and the temperature T."""

    alpha: float
    temperature: float


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """What a student minimises.

    Attributes:
        alpha: weight of the hard labels, 0 … 1; 1 is plain training. A number, or a ramp over the steps.
        temperature: T > 0; what it divides depends on the objective. A number, or a ramp.
        topk: how many of the stored words are used; None is all.
        label_smoothing: ε of the hard term, 0 … 1 (exclusive).
        name: which soft term, one of OBJECTIVES.
        gate: at which positions there is a soft term: "none": all; "confident": where the teacher's best word has at
            least the probability `gate_threshold`; "known": where the written word is among the k. Elsewhere α is 1.
        gate_threshold: for "confident", 0 … 1.
    """

    alpha: float | Ramp = 0.5
    temperature: float | Ramp = 1.0
    topk: int | None = None
    label_smoothing: float = 0.1
    name: str = "chen2020"
    gate: str = "none"
    gate_threshold: float = 0.5

    @property
    def needs_soft_labels(self) -> bool:
        """Whether any step weighs the soft term."""
        return _ends(self.alpha) != (1.0, 1.0)

    def at(self, step: int) -> Weights:
        """The weights at optimizer step `step`, counted from 1."""
        return Weights(*(one.at(step) if isinstance(one, Ramp) else one for one in (self.alpha, self.temperature)))

    def check(self) -> None:
        """Raise UsageError if a value is outside its range or contradicts another."""
        if self.name not in OBJECTIVES:
            raise UsageError(f"--objective must be one of {', '.join(OBJECTIVES)}, not {self.name}.")
        if not all(0 <= one <= 1 for one in _ends(self.alpha)):
            raise UsageError(f"--alpha must be between 0 and 1, not {_shown(self.alpha)}: it weighs the hard labels.")
        if not all(0 < one < math.inf for one in _ends(self.temperature)):
            raise UsageError(f"--temperature must be a finite number above 0, not {_shown(self.temperature)}.")
        if self.name in BUCKETED and isinstance(self.temperature, Ramp):
            raise UsageError(
                f"--temperature {_shown(self.temperature)} with --objective {self.name}: the mass of the tail is known "
                "at single temperatures only. Give one number, or use --objective chen2020 or hinton."
            )
        if self.name == "sampled" and (_ends(self.temperature) != (1.0, 1.0) or self.topk is not None):
            raise UsageError(
                "--objective sampled takes the drawn words as they are: leave --temperature at 1, and --topk out."
            )
        if not 0 <= self.label_smoothing < 1:
            raise UsageError(f"--label-smoothing must be at least 0 and below 1, not {self.label_smoothing}.")
        if self.gate not in GATES:
            raise UsageError(f"--gate must be one of {', '.join(GATES)}, not {self.gate}.")
        if not 0 <= self.gate_threshold <= 1:
            raise UsageError(f"--gate-threshold is a probability between 0 and 1, not {self.gate_threshold}.")


# What validation measures, and what a teacher learns: the plain cross entropy of the written words.
PLAIN = ObjectiveConfig(alpha=1.0, label_smoothing=0.0)


def _ends(value: float | Ramp) -> tuple[float, float]:
    return value.ends() if isinstance(value, Ramp) else (float(value), float(value))


def _shown(value: float | Ramp) -> str:
    return f"{value.start}:{value.stop}:{value.steps}" if isinstance(value, Ramp) else f"{value}"


def parse_ramp(text: str, option: str) -> float | Ramp:
    """A number, or START:STOP:STEPS.

    Raises:
        UsageError: it is neither.
    """
    parts = text.split(":")
    try:
        if len(parts) == 1:
            return float(text)
        start, stop, steps = float(parts[0]), float(parts[1]), int(parts[2])
        if len(parts) == 3 and steps > 0:
            return Ramp(start, stop, steps)
    except (ValueError, IndexError):
        pass
    raise UsageError(f"{option} takes a number, or START:STOP:STEPS such as 1:0.5:2000, not {text}.")
