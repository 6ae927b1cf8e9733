"""The verdict on labels: d by hand on either side of both limits, and what is said of poor and learned teachers."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdcache.labels.verdict import UNKNOWN, HeldOut, TeacherFigures

GOOD = HeldOut(loss=1.5, accuracy=0.72, targets=100, text="0" * 64)


@pytest.mark.parametrize(
    ("student", "verdict", "said"),
    [
        (1.0, "cost", "The labels are 0.50 nats behind the student (validation loss 1.00, the teacher's 1.50): such"),
        (2.14, "cost", "The labels are 0.64 nats ahead of the student"),
        (2.16, "uncertain", "such labels may pay or not. Compare with a student of --alpha 1."),
        (2.29, "uncertain", "0.79 nats ahead"),
        (2.31, "pay", "such labels paid in our runs."),
    ],
)
def test_the_verdict_is_the_students_loss_less_the_teachers(student: float, verdict: str, said: str) -> None:
    """Labels that are 2.14 − 1.50 = 0.64 nats ahead cost, below 0.65; those at 2.31 − 1.50 = 0.81 pay, above 0.8."""
    assert GOOD.verdict(student) == verdict
    assert said in GOOD.comparison(student, same_text=True)
    # However far it is ahead of a student at its first steps, a poor teacher's labels need not pay.
    assert (replace(GOOD, accuracy=0.45).verdict(student) == "cost") == (verdict == "cost")
    assert replace(GOOD, accuracy=0.45).verdict(student) != "pay"
    assert ("--alpha 1." in GOOD.comparison(student, same_text=True)) == (verdict != "pay")
    assert "1.50 on another text" in GOOD.comparison(student, same_text=False)


def test_a_good_teacher_is_not_warned_of() -> None:
    """What labels of this teacher need of a student is said as its loss: 1.50 + 0.80 and 1.50 + 0.65."""
    figures = TeacherFigures(0.9, 0.81, GOOD)
    assert figures.warnings() == []
    assert figures.verdict() == (
        "On the pairs that it labels, the teacher has a loss of 0.90 (81 % right); on held-out text 1.50 (72 % right).",
        "Its labels pay for students whose validation loss stays above 2.30; below 2.15 they likely cost quality.",
    )


@pytest.mark.parametrize(
    ("loss", "held_out", "said"),
    [
        (2.9, HeldOut(3.4, 0.45, 9, "0" * 64), "A poor teacher: it gets 45 % of the held-out words right"),
        (0.1, HeldOut(1.7, 0.7, 9, "0" * 64), "learned these pairs by heart (loss 0.10, on held-out text 1.70)"),
        (6.2, GOOD, "does not know this text (loss 6.20, on held-out text 1.50)"),
    ],
)
def test_fault_62_what_condemns_labels_is_one_line(loss: float, held_out: HeldOut, said: str) -> None:
    """A poor teacher, one that learned its text by heart, and text that is not the teacher's have one line each."""
    (line,) = TeacherFigures(loss, None, held_out).warnings()
    assert said in line


def test_what_is_not_known_is_said() -> None:
    """Without figures on held-out text there is no verdict, and the line says what would give one."""
    figures = TeacherFigures(2.5, None, None)
    assert figures.warnings() == []
    assert figures.verdict() == ("On the pairs that it labels, the teacher has a loss of 2.50.", UNKNOWN)
