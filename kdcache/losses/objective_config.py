"""The settings of the loss that a student minimises. The equations are in `kdcache.losses.objectives`."""

from dataclasses import dataclass

from kdcache.errors import UsageError
from kdcache.settings import BELOW_1, EXPERT, POSITIVE, TRAINING, Option, between, check_fields

OBJECTIVES = ("chen2020", "hinton", "bucket", "forward-kl", "reverse-kl", "jensen-shannon", "sampled")
# These count the mass of the tail: at temperature 1 the k best words give it, at others a normalizer.
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

    def __str__(self) -> str:
        return f"{self.start}:{self.stop}:{self.steps}"


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


def _ends(value: float | Ramp) -> tuple[float, float]:
    """The two numbers between which all values lie."""
    return (value.start, value.stop) if isinstance(value, Ramp) else (float(value), float(value))


@dataclass(frozen=True, slots=True)
class ObjectiveConfig:
    """What a student minimises: alpha times the hard term plus (1 - alpha) times the soft term."""

    alpha: float | Ramp = Option(
        "Weight of the hard labels; 1 is plain training. START:STOP:STEPS moves it in a straight line over the "
        "first steps. Chen et al. 2020 put alpha on the soft labels.",
        metavar="A",
        within=between(0, 1),
        parse=parse_ramp,
        parts=_ends,
    ).default(0.5)
    temperature: float | Ramp = Option(
        "Temperature T of the soft labels; above 1 they are flatter. START:STOP:STEPS moves it as for --alpha.",
        TRAINING,
        metavar="T",
        within=POSITIVE,
        parse=parse_ramp,
        parts=_ends,
    ).default(1.0)
    topk: int | None = Option(
        "Number of stored words that are used at a position.", EXPERT, default_words="all"
    ).default(None)
    label_smoothing: float = Option("Label smoothing of the hard labels.", TRAINING, within=BELOW_1).default(0.1)
    name: str = Option(
        f"How the soft term compares teacher and student, one of {', '.join(OBJECTIVES)}.",
        TRAINING,
        name="objective",
        metavar="NAME",
        choices=OBJECTIVES,
    ).default("bucket")
    gate: str = Option(
        "Use soft labels only at positions where the teacher is confident, or where the written word is among the "
        "stored ones (known); elsewhere the hard labels count alone.",
        EXPERT,
        choices=GATES,
    ).default("none")
    gate_threshold: float = Option(
        "Probability of the teacher's best word from which on it is confident, for --gate confident.",
        EXPERT,
        within=between(0, 1),
    ).default(0.5)

    @property
    def needs_soft_labels(self) -> bool:
        """Whether any step weighs the soft term."""
        return _ends(self.alpha) != (1.0, 1.0)

    def at(self, step: int) -> tuple[float, float]:
        """α, the weight of the hard labels, and the temperature T at optimizer step `step`, counted from 1."""
        alpha, temperature = (one.at(step) if isinstance(one, Ramp) else one for one in (self.alpha, self.temperature))
        return alpha, temperature

    def check(self) -> None:
        """Raise UsageError if a value is outside its range or contradicts another."""
        check_fields(self)
        if self.name in BUCKETED and isinstance(self.temperature, Ramp):
            raise UsageError(
                f"--temperature {self.temperature} with --objective {self.name}: the mass of the tail is known "
                "at single temperatures only. Give one number, or use --objective chen2020 or hinton."
            )
        if self.name == "sampled" and (_ends(self.temperature) != (1.0, 1.0) or self.topk is not None):
            raise UsageError(
                "--objective sampled takes the drawn words as they are: leave --temperature at 1, and --topk out."
            )


# What validation measures, and what a teacher learns: the plain cross entropy of the written words.
PLAIN = ObjectiveConfig(alpha=1.0, label_smoothing=0.0)
