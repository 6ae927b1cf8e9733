"""Batches made ahead in a thread: nothing is lost, failures reach the caller, and the thread ends."""

from __future__ import annotations

import json
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from faults import python
from loops import RUN, CrashError, Disturbed, Trainer, crash, metrics, terminate
from models import parameters, same_parameters

from kdcache.errors import StoppedError, UsageError
from kdcache.teacher.masking import MaskedViews
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import TeacherConfig
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.text.corpus import Corpus
from kdcache.text.encode_corpus import encode_sections
from kdcache.training import batches, loop
from kdcache.training.batches import TextSections, epoch_order
from kdcache.training.loader import THREAD_NAME
from kdcache.training.loop import FitResult, fit
from kdcache.training.training_config import TrainingConfig


def fit_into(output: Path, task: Disturbed, trainer: Trainer, config: TrainingConfig | None = None) -> FitResult:
    output.mkdir(exist_ok=True)
    return fit(task, trainer.sections, config or trainer.config.training, output, RUN)


def loader_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name.startswith(THREAD_NAME)]


@pytest.fixture
def own_cache(trainer: Trainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small cache that the trainer reads one shard at a time."""
    shutil.copytree(trainer.config.cache, tmp_path / "cache")
    trainer.config = replace(trainer.config, cache=str(tmp_path / "cache"))
    monkeypatch.setattr(batches, "WINDOW_PAIRS", 1)
    return tmp_path / "cache"


def delete(path: Path) -> None:
    path.unlink()


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _same(one: batches.EncodedPairs, other: batches.EncodedPairs) -> bool:
    return one.n_pairs == other.n_pairs and bool((one.source_ids[:9] == other.source_ids[:9]).all())


def test_fault_30_the_loader_fails(trainer: Trainer, tmp_path: Path) -> None:
    """There is no loader process to kill: whatever the loader's thread raises reaches the caller at once."""
    task = Disturbed(trainer.task())
    collate = task.collate
    task.collate = lambda selection, bounds: crash() if selection.index == 3 else collate(selection, bounds)
    with pytest.raises(CrashError):
        fit_into(tmp_path, task, trainer)
    assert task.calls == 3
    assert loader_threads() == []


@pytest.mark.parametrize("ending", ["finished", "stopped", "crashed"])
def test_the_thread_ends_with_the_loop(trainer: Trainer, tmp_path: Path, ending: str) -> None:
    """However training ends, the thread of the loader has ended before the caller goes on."""
    before = set(threading.enumerate())
    running: list[int] = []
    task = Disturbed(trainer.task(), {2: lambda: running.append(len(loader_threads()))})
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
    assert result.averaged_loss is not None
    assert result.averaged_loss != result.best_loss
    assert json.loads(json.dumps(result.record()))["averaged_valid_nll"] == result.averaged_loss


@pytest.mark.parametrize("option", ["patience", "average"])
def test_what_validations_decide_needs_them(trainer: Trainer, tmp_path: Path, option: str) -> None:
    """Without a validation text --patience and --average are refused."""
    trainer.config = replace(trainer.config, valid=None)
    with pytest.raises(UsageError, match=f"--{option} needs a validation text"):
        trainer.run(tmp_path, **{option: 2})


STREAM = """
import hashlib, multiprocessing, sys
from pathlib import Path
from torch.utils.data import DataLoader, IterableDataset, get_worker_info
sys.path.insert(0, {root!r})
from kdcache import batches
from kdcache.training.batches import collate, epoch_order
from kdcache.cache.reader import CacheReader
from kdcache.student.cached_labels import CacheSections

batches.WINDOW_PAIRS = 40

class Batches(IterableDataset):
    def __init__(self, reader):
        self.reader, self.special = reader, reader.tokenizer().special

    def __iter__(self):
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        for one in epoch_order(CacheSections(self.reader, soft=True), 300, 1, 0):
            if one.index % step == first:
                yield collate(one, self.special, None)

def digest(workers, method):
    reader = CacheReader(Path(sys.argv[1]))
    reader.shard(0)
    # The DataLoader hands a class of tensors through as it is where it does not batch by itself.
    loader = DataLoader(Batches(reader), batch_size=None, num_workers=workers,
                        multiprocessing_context=method if workers else None, timeout=60 if workers else 0)
    found = hashlib.sha256()
    count = 0
    for batch in loader:
        count += 1
        for tensor in (batch.source_ids, batch.decoder_ids, batch.labels, batch.soft.token_ids, batch.soft.log_probs):
            found.update(tensor.contiguous().numpy().tobytes())
    return count, found.hexdigest()

if __name__ == "__main__":
    multiprocessing.set_forkserver_preload(["kdcache.student.train_student"])
    for one in sys.argv[2:]:
        method, workers = one.split(":")
        print(*digest(int(workers), method))
"""


def check_streams(cache: Path, folder: Path, *ways: str) -> None:
    script = folder / "stream.py"
    script.write_text(STREAM.format(root=str(ROOT)))
    done = python(script, cache, "none:0", *ways)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1 + len(ways)
    assert len(set(lines)) == 1
    assert int(lines[0].split()[0]) > 8


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
    assert result.best_loss == min(losses) < losses[0]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_a_gpu(trainer: Trainer, tmp_path: Path) -> None:
    """Between the lines of the record a step asks nothing of the GPU that makes the host wait."""
    config = replace(trainer.config.training, device="cuda", epochs=None, max_steps=19, valid_every=100)
    before = {3: lambda: torch.cuda.set_sync_debug_mode("error"), 17: lambda: torch.cuda.set_sync_debug_mode(0)}
    try:
        fit_into(tmp_path, Disturbed(trainer.task(), before), trainer, config)
    finally:
        torch.cuda.set_sync_debug_mode(0)
