"""Whether a masked teacher's labels are worth having: how well it does on text it did not see, against its student.

What decides is d, the validation loss of the student (plain cross entropy) less the loss of the teacher at masked
positions of held-out text, both in nats a target position. docs/results.md has the runs that the limits come from.
"""

from dataclasses import dataclass

# Below the first d, labels cost quality in most of those runs; from the second on they paid. The student was the plain
# one; with labels its loss is about 0.1 lower.
COSTS_BELOW, PAYS_FROM = 0.65, 0.8
# Teachers with 24, 32 and 45 % of the held-out words right cost 5.5, 2.4 and 1.0 BLEU; of two with 50 and 51 % one
# gained 0.3 and one cost 1.8; one with 55 % gained 1.1 (Multi30k, 3,000 pairs, one to three seeds).
POOR_BELOW = 0.5
# Nats between labelled and held-out text, either way. Teachers that paid were up to 1 nat better on the labelled text.
LARGE_GAP = 1.5

REMEDY = "Train the teacher longer or from a pretrained BERT, or train students with --alpha 1."
_MEANINGS = {
    "cost": f"such labels likely cost quality. {REMEDY}",
    "uncertain": "such labels may pay or not. Compare with a student of --alpha 1.",
    "pay": "such labels paid in our runs.",
}


@dataclass(frozen=True, slots=True)
class HeldOut:
    """How well a teacher fills in masked words of a text that it did not learn from.

    Attributes:
        loss: mean of -log p of the written word, in nats.
        accuracy: share of positions whose written word is the teacher's first.
        targets: number of positions.
        text: fingerprint of the text's line pairs.
    """

    loss: float
    accuracy: float
    targets: int
    text: str

    def verdict(self, student_loss: float) -> str:
        """The verdict on labels for a student with this validation loss: "cost", "uncertain" or "pay".

        Early in training any teacher is far ahead, so that a poor one stays uncertain.
        """
        ahead = student_loss - self.loss
        if ahead < COSTS_BELOW:
            return "cost"
        return "uncertain" if ahead < PAYS_FROM or self.accuracy < POOR_BELOW else "pay"

    def comparison(self, student_loss: float, *, same_text: bool) -> str:
        """The verdict in words; `same_text` says whether the student's loss is of the text of these figures."""
        ahead = student_loss - self.loss
        lead = f"{abs(ahead):.2f} nats {'ahead of' if ahead >= 0 else 'behind'} the student"
        other = "" if same_text else " on another text"
        losses = f"(validation loss {student_loss:.2f}, the teacher's {self.loss:.2f}{other})"
        return f"The labels are {lead} {losses}: {_MEANINGS[self.verdict(student_loss)]}"

    def poor(self) -> str | None:
        """What condemns the teacher itself."""
        if self.accuracy >= POOR_BELOW:
            return None
        return (
            f"A poor teacher: it gets {100 * self.accuracy:.0f} % of the held-out words right, and labels of teachers "
            f"below {100 * POOR_BELOW:.0f} % likely cost quality. {REMEDY}"
        )


@dataclass(frozen=True, slots=True)
class TeacherFigures:
    """How well the teacher of a cache does.

    Attributes:
        loss, accuracy: as of `HeldOut`, on the pairs that it labelled; the accuracy of drawn words is None.
        held_out: the same on text that it did not learn from, None where the cache does not say.
        unseen: whether each of several teachers labelled pairs that it did not learn from.
    """

    loss: float
    accuracy: float | None
    held_out: HeldOut | None
    unseen: bool = False

    def sentences(self) -> list[str]:
        """What is known, and for which students the labels pay."""
        who = "they label and did not see, the teachers have" if self.unseen else "it labels, the teacher has"
        labelled = f"On the pairs that {who} a loss of {_shown(self.loss, self.accuracy)}"
        if self.held_out is None:
            return [f"{labelled}.", UNKNOWN]
        loss = self.held_out.loss
        both = f"{labelled}; on held-out text {_shown(loss, self.held_out.accuracy)}."
        if (loss, self.held_out.accuracy) == (self.loss, self.accuracy):
            both = f"{labelled}."
        if self.held_out.poor() is not None:
            return [both]
        return [
            both,
            f"Its labels pay for students whose validation loss stays above {loss + PAYS_FROM:.2f}; below "
            f"{loss + COSTS_BELOW:.2f} they likely cost quality.",
        ]

    def gap(self) -> str | None:
        """What a large difference between labelled and held-out text means."""
        if self.held_out is None or self.unseen or abs(self.held_out.loss - self.loss) <= LARGE_GAP:
            return None
        both = f"(loss {self.loss:.2f}, on held-out text {self.held_out.loss:.2f})"
        if self.loss < self.held_out.loss:
            return (
                f"The teacher learned these pairs by heart {both}, so its labels say little more than the text. Train "
                "it on more text, for fewer steps, or from a pretrained BERT."
            )
        return (
            f"The teacher does not know this text {both}. Is it of another kind or language, or are source and target "
            "exchanged?"
        )

    def verdict(self) -> tuple[str, ...]:
        """All that is known, in sentences, what condemns the labels first."""
        return (*self.warnings(), *self.sentences())

    def warnings(self) -> list[str]:
        """What condemns the labels before any student is trained."""
        poor = None if self.held_out is None else self.held_out.poor()
        return [line for line in (poor, self.gap()) if line is not None]


UNKNOWN = (
    "Nothing says how the teacher does on held-out text, nor whether its labels pay; dump-logits --valid-source and "
    "--valid-target measure it."
)


def _shown(loss: float, accuracy: float | None) -> str:
    return f"{loss:.2f}" if accuracy is None else f"{loss:.2f} ({100 * accuracy:.0f} % right)"
