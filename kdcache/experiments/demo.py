"""The whole pipeline on the embedded corpus: a student with soft labels against the same student without."""

import math
import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import kdcache
from kdcache.cache.hdf5 import check_writing
from kdcache.cache.reader import open_cache
from kdcache.console import tables
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_shards import dump
from kdcache.errors import DataError
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import log
from kdcache.inspection.cache_summary import view_pair
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.process.signals import stop_on_signals
from kdcache.scoring.score_corpus import Difference, compare
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate_file
from kdcache.student.student_config import StudentConfig, default_rate
from kdcache.student.train_student import train_student
from kdcache.teacher.teacher_config import BETA2, TeacherConfig
from kdcache.teacher.train_teacher import train_teacher
from kdcache.text.corpus import TextFiles
from kdcache.text.lines import read_sentences
from kdcache.training.training_config import TrainingConfig

GUIDE_FILE = "README.txt"
# Small steps: a model this small gains more from their number than from their size.
TOKENS = 1_024
DROPOUT = 0.1
TEXT = "text"
SOFT, HARD = "with-soft-labels", "without"
METRICS = ("bleu", "chrf")
# Far above that of a real BERT, since this one is small and has much to learn from few pairs.
TEACHER_RATE = 2e-3
EXAMPLES = 3
# The pair whose labels are shown, the longest bar, and the smallest share.
SHOWN, BAR, LEAST = 0, 12, 0.02


@dataclass(frozen=True, slots=True)
class DemoConfig:
    """How long the demo trains.

    Attributes:
        pairs, test_pairs: numbers of training and test pairs.
        teacher_steps, student_steps: optimizer steps of the teacher and of each student.
        alpha: weight of the hard labels for the student that has soft labels.
        seed: seed of the teacher's training and of both students.
    """

    pairs: int = 1_000
    test_pairs: int = 2_000
    teacher_steps: int = 1_200
    student_steps: int = 900
    alpha: float = 0.2
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
    """Make a teacher, its cache and both students, and compare these; a second run continues the first.

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
    log.info("1 of 4: a small BERT learns to fill gaps in translations, %s steps.", f"{steps:,}")
    text.mkdir(parents=True, exist_ok=True)
    limits = {"train": config.pairs, "test": config.test_pairs}
    for path in sorted(corpus_folder().iterdir()):
        lines = path.read_bytes().splitlines(keepends=True)
        replace_file(text / path.name, b"".join(lines[: limits.get(path.stem)]))
    train, valid = (TextFiles(str(text / f"{split}.src"), str(text / f"{split}.tgt")) for split in ("train", "valid"))
    every = max(1, steps // 10)
    training = TrainingConfig(
        TEACHER_RATE, max_tokens=TOKENS, max_steps=steps, seed=config.seed, beta2=BETA2, valid_every=every
    )
    # Its vocabulary is that of the languages: words that the pairs lack stay whole.
    teacher = TeacherConfig(train, str(corpus_folder().parent / "bert"), valid, trim_vocab=False, training=training)
    train_teacher(teacher, folder / "teacher")
    log.info("2 of 4: the teacher's predictions into a cache.")
    dump(DumpConfig(str(folder / "teacher"), train, shard_pairs=512), folder / "cache")


def _in_process(set_up: Callable[[bool], None], quiet: bool, output: Path, config: DemoConfig, alpha: float) -> Path:
    set_up(quiet)
    return make_student(output, config, alpha)


def make_student(output: Path, config: DemoConfig, alpha: float) -> Path:
    """Train a student from the cache beside it into `output`; return the file of its test outputs."""
    steps, rate = config.student_steps, default_rate("transformer", "tiny", "linear")
    # Means of the last states: single ones were found to do plain training wrong.
    training = TrainingConfig(
        rate, max_tokens=TOKENS, max_steps=steps, seed=config.seed, valid_every=max(1, steps // 10), average=3
    )
    text, cache = output.with_name(TEXT), str(output.with_name("cache"))
    valid = TextFiles(str(text / "valid.src"), str(text / "valid.tgt"))
    train_student(StudentConfig(cache, ObjectiveConfig(alpha=alpha), training, valid, dropout=DROPOUT), output)
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


def verdict(differences: list[Difference]) -> str:
    """What the intervals of the differences say, in words."""
    names = " and ".join(one.name for one in differences)
    if all(one.low > 0 for one in differences):
        return (
            f"The soft labels helped: the intervals of {names} lie above 0. Both students have dropout {DROPOUT}; more "
            "of it helps the one without labels as well."
        )
    if all(one.high < 0 for one in differences):
        return f"The soft labels hurt: the intervals of {names} lie below 0."
    return f"No difference that this test set can show in all of {names}: an interval contains 0."


def examples(folder: Path) -> str:
    """The first test sentences that the two students translate differently."""
    names = ("Ostu", "English", "reference", "with soft labels", "without")
    test = [folder / TEXT / f"test.{side}" for side in ("src", "en", "tgt")]
    lines = zip(
        *(read_sentences(path) for path in (*test, *(folder / f"{name}.txt" for name in (SOFT, HARD)))), strict=True
    )
    differing = islice((line for line in lines if line[-1] != line[-2]), EXAMPLES)
    return "\n\n".join(tables.facts(list(zip(names, line, strict=True))) for line in differing)


def labels_picture(folder: Path) -> str:
    """The labels of one pair: at each target position the teacher's three best words, with their shares in percent."""
    pair = view_pair(open_cache(str(folder / "cache")), SHOWN)
    lines = [f"{pair.source}\n{pair.target}\n"]
    for written, _, best in pair.words:
        shares = [(piece, math.exp(value)) for piece, value in best[:3] if math.exp(value) >= LEAST]
        bars = [" ".join(filter(None, (piece, "█" * round(BAR * p), f"{100 * p:.0f}"))) for piece, p in shares]
        lines.append(f"{written:<12}{'   '.join(bars)}")
    return "\n".join(lines)


def report(folder: Path, differences: list[Difference]) -> str:
    """What came out: the scores and what they say, sentences, labels."""
    return f"""{results_table(differences)}

{verdict(differences)}
The intervals cover the choice of test sentences, not that of the seed: one pair of students is one draw. The text was
made so that labels pay. What training said of them is a rule from real texts, whose losses are higher.

The first {EXAMPLES} test sentences that the two translate differently:

{examples(folder)}

Why: a plain student sees one translation of each sentence. The labels also show it the words that could stand there
instead, which the BERT knows from reading the language:

{labels_picture(folder)}
"""


def guide(folder: Path, config: DemoConfig, differences: list[Difference]) -> str:
    """The text that a newcomer reads first in the demo's folder."""
    return f"""What `kdcache demo` made here.

{report(folder, differences)}
text/                two invented languages, {config.pairs:,} training pairs
teacher/             a small BERT that has read both, fine-tuned for {config.teacher_steps:,} steps
cache/               what it says at every target position
  plan.json          what the cache is; shards/ its content; manifest.json that it is complete
{SOFT}/    a student trained with --alpha {config.alpha}: {100 - 100 * config.alpha:.0f} % of its loss are soft labels
{HARD}/             the same student with --alpha 1: plain training
*.txt                what the students wrote for the test text; *.txt.run.json how
*/run.json           configuration, versions and result of each run; */kdcache.log what it said
*/metrics.jsonl      loss, accuracy and learning rate along the way; kdcache curves draws them

What to do next:

  kdcache inspect {folder}/cache --html cache.html      the labels of many sentences, as pictures
  kdcache curves {folder}/{SOFT} {folder}/{HARD}
  kdcache score --student {folder}/{SOFT} --baseline {folder}/{HARD} \\
      --source {folder}/{TEXT}/test.src --reference {folder}/{TEXT}/test.tgt
  kdcache student-train --cache {folder}/cache --output {folder}/another --alpha 0.2 --max-steps {config.student_steps}

Then your own text: the commands of kdcache's README, with a BERT that has read your target language.
"""
