"""Memory of training: a real allocation fails, by a limit on the address space, and a long run takes no more."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from faults import little_memory, python
from models import save_bert, toy_lines, write_text

from kdcache.cache.reader import open_cache
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.cached_labels import CacheSections
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import make_task
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.text.corpus import Corpus
from kdcache.text.encode_corpus import encode_sections
from kdcache.training.batches import TextSections
from kdcache.training.loop import fit
from kdcache.training.training_config import TrainingConfig

STEPS = (50, 2_000)


def main(cache: str, output: str) -> None:
    """Train with no more memory than there is before the first loss, in a process of its own."""
    from loops import RUN, Disturbed

    training = TrainingConfig(1e-3, "linear", 60_000, max_steps=2, device="cpu")
    config = StudentConfig(cache, ObjectiveConfig(), training, size="small")
    with ExitStack() as stack:
        disturbance = {1: lambda: stack.enter_context(little_memory(0))}
        task = Disturbed(make_task(config, open_cache(cache, config.store)), disturbance)
        fit(task, CacheSections(open_cache(cache, config.store), soft=True), training, Path(output), RUN)


def test_a_step_that_does_not_fit(small_cache: Path, tmp_path: Path) -> None:
    """Where a step does not fit into memory, the error names the tokens of a pass and what to lower."""
    done = python(__file__, small_cache, tmp_path)
    assert done.returncode == 1
    message = done.stderr.splitlines()[-1]
    assert message.startswith("kdcache.errors.TrainingError: The memory does not suffice for a forward and backward")
    assert "60,000 padded tokens" in message
    assert "a lower --micro-tokens" in message


def long_run(folder: Path) -> None:
    """Train a teacher in bfloat16 in batches of ever new shapes, and print MiB of anonymous memory at two steps."""
    from loops import RUN, Disturbed

    found: dict[int, float] = {}

    def look(step: int) -> None:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        found[step] = int(status.split("RssAnon:")[1].split()[0]) / 1024

    lines = [" ".join(toy_lines(side, 1 + n % 5, 7 * n)) for side in ("src", "tgt") for n in range(2_000)]
    text = write_text(folder, lines[:2_000], lines[2_000:])
    shape = {"hidden_size": 128, "intermediate_size": 512, "max_position_embeddings": 512, "initializer_range": 0.02}
    corpus, bert = Corpus(text), save_bert(folder / "bert", lines, **shape)
    teacher = prepare_teacher(str(bert), corpus, trim_vocab=True, seed=1)
    training = TrainingConfig(1e-4, "linear", 512, max_steps=STEPS[1], device="cpu", precision="bfloat16")
    task = Disturbed(TeacherTask(teacher, 1, None), {step: lambda step=step: look(step) for step in STEPS})
    sections = TextSections(list(encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=False)))
    fit(task, sections, training, folder, RUN)
    print(json.dumps(list(found.values())))


@pytest.mark.full
def test_a_long_training_takes_no_more_memory(tmp_path: Path) -> None:
    """What is kept for each shape of a batch is bounded: after 2,000 steps it is at most 1.15 times that after 50."""
    done = python(__file__, tmp_path)
    assert done.returncode == 0, done.stderr
    early, late = json.loads(done.stdout.splitlines()[-1])
    assert late < 1.15 * early


if __name__ == "__main__":
    if len(sys.argv) == 2:
        long_run(Path(sys.argv[1]))
    else:
        main(*sys.argv[1:])
