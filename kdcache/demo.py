"""The whole pipeline on the embedded corpus: a student with soft labels against the same student without."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import kdcache
from kdcache.compare import Difference, compare
from kdcache.corpus import TextFiles, read_sentences
from kdcache.dump.config import DumpConfig
from kdcache.dump.run import dump
from kdcache.errors import DataError
from kdcache.generate.config import GenerateConfig
from kdcache.generate.search import generate_file
from kdcache.objective import ObjectiveConfig
from kdcache.runs import log
from kdcache.student.config import StudentConfig, default_rate
from kdcache.student.train import train_student
from kdcache.teacher.config import BETA2, SCRATCH, SCRATCH_RATE, TeacherConfig
from kdcache.teacher.train import train_teacher
from kdcache.training.config import TrainingConfig

TEACHER_STEPS = 400
STUDENT_STEPS = 500
TOKENS = 2_048
ALPHA, TEMPERATURE = 0.5, 1.0
ARMS = {"with-soft-labels": ALPHA, "without": 1.0}


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The two students' scores and the difference between them, with and without soft labels."""

    differences: list[Difference]
    folder: Path


def corpus_folder() -> Path:
    """Where the embedded corpus lies: inside the installed package, or beside it in a checkout.

    Raises:
        DataError: it is in neither place.
    """
    package = Path(kdcache.__file__).parent
    for folder in (package / "data" / "demo", package.parent / "data" / "demo"):
        if folder.is_dir():
            return folder
    raise DataError(f"{package / 'data'}: the demo's corpus is missing; install kdcache again.")


def run_demo(folder: Path) -> DemoResult:
    """Train a small teacher from nothing, cache it, train both students, compare; run again, it continues."""
    data = corpus_folder()
    train, valid = (TextFiles(str(data / f"{split}.src"), str(data / f"{split}.tgt")) for split in ("train", "valid"))
    teacher, cache = folder / "teacher", folder / "cache"
    log.info("1 of 4: a teacher from nothing (%s steps).", TEACHER_STEPS)
    training = TrainingConfig(SCRATCH_RATE, "linear", TOKENS, max_steps=TEACHER_STEPS, beta2=BETA2, valid_every=100)
    train_teacher(TeacherConfig(train, SCRATCH, valid, training=training), teacher)
    log.info("2 of 4: its predictions into a cache.")
    dump(DumpConfig(str(teacher), train, shard_pairs=1_024), cache)
    for name, alpha in ARMS.items():
        log.info("3 of 4: a student %s (%s steps).", name.replace("-", " "), STUDENT_STEPS)
        steps = TrainingConfig(
            default_rate("tiny", "linear"), "linear", TOKENS, max_steps=STUDENT_STEPS, valid_every=100
        )
        objective = ObjectiveConfig(alpha=alpha, temperature=TEMPERATURE)
        train_student(StudentConfig(str(cache), objective, steps, valid), folder / name)
    log.info("4 of 4: what they write, scored.")
    outputs = {name: folder / f"{name}.txt" for name in ARMS}
    for name, output in outputs.items():
        generate_file(GenerateConfig(str(folder / name), str(data / "test.src")), output)
    soft, plain = (read_sentences(output) for output in outputs.values())
    references = [read_sentences(data / "test.tgt")]
    return DemoResult([compare(soft, plain, references, metric) for metric in ("bleu", "rougeL")], folder)
