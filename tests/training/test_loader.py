"""The loader and the steps that it feeds: nothing is lost, failures reach the caller, and its thread ends."""

import json
import shutil
import threading
import time
import tracemalloc
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faults import python
from loops import RUN, CrashError, Disturbed, Trainer, all_metrics, crash, metrics, terminate
from models import parameters, same_parameters
from streams import COUNTS, METHODS
from test_batches import encoded

from kdcache.cache import schema
from kdcache.errors import CorruptError, StoppedError, UsageError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.teacher.masking import MaskedViews
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.text.corpus import Corpus
from kdcache.text.encode_corpus import encode_sections
from kdcache.training import batches, loop
from kdcache.training.batches import Section, Selection, TextSections, epoch_order, micro_bounds
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group
from kdcache.training.loader import DEPTH, THREAD_NAME, Loader, step_batches
from kdcache.training.loop import FitResult, fit
from kdcache.training.training_config import TrainingConfig

CPU = torch.device("cpu")


def loaders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith(THREAD_NAME)]


def fit_into(output: Path, task: Disturbed, trainer: Trainer, config: TrainingConfig | None = None) -> FitResult:
    output.mkdir(exist_ok=True)
    return fit(task, trainer.sections, config or trainer.config.training, output, RUN)


def test_a_step_that_fits_is_one_micro_batch() -> None:
    """By hand: 4 pairs of 3 + 2 tokens are 20; at 20 one pass, at 19 two passes of 2, for two processes 2 or 4."""
    selection = Selection(Section(encoded([(3, 2)] * 4)), np.arange(4), 0, 0)
    assert micro_bounds(selection, 20, 1) == [(0, 4)]
    assert micro_bounds(selection, 19, 1) == [(0, 2), (2, 4)]
    assert micro_bounds(selection, 20, 2) == [(0, 2), (2, 4)]
    assert micro_bounds(selection, 5, 2) == [(0, 1), (1, 2), (2, 3), (3, 4)]


def test_fault_37_read_ahead_is_not_consumed(trainer: Trainer, tmp_path: Path) -> None:
    """Batches that were ready when training stopped are the first of the next process; none is lost or doubled."""
    whole = Disturbed(trainer.task())
    trainer.train(whole, tmp_path / "whole")
    expected = [(one.epoch, one.index, one.rows.tolist()) for one in whole.seen]
    # So that the loader has time to read ahead as far as it may.
    stopped = Disturbed(trainer.task(), {2: lambda: (time.sleep(0.5), terminate())})
    with pytest.raises(StoppedError):
        trainer.train(stopped, tmp_path / "parts")
    assert len(stopped.read) == len(stopped.seen) + DEPTH
    rest = Disturbed(trainer.task())
    trainer.train(rest, tmp_path / "parts")
    assert [(one.epoch, one.index, one.rows.tolist()) for one in [*stopped.seen, *rest.seen]] == expected


def test_fault_30_a_damaged_shard_in_the_loader(trainer: Trainer, small_cache: Path, tmp_path: Path) -> None:
    """A shard that is damaged while training runs ends it soon with the shard's name, and leaves no thread."""
    cache = tmp_path / "cache"
    shutil.copytree(small_cache, cache)
    trainer.config = replace(trainer.config, cache=str(cache))
    # Otherwise all shards are one window, which is read before the first step.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "WINDOW_PAIRS", 1)
        name = schema.shard_name(int(np.random.default_rng((1, 0)).permutation(4)[3]))

        def damage() -> None:
            path = cache / "shards" / name
            path.write_bytes(path.read_bytes()[:-100])

        task = Disturbed(trainer.task(), {1: damage})
        sections = trainer.sections
        with pytest.raises(CorruptError, match=name):
            trainer.train(task, tmp_path / "student", epochs=None, max_steps=10_000, max_tokens=400)
    assert 1 <= task.calls < sum(sections.sizes)
    assert loaders() == []


def test_fault_30_errors_on_both_sides_end_the_thread(trainer: Trainer, tmp_path: Path) -> None:
    """An exception while batches are made reaches the caller as it is; one in the loop ends the loader."""
    task = Disturbed(trainer.task())
    task.before_collate = {3: crash}
    with pytest.raises(CrashError):
        trainer.train(task, tmp_path / "loader")
    assert task.calls <= 3
    assert loaders() == []
    with pytest.raises(CrashError):
        trainer.run(tmp_path / "loop", {2: crash})
    assert loaders() == []


def test_the_loader_stays_within_its_depth() -> None:
    """No more than DEPTH items are made before the first is asked for, and leaving ends a generator that goes on."""
    made: list[int] = []

    def numbers():
        while True:
            made.append(len(made))
            yield len(made)

    with Loader(lambda _: numbers(), CPU) as ahead:
        time.sleep(0.3)
        assert len(made) == DEPTH
        assert [next(ahead) for _ in range(5)] == [1, 2, 3, 4, 5]
        assert len(loaders()) == 1
    assert loaders() == []
    assert len(made) <= 5 + DEPTH


@pytest.mark.parametrize("slow", ["loader", "step"])
def test_the_wait_for_the_loader_is_recorded(trainer: Trainer, tmp_path: Path, slow: str) -> None:
    """`loader_wait` is near 1 where making batches takes nearly all the time, and near 0 where the steps do."""
    task = Disturbed(trainer.task())
    moments = {number: lambda: time.sleep(0.3) for number in range(1, 40)}
    if slow == "loader":
        task.before_collate = moments
    else:
        task.before = moments
    trainer.train(task, tmp_path, epochs=None, max_steps=20, valid_every=None, max_tokens=200)
    share = next(line["loader_wait"] for line in all_metrics(tmp_path) if line["step"] == 20 and "loss" in line)
    assert (share > 0.5) if slow == "loader" else (share < 0.2)


@dataclass
class Wide:
    """Sections with soft labels, freshly made at every load, so that only the loader holds them."""

    pairs: int
    sections: int

    @property
    def sizes(self) -> list[int]:
        return [self.pairs] * self.sections

    def read(self, order: Sequence[int], _give_up: Callable[[], None]) -> Generator[Section, None, None]:
        return (self.load() for _ in order)

    def load(self) -> Section:
        pairs = encoded([(5, 5)] * self.pairs)
        shape = (pairs.n_targets, 64)
        return Section(pairs, SoftLabels(np.zeros(shape, np.uint16), np.zeros(shape, np.float16)))

    @property
    def window_bytes(self) -> int:
        """Of the soft labels of one window of two sections."""
        return 2 * self.pairs * 5 * 64 * 4


class Nothing:
    """A task whose batches are empty."""

    def collate(self, _selection: Selection, bounds: list[tuple[int, int]]) -> list[None]:
        return [None for _ in bounds]

    def move(self, batch: None, _device: torch.device) -> None:
        return batch


def test_no_two_windows_are_in_memory(monkeypatch: pytest.MonkeyPatch, trainer: Trainer) -> None:
    """From one window to the next, memory peaks below twice a window: the old one is gone before the new is joined."""
    sections = Wide(4_000, 6)
    monkeypatch.setattr(batches, "WINDOW_PAIRS", 8_000)
    config = replace(trainer.config.training, max_tokens=20_000)
    steps = step_batches(Nothing(), sections, config, Position(), Group(), CPU)
    tracemalloc.start()
    while next(steps) is not None:
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sections.window_bytes < peak < 1.8 * sections.window_bytes


@pytest.mark.parametrize(
    "ways",
    [
        ("fork 4", "spawn 1", "forkserver 4"),
        pytest.param([f"{method} {count}" for method in METHODS for count in COUNTS], marks=pytest.mark.full),
    ],
    ids=len,
)
def test_fault_31_the_same_stream_in_every_kind_of_process(ways: list[str], small_cache: Path) -> None:
    """Processes made by fork, spawn and forkserver, one or four at once, read the same epoch as their parent."""
    done = python("streams.py", small_cache, "", *ways)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {name: len(digests) for name, digests in found.items()} == {
        "here": 1,
        **{way: int(way[-1]) for way in ways},
        "here again": 1,
    }
    assert len({digest for digests in found.values() for digest in digests}) == 1


@pytest.mark.parametrize("ending", ["finished", "stopped", "crashed"])
def test_the_thread_ends_with_the_loop(trainer: Trainer, tmp_path: Path, ending: str) -> None:
    """However training ends, the thread of the loader has ended before the caller goes on."""
    before = set(threading.enumerate())
    running: list[int] = []
    task = Disturbed(trainer.task(), {2: lambda: running.append(len(loaders()))})
    collate = task.collate

    def slow(*arguments: Any) -> list[Any]:
        # So that the thread is at work when the loop ends.
        time.sleep(0.1)
        return collate(*arguments)

    task.collate = slow
    if ending == "finished":
        fit_into(tmp_path, task, trainer)
    else:
        task.before[3] = terminate if ending == "stopped" else crash
        # Who holds the error holds the frames of its traceback, and nothing in them is collected.
        with pytest.raises((StoppedError, CrashError)) as caught:
            fit_into(tmp_path, task, trainer)
        assert caught.traceback
    assert running == [1]
    assert set(threading.enumerate()) <= before


def test_fault_43_with_micro_batches(trainer: Trainer, tmp_path: Path) -> None:
    """Gradient accumulation too resumes bit by bit, and the size of micro-batches may change between runs."""
    small = {"micro_tokens": 300}
    _, expected = trainer.run(tmp_path / "undisturbed", **small)
    with pytest.raises(StoppedError):
        trainer.run(tmp_path / "disturbed", {9: terminate}, **small)
    _, found = trainer.run(tmp_path / "disturbed", **small)
    assert same_parameters(found, expected)
    assert metrics(tmp_path / "disturbed") == metrics(tmp_path / "undisturbed")
    _, other = trainer.run(tmp_path / "whole")
    assert not same_parameters(other, expected)


def test_fault_44_no_random_state_is_needed(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever others draw from PyTorch's generator between the steps changes nothing: streams begin anew at each."""
    _, expected = trainer.run(tmp_path / "one", epochs=None, max_steps=6)
    # The rate is asked for between steps, and validation lies between them too.
    real = loop.learning_rate

    def noisy(*arguments: object) -> float:
        torch.manual_seed(time.monotonic_ns())
        return real(*arguments)

    monkeypatch.setattr(loop, "learning_rate", noisy)
    _, found = trainer.run(tmp_path / "other", epochs=None, max_steps=6)
    assert same_parameters(found, expected)


def test_masks_do_not_depend_on_micro_batches(teacher_config: TeacherConfig) -> None:
    """A teacher's masks are drawn for a whole step, then divided: micro-batches hold exactly the same masked words."""
    corpus = Corpus(teacher_config.text)
    teacher = prepare_teacher(teacher_config.bert, corpus, trim_vocab=True, seed=1)
    sections = TextSections(list(encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=False)))
    task = TeacherTask(teacher, 1, None)
    teacher.model.double().eval()
    for selection in list(epoch_order(sections, 900, 1, 0))[:4]:
        (whole,) = task.collate(selection, [(0, len(selection.rows))])
        bounds = batches.micro_bounds(selection, 200, 2)
        assert len(bounds) > 1
        parts = task.collate(selection, bounds)
        assert [row for part in parts for row in part.target_rows] == whole.target_rows.tolist()
        assert [label for part in parts for label in part.labels] == whole.labels.tolist()
        for (start, stop), part in zip(bounds, parts, strict=True):
            alone = [ids_of(part, i) for i in range(stop - start)]
            assert alone == [ids_of(whole, i) for i in range(start, stop)]
            assert part.input_ids.shape[1] == part.lengths.max()
            assert (part.input_ids.reshape(-1)[part.masked] == teacher.tokenizer.special.mask).all()
        total = sum(task.loss(part, 1).total for part in parts)
        torch.testing.assert_close(total, task.loss(whole, 1).total)


def ids_of(views: MaskedViews, row: int) -> list[int]:
    return views.input_ids[row, : views.lengths[row]].tolist()


@pytest.mark.parametrize("late", [0, 1])
def test_flags_read_late_stop_and_skip_all_the_same(
    trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    """Read a step late, as on a GPU, flags still skip the same steps, save, and stop; nothing else changes."""
    monkeypatch.setitem(loop._LATE, "cpu", late)
    task = Disturbed(trainer.task(), {5: terminate}, frozenset({2, 3}))
    with pytest.raises(StoppedError):
        fit_into(tmp_path / "run", task, trainer)
    assert task.calls == 5 + late
    again = Disturbed(trainer.task())
    fit_into(tmp_path / "run", again, trainer)
    monkeypatch.setitem(loop._LATE, "cpu", 0)
    whole = Disturbed(trainer.task(), spoiled=frozenset({2, 3}))
    fit_into(tmp_path / "whole", whole, trainer)
    assert same_parameters(parameters(again.model), parameters(whole.model))
    assert metrics(tmp_path / "run") == metrics(tmp_path / "whole")


def test_patience_ends_training(trainer: Trainer, tmp_path: Path) -> None:
    """After two validations without a lower loss training ends, also when it is run again; the best is exported."""
    many = {"epochs": None, "max_steps": 40, "valid_every": 2, "patience": 2, "learning_rate": 0.09, "warmup": 0}
    result, state = trainer.run(tmp_path, **many)
    losses = {line["step"]: line["valid_nll"] for line in metrics(tmp_path) if "valid_nll" in line}
    best = min(losses, key=lambda step: losses[step])
    assert result.steps == max(losses) == best + 4 < 40
    assert result.exported_steps == (best,)
    again, same = trainer.run(tmp_path, **many)
    assert again == result
    assert same_parameters(state, same)


def test_the_mean_of_checkpoints_is_exported(trainer: Trainer, tmp_path: Path) -> None:
    """With --average the model is the mean of the last validated checkpoints, and its loss is measured again."""
    seen: dict[int, dict[str, torch.Tensor]] = {}
    task = Disturbed(trainer.task())
    # Before the loss of step n + 1 the parameters are those after step n.
    task.before = {n + 1: lambda n=n: seen.update({n: parameters(task.model)}) for n in (4, 8)}
    config = replace(trainer.config.training, epochs=None, max_steps=10, average=3)
    result = fit_into(tmp_path, task, trainer, config)
    assert result.exported_steps == (4, 8, 10)
    found = parameters(task.model)
    alone = Disturbed(trainer.task())
    last = fit_into(tmp_path / "alone", alone, trainer, replace(config, average=None, valid_every=10))
    assert last.exported_steps == (10,)
    seen[10] = parameters(alone.model)
    for name, value in found.items():
        torch.testing.assert_close(value, (seen[4][name] + seen[8][name] + seen[10][name]) / 3, msg=name)
    assert result.averaged_valid_nll is not None
    assert result.averaged_valid_nll != result.valid_nll
    assert json.loads(json.dumps(asdict(result)))["averaged_valid_nll"] == result.averaged_valid_nll


@pytest.mark.parametrize("option", ["patience", "average"])
def test_what_validations_decide_needs_them(trainer: Trainer, tmp_path: Path, option: str) -> None:
    """Without a validation text --patience and --average are refused."""
    trainer.config = replace(trainer.config, valid=None)
    with pytest.raises(UsageError, match=f"--{option} needs a validation text"):
        trainer.run(tmp_path, **{option: 2})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_training_on_a_gpu(trainer: Trainer, tmp_path: Path) -> None:
    """On a GPU, in bfloat16, training stops and resumes, skips what is not finite, and its loss falls."""
    config = replace(trainer.config.training, device="cuda", epochs=None, max_steps=60, learning_rate=1e-2)
    task = Disturbed(trainer.task(), {5: terminate}, frozenset({2, 3}))
    with pytest.raises(StoppedError):
        fit_into(tmp_path, task, trainer, config)
    assert task.calls == 6
    result = fit_into(tmp_path, Disturbed(trainer.task()), trainer, config)
    losses = [line["valid_nll"] for line in metrics(tmp_path) if "valid_nll" in line]
    assert result.valid_nll == min(losses) < losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_gpu(trainer: Trainer, tmp_path: Path) -> None:
    """Between the lines of the record a step asks nothing of the GPU that makes the host wait."""
    config = replace(trainer.config.training, device="cuda", epochs=None, max_steps=19, valid_every=100)
    before = {3: lambda: torch.cuda.set_sync_debug_mode("error"), 17: lambda: torch.cuda.set_sync_debug_mode(0)}
    try:
        fit_into(tmp_path, Disturbed(trainer.task(), before), trainer, config)
    finally:
        torch.cuda.set_sync_debug_mode(0)
