"""A training for which memory does not suffice: a real allocation fails, by a limit on the address space."""

import sys
from contextlib import ExitStack
from pathlib import Path

from faults import little_memory, python

from kdcache.cache.reader import open_cache
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.student.cached_labels import CacheSections
from kdcache.student.student_config import StudentConfig
from kdcache.student.train_student import make_task
from kdcache.training.loop import fit
from kdcache.training.training_config import TrainingConfig


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


if __name__ == "__main__":
    main(*sys.argv[1:])
