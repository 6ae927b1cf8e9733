"""What would run on a GPU names one device and keeps the host from waiting: seen without a GPU, on a pretended one."""

import itertools
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from pretended_gpu import GPU, Gpu, pretended_gpu
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException

from kdcache.cache.reader import CacheReader
from kdcache.compute.device import autocast
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objective_config import GATES, OBJECTIVES, ObjectiveConfig
from kdcache.losses.projection import OutputLayer, projected_loss
from kdcache.student import rnn
from kdcache.student.cached_labels import CacheSections
from kdcache.student.rnn import DecoderState, RnnDecoder
from kdcache.student.student_config import RNN_SIZES, RnnSize, StudentConfig
from kdcache.student.train_student import StudentTask, make_task
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.passes import Passes
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.training.batches import TextSections
from kdcache.training.checkpoint import Position
from kdcache.training.group import Group
from kdcache.training.loader import step_batches
from kdcache.training.step import Stepper, StepRequests
from kdcache.training.training_config import TrainingConfig

TOKENS, WORDS, WIDTH, TOPK = 12, 40, 8, 4
BF16 = TrainingConfig(1e-3, "linear", 400, micro_tokens=100, max_steps=9, device="cuda", precision="bfloat16")


def one_step(task: Any, sections: Any, gpu: Gpu, training: TrainingConfig) -> None:
    """One optimizer step, its batches made and moved as the loader does."""
    gpu.put(task.model)
    task.model.train()
    stepper = Stepper(task.model, training, GPU, Group())
    batches = next(step_batches(task, sections, training, Position(), Group(), GPU))
    assert batches is not None
    assert len(batches.micro_batches) > 1
    report = stepper.take(task, batches.micro_batches, 1, 1e-3, StepRequests)
    assert report.sums.is_cuda
    # The flags are on their way to the host, and the event is behind them.
    assert not report._flags.is_cuda
    assert gpu.order == ["copy", "event"]
    assert gpu.mixed == []


def student_task(cache: Path, size: str, arch: str, training: TrainingConfig) -> tuple[StudentTask, CacheSections]:
    reader = CacheReader(cache)
    config = StudentConfig(str(cache), ObjectiveConfig(), training, arch=arch, size=size)
    return make_task(config, reader), CacheSections(reader, soft=True)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_student_steps_without_waiting(small_cache: Path, nano: str, precision: str) -> None:
    """Batches, losses, flags, the update that may be skipped: a Transformer's step leaves the host free."""
    training = replace(BF16, precision=precision)
    task, sections = student_task(small_cache, nano, "transformer", training)
    with pretended_gpu() as gpu:
        one_step(task, sections, gpu, training)
    assert gpu.waits == []


def test_an_rnn_asks_for_the_lengths_alone(small_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An RNN's forward pass makes the host wait once, for the lengths of its sources; its LSTMs stay in float32."""
    monkeypatch.setitem(RNN_SIZES, "nano", RnnSize(layers=2, width=16, learning_rate=2e-3))
    task, sections = student_task(small_cache, "nano", "rnn", BF16)
    read: list[Tensor] = []

    def lengths(tensor: Tensor) -> tuple[None, SimpleNamespace]:
        read.append(tensor)
        return None, SimpleNamespace(all=lambda: True)

    # Numbers would be needed to pack, and to sort first what is not sorted.
    monkeypatch.setattr(rnn, "pack_padded_sequence", lambda embedded, _lengths, *, batch_first: embedded)
    monkeypatch.setattr(rnn, "pad_packed_sequence", lambda states, **_: (states, None))
    decode, states = RnnDecoder.forward, []

    def watched(*arguments: Any) -> tuple[Tensor, DecoderState]:
        found = decode(*arguments)
        states.append(found[1])
        return found

    monkeypatch.setattr(RnnDecoder, "forward", watched)
    with pretended_gpu() as gpu:
        monkeypatch.setattr(Tensor, "cpu", lengths)
        one_step(task, sections, gpu, BF16)
    assert gpu.waits == []
    assert len(read) == len(states) > 1
    assert {part.dtype for one in states for part in (one.hidden, one.cell)} == {torch.float32}
    assert {one.attentional.dtype for one in states} == {torch.bfloat16}


def test_a_teacher_steps_without_waiting(small_teacher: Path, small_cache: Path) -> None:
    """So does a teacher's."""
    teacher, pairs = Teacher.load(small_teacher), CacheReader(small_cache).shard(0).pairs
    with pretended_gpu() as gpu:
        one_step(TeacherTask(teacher, 1, None), TextSections([pairs]), gpu, BF16)
    assert gpu.waits == []


@pytest.mark.parametrize("maskings", [1, 2])
@pytest.mark.parametrize("kept", ["best", "normalizers", "drawn"])
def test_a_dump_does_not_wait_for_a_batch(small_teacher: Path, small_cache: Path, kept: str, maskings: int) -> None:
    """Whatever is kept of them, predictions are copied behind the work, and an event says when they are there."""
    teacher, reader = Teacher.load(small_teacher), CacheReader(small_cache)
    changes: dict[str, Any] = {
        "best": {},
        "normalizers": {"temperatures": (2.0, 5.0)},
        "drawn": {"draws": 9, "topk": 9},
    }
    plan = replace(reader.plan, maskings=maskings, precision="bfloat16", **changes[kept])
    pairs = reader.shard(0).pairs.take(np.arange(12))
    with pretended_gpu() as gpu:
        gpu.put(teacher.model)
        found = [one for _, one in Passes(teacher, plan, 300, GPU).run(pairs, 0, lambda _views: None)]
    assert (gpu.waits, gpu.mixed) == ([], [])
    parts = 4 if kept == "normalizers" else 3
    assert gpu.order == [*["copy"] * parts, "event"] * len(found)
    assert not any(tensor.is_cuda for one in found for tensor in one._host)
    assert len(found) > 1 or maskings > 1


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_loss_stays_on_the_gpu(name: str) -> None:
    """Every objective, with every gate, with and without normalizers, is computed in float32 where its tensors are."""
    temperatures = (1.0, 2.0) if name != "sampled" else (1.0,)
    with pretended_gpu() as gpu:
        hidden, weight, bias = (
            torch.zeros(*shape, device=GPU, requires_grad=True) for shape in ((TOKENS, WIDTH), (WORDS, WIDTH), (WORDS,))
        )
        labels = torch.zeros(TOKENS, dtype=torch.int64, device=GPU)
        ids, log_probs = (torch.zeros(TOKENS, TOPK, dtype=one, device=GPU) for one in (torch.int32, torch.float16))
        for gate, temperature in itertools.product(GATES, temperatures):
            soft = SoftLabels(ids, log_probs, None if temperature == 1 else torch.zeros(TOKENS, 1, device=GPU))
            config = ObjectiveConfig(name=name, gate=gate, temperature=temperature)
            with autocast(GPU, "bfloat16"):
                sums = projected_loss(hidden, OutputLayer(weight, bias), labels, soft, config)
            assert {one.device for one in (sums.total, *sums.parts.values())} == {GPU}
            assert sums.total.dtype == torch.float32
    assert (gpu.waits, gpu.mixed, gpu.order) == ([], [], [])


def test_it_sees_what_a_gpu_would_refuse() -> None:
    """Two devices in one operation are an error; copies that wait, and operations that take both, are seen."""
    with pretended_gpu() as gpu:
        there = torch.zeros(4, device=GPU)
        with pytest.raises(RuntimeError, match="device"):
            there + torch.zeros(4)
        with pytest.raises(DataDependentOutputException):
            float(there.sum())
        there[torch.zeros(2, dtype=torch.int64)]
        assert gpu.mixed == ["aten::index.Tensor"]
        for wait in (
            lambda: there.cpu(),
            lambda: torch.zeros(4).to(GPU),
            lambda: torch.zeros(4).to(GPU, non_blocking=True),
            lambda: there.__setitem__(0, 1.0),
        ):
            gpu.waits.clear()
            wait()
            assert len(gpu.waits) == 1
        gpu.waits.clear()
        torch.zeros(4).pin_memory().to(GPU, non_blocking=True)
        there[0].fill_(1.0)
        there.to("cpu", non_blocking=True)
        assert gpu.waits == []
