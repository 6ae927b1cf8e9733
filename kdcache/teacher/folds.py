"""Teachers that did not see the pairs that they label: each of K leaves out one fold of a text and labels that.

The fold of a pair follows from its words alone, so equal pairs lie in one fold, wherever they stand in the text.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from kdcache.cache.plan import Plan
from kdcache.errors import CorruptError, MismatchError, UsageError
from kdcache.files.hub import local_folder
from kdcache.files.run_records import RUN_FILE
from kdcache.files.strict_json import read_json
from kdcache.labels.counter_random import FOLDS, UInt64s, keys
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.passes import Passes, Predictor
from kdcache.teacher.reduction import Predictions
from kdcache.text import ragged
from kdcache.text.encoded_pairs import EncodedPairs, IdArray

# Folder of the teacher that left out a fold, inside the folder of all of them.
FOLDER = "fold-{}"
_IS_FOLDER = re.compile(FOLDER.format(r"\d+"))


def folds_of(pairs: EncodedPairs, count: int) -> ragged.Ints:
    """The fold of each pair out of `count`, from 1: int64 [n]."""
    sides = _hash(pairs.source_ids, pairs.source_offsets), _hash(pairs.target_ids, pairs.target_offsets)
    return (keys(FOLDS, *sides) % np.uint64(count)).astype(np.int64) + 1


def _hash(ids: IdArray, offsets: ragged.Ints) -> UInt64s:
    """One number for each sequence: the sum, modulo 2^64, of a number for each token and its place."""
    places = np.arange(len(ids)) - np.repeat(offsets[:-1], np.diff(offsets))
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(keys(FOLDS, places, ids), dtype=np.uint64)])
    difference: UInt64s = sums[offsets[1:]] - sums[offsets[:-1]]
    return difference


def open_teachers(given: Sequence[str], corpus: str, plan: Plan | None) -> tuple[Teacher, ...]:
    """The one teacher that is given, or those of all folds of the text with fingerprint `corpus`, in their order.

    A folder may hold the folders of all of them, and `hf://` names one on the hub. All stay in memory. They are run as
    those of `plan` were.

    Raises:
        ModelError: a folder does not hold a teacher.
        UsageError: they are not the teachers of all folds, each given once.
        MismatchError: they learned from another text than the one to be labelled, or have different tokenizers.
    """
    folders = [folder for name in given for folder in _folders(local_folder(name))]
    records = [_record(folder) for folder in folders]
    if len(folders) == 1 and (records[0] is None or records[0][1] != corpus):
        return _as_in([Teacher.load(folders[0])], plan)
    by_fold: dict[tuple[int, int], Path] = {}
    for folder, record in zip(folders, records, strict=True):
        if record is None:
            raise UsageError(
                f"--teacher {folder}: no {RUN_FILE} says which fold of the text it did not see. Several teachers must "
                "be those of teacher-train --fold 1/K to K/K."
            )
        if record[1] != corpus:
            raise MismatchError(
                str(folder), "text", corpus, record[1], "Each of several teachers labels its fold of their own text."
            )
        by_fold[record[0]] = folder
    counts = {count for _, count in by_fold}
    if len(folders) > len(by_fold) or len(counts) > 1 or len(by_fold) < max(counts):
        shown = ", ".join(f"{record[0][0]}/{record[0][1]}" for record in records if record is not None)
        raise UsageError(f"--teacher: teachers of the folds {shown} are given. Give those of 1/K to K/K, each once.")
    teachers = {str(by_fold[fold]): Teacher.load(by_fold[fold]) for fold in sorted(by_fold)}
    first, *others = teachers.items()
    for place, teacher in others:
        for field, one, other in (
            ("tokenizer", first[1].tokenizer.fingerprint, teacher.tokenizer.fingerprint),
            ("vocabulary", first[1].vocabulary, teacher.vocabulary),
            ("positions", first[1].positions, teacher.positions),
        ):
            if one != other:
                remedy = f"It is not that of {first[0]}. Train all folds with the same --bert and options."
                raise MismatchError(place, field, one, other, remedy)
    return _as_in(list(teachers.values()), plan)


def _as_in(teachers: Sequence[Teacher], plan: Plan | None) -> tuple[Teacher, ...]:
    if plan is None or len(plan.teachers) != len(teachers):
        return tuple(teachers)
    return tuple(one.as_in(fingerprint) for one, fingerprint in zip(teachers, plan.teachers, strict=True))


def _folders(folder: Path) -> list[Path]:
    whole = (folder / "config.json").exists() or not (folder / FOLDER.format(1)).is_dir()
    return [folder] if whole else [path for path in sorted(folder.iterdir()) if _IS_FOLDER.fullmatch(path.name)]


def _record(folder: Path) -> tuple[tuple[int, int], str] | None:
    """The fold (I, K) that a teacher left out, and the fingerprint of its text; None where its record names none."""
    try:
        record: Any = read_json(folder / RUN_FILE)
        number, count = record["config"]["fold"]
        return (int(number), int(count)), str(record["inputs"]["text"])
    except (CorruptError, TypeError, KeyError, ValueError):
        return None


def joint_fingerprint(teachers: Sequence[Predictor]) -> str:
    """What a plan calls its teacher, or its teachers in the order of their folds."""
    return "+".join(teacher.fingerprint() for teacher in teachers)


class FoldPasses:
    """Each of K teachers runs over the views of its fold; a single one over all. Arguments as of `Passes`."""

    def __init__(self, teachers: Sequence[Predictor], plan: Plan, max_tokens: int, device: torch.device) -> None:
        self.plan = plan
        self._passes = [Passes(teacher, plan, max_tokens, device) for teacher in teachers]

    def run(
        self, pairs: EncodedPairs, first: int, after_batch: Callable[[int], None]
    ) -> Iterator[tuple[npt.NDArray[np.int64], Predictions]]:
        """Arguments, results and errors as of `Passes.run`."""
        folds = folds_of(pairs, len(self._passes))
        for fold, passes in enumerate(self._passes, 1):
            others = folds != fold
            rows_there = ragged.positions(pairs.target_offsets, np.flatnonzero(~others))
            if len(rows_there):
                for rows, found in passes.run(pairs.without(others), first, after_batch):
                    yield rows_there[rows], found
