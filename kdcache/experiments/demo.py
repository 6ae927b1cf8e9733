"""The whole pipeline on the embedded corpus: a student with soft labels against the same student without."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import kdcache
from kdcache.cache.hdf5 import check_writing
from kdcache.console import tables
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import DataError
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import log
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.process.signals import stop_on_signals
from kdcache.scoring.score_corpus import Difference, compare
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate_file
from kdcache.student.student_config import StudentConfig, default_rate
from kdcache.student.train_student import train_student
from kdcache.teacher.teacher_config import BETA2, SCRATCH, SCRATCH_RATE, TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text.corpus import TextFiles
from kdcache.text.lines import read_sentences
from kdcache.training.training_config import TrainingConfig

GUIDE_FILE = "README.txt"
# Small steps: a model this small gains more from their number than from their size.
TOKENS = 1_024
TEXT = "text"
SOFT, HARD = "with-soft-labels", "without"
METRICS = ("bleu", "rougeL")


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """How long the demo trains.

    Attributes:
        pairs: number of training pairs.
        teacher_steps, student_steps: optimizer steps of the teacher and of each student.
        alpha: weight of the hard labels for the student that has soft labels.
        seed: seed of both students.
    """

    pairs: int = 2_000
    teacher_steps: int = 2_800
    student_steps: int = 400
    alpha: float = 0.5
    seed: int = 1


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


def run_demo(folder: Path, config: DemoConfig, set_up: Callable[[bool], None]) -> list[Difference]:
    """Make a teacher from nothing, its cache and both students, and compare these; a second run continues the first.

    `set_up` is called at the start of each further process; its argument says whether that process shall be quiet.
    """
    check_writing()
    make_cache(folder, config)
    log.info("3 of 4: two students, %s steps each; they differ in nothing but alpha.", f"{config.student_steps:,}")
    # A spawned process shares no threads and handles with its parent, which forking would break PyTorch with.
    with stop_on_signals(), ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        soft = pool.submit(_in_process, set_up, False, folder / SOFT, config, config.alpha)
        hard = pool.submit(_in_process, set_up, True, folder / HARD, config, 1.0)
        outputs = soft.result(), hard.result()
    log.info("4 of 4: the scores.")
    differences = compare_outputs(*outputs)
    replace_file(folder / GUIDE_FILE, guide(folder, config, differences).encode())
    return differences


def make_cache(folder: Path, config: DemoConfig) -> None:
    """Make in `folder` the text, its training side cut to the pairs that are used, a small BERT, and its cache."""
    steps, text = config.teacher_steps, folder / TEXT
    log.info("1 of 4: a teacher from nothing, %s steps.", f"{steps:,}")
    text.mkdir(parents=True, exist_ok=True)
    for path in sorted(corpus_folder().iterdir()):
        lines = path.read_bytes().splitlines(keepends=True)
        replace_file(text / path.name, b"".join(lines[: config.pairs] if path.stem == "train" else lines))
    train, valid = (TextFiles(str(text / f"{split}.src"), str(text / f"{split}.tgt")) for split in ("train", "valid"))
    training = TrainingConfig(SCRATCH_RATE, "linear", TOKENS, max_steps=steps, beta2=BETA2, valid_every=steps // 4)
    train_teacher(TeacherConfig(train, SCRATCH, valid, training=training), folder / "teacher")
    log.info("2 of 4: the teacher's predictions into a cache.")
    dump(DumpConfig(str(folder / "teacher"), train, shard_pairs=512), folder / "cache")


def _in_process(set_up: Callable[[bool], None], quiet: bool, output: Path, config: DemoConfig, alpha: float) -> Path:
    set_up(quiet)
    return make_student(output, config, alpha)


def make_student(output: Path, config: DemoConfig, alpha: float) -> Path:
    """Train a student from the cache beside it into `output`; return the file of its test outputs."""
    steps, rate = config.student_steps, default_rate("transformer", "tiny", "linear")
    training = TrainingConfig(rate, "linear", TOKENS, max_steps=steps, seed=config.seed, valid_every=max(1, steps // 4))
    text, cache = output.with_name(TEXT), str(output.with_name("cache"))
    valid = TextFiles(str(text / "valid.src"), str(text / "valid.tgt"))
    train_student(StudentConfig(cache, ObjectiveConfig(alpha=alpha), training, valid), output)
    written = output.with_name(f"{output.name}.txt")
    generate_file(GenerateConfig(str(output), str(text / "test.src")), written)
    return written


def compare_outputs(soft: Path, hard: Path) -> list[Difference]:
    """Compare what two students wrote for the test text beside it, the second being the baseline."""
    system, baseline, references = map(read_sentences, (soft, hard, soft.with_name(TEXT) / "test.tgt"))
    return [compare(system, baseline, [references], metric) for metric in METRICS]


def results_table(differences: list[Difference]) -> str:
    """Both students' scores, their difference and its interval."""
    rows = [("metric", "without", "with soft labels", "difference", "95 % interval")]
    for result in differences:
        interval = f"{result.low:+.2f} to {result.high:+.2f}"
        scores = (f"{result.baseline:.2f}", f"{result.system:.2f}", f"{result.difference:+.2f}")
        rows.append((result.name, *scores, interval))
    return tables.table(rows)


def verdict(difference: Difference) -> str:
    """What the interval of a difference says, in words."""
    if difference.low > 0:
        return f"The soft labels helped: the interval of the {difference.name} difference lies above 0."
    if difference.high < 0:
        return f"The soft labels hurt: the interval of the {difference.name} difference lies below 0."
    return f"No difference that this test set can show: the interval of the {difference.name} difference contains 0."


def guide(folder: Path, config: DemoConfig, differences: list[Difference]) -> str:
    """The text that a newcomer reads first in the demo's folder."""
    return f"""What `kdcache demo` made here.

{results_table(differences)}

{verdict(differences[0])}
The interval covers the choice of test sentences, not that of the seed: one pair of students is one draw.

text/                two invented languages, {config.pairs:,} training pairs
teacher/             a BERT trained from nothing for {config.teacher_steps:,} steps: an ordinary Hugging Face folder
cache/               what it says at every target position
  plan.json          what the cache is; shards/ its content; manifest.json that it is complete
{SOFT}/    a student trained with --alpha {config.alpha}: half of its loss are soft labels
{HARD}/             the same student with --alpha 1: plain training
*.txt                what the students wrote for the test text; *.txt.run.json how
*/run.json           configuration, versions and result of each run; */kdcache.log what it said
*/metrics.jsonl      loss, accuracy and learning rate along the way; kdcache curves draws them

Things to try:

  kdcache inspect {folder}/cache
  kdcache inspect {folder}/cache --pair 3
  kdcache verify {folder}/cache
  kdcache curves {folder}/{SOFT} {folder}/{HARD}
  kdcache score --student {folder}/{SOFT} --source {folder}/{TEXT}/test.src \\
      --reference {folder}/{TEXT}/test.tgt --metric bleu --metric rouge
  kdcache student-train --cache {folder}/cache --output {folder}/another --alpha 0.2 --temperature 2 --max-steps 600
"""
