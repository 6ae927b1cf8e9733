"""Training that begins with the weights of another student, in place of random ones."""

from __future__ import annotations

from pathlib import Path

from kdcache.errors import ModelError, TrainingError
from kdcache.student.fingerprints import WEIGHTS_FILE, weights_print
from kdcache.student.seq2seq import Student, load_student
from kdcache.training.checkpoint import copy_parameters


def start_print(folder: Path) -> str:
    """SHA-256 of the weights in `folder`, hexadecimal.

    Raises:
        ModelError: no student is there.
    """
    weights = weights_print(folder)
    if weights is None:
        raise ModelError(f"{folder}: no student here (no {WEIGHTS_FILE}). Make one with kdcache student-train.")
    return weights


def start_from(student: Student, folder: Path) -> None:
    """Give `student` the parameters of the one in `folder`.

    Raises:
        ModelError: the folder holds no student, or one with another tokenizer, architecture or size.
    """
    other = load_student(folder)
    if other.tokenizer.fingerprint != student.tokenizer.fingerprint:
        raise ModelError(
            f"{folder}: this student has another tokenizer than the cache; its words have other numbers. Start from "
            "one that learned from this cache, or from another cache of the same teacher."
        )
    try:
        copy_parameters(student.module, dict(other.module.named_parameters()), folder)
    except TrainingError as error:
        raise ModelError(
            f"{folder}: this student has another shape than the new one. Give the --arch and --size with which it was "
            "trained."
        ) from error
