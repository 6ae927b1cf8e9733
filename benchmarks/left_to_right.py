"""A cache of a teacher that sees the source and the left side of the target only: the paper's negative control.

The same encoder, trained to predict each target word from the state before it under a causal mask on the target
(Chen et al. 2020, section 4.4, call it left-to-right BERT). It knows what a student could know by itself; what its
soft labels give is not owed to the right side. One pass sees all positions, so it learns from seven times as many a
step as with masks.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdcache.compute.device import resolve_device
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, make_plan
from kdcache.dump.dump_shards import dump_job
from kdcache.files.atomic import sha256
from kdcache.files.run_records import folder_run
from kdcache.process.ranks import Process
from kdcache.teacher.masked_lm import Teacher, to_device
from kdcache.teacher.masking import MaskedViews, partition_batches
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import BETA2, TeacherConfig
from kdcache.teacher.train_teacher import TeacherTask
from kdcache.text.corpus import Corpus, TextFiles, fingerprints
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import EncodedPairs, SpecialIds, concatenate
from kdcache.training.batches import Selection, TextSections, valid_selections
from kdcache.training.group import training_group
from kdcache.training.loop import fit
from kdcache.training.training_config import TrainingConfig

_WHOLE = 1 << 60


class LeftToRightTeacher(Teacher):
    """A masked language model whose targets see the source and the targets before them."""

    def attention(self, views: MaskedViews, device: torch.device) -> Tensor:
        """Which tokens may be looked at, `[views, 1, length, length]`; those of segment 0 by all."""
        column = np.arange(views.input_ids.shape[1])
        known = column < views.lengths[:, None]
        target = views.segment_ids > 0
        seen = (known & ~target)[:, None, :] | (target[:, None, :] & (column[:, None] >= column))
        return to_device(seen[:, None], device)

    def log_probs(self, views: MaskedViews, device: torch.device, precision: str) -> Tensor:
        """As the masked one's, from views that hide every target position."""
        return super().log_probs(unmasked(views), device, precision)

    def fingerprint(self) -> str:
        """Which teacher it is; the same weights with masks are another one."""
        return sha256(f"left-to-right {super().fingerprint()}".encode())


def unmasked(views: MaskedViews) -> MaskedViews:
    """Views with their words put back, predicted at the positions before them."""
    input_ids = views.input_ids.copy()
    input_ids.reshape(-1)[views.masked] = views.labels
    return dataclasses.replace(views, input_ids=input_ids, masked=views.masked - 1)


def whole_view(pairs: EncodedPairs, special: SpecialIds) -> MaskedViews:
    """All pairs in one batch, every target position predicted."""
    (views,) = partition_batches(pairs, 1, _WHOLE, special)
    return unmasked(views)


class LeftToRightTask(TeacherTask):
    """Training it."""

    def collate(self, selection: Selection, bounds: Sequence[tuple[int, int]]) -> list[MaskedViews]:
        """Every target position of the selection."""
        views = whole_view(selection.window.pairs.take(selection.rows), self.teacher.tokenizer.special)
        return [views.rows(start, stop) for start, stop in bounds]


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this experiment."""
    for name in ("source", "target", "valid-source", "valid-target"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--bert", required=True, help="folder of the encoder")
    parser.add_argument("--output", required=True, help="folder for teacher/ and cache/")
    parser.add_argument("--max-steps", type=int, default=900)
    parser.add_argument("--valid-every", type=int, default=100)
    parser.add_argument("--patience", type=int, default=3)
    parser.add_argument("--topk", type=int, default=8)


def run(options: argparse.Namespace) -> None:
    """Train and dump."""
    output = Path(options.output)
    text = TextFiles(options.source, options.target)
    training = TrainingConfig(
        3e-4, "linear", 4_096, max_steps=options.max_steps, beta2=BETA2, precision="bfloat16",
        valid_every=options.valid_every, patience=options.patience,
    )  # fmt: skip
    valid = TextFiles(options.valid_source, options.valid_target)
    teacher = _train(TeacherConfig(text, options.bert, valid, training=training), output / "teacher")
    corpus, device = Corpus(text), resolve_device("auto")
    config = DumpConfig(str(output / "teacher"), text, topk=options.topk, passes=1, precision="bfloat16")
    teacher.model.to(device).eval()
    job = Job(config, (teacher,), corpus, make_plan(config, [teacher], corpus, device), device)
    dump_job(job, output / "cache", Process())


def _train(config: TeacherConfig, output: Path) -> LeftToRightTeacher:
    if (output / "config.json").exists():
        return LeftToRightTeacher.load(output)
    corpus = Corpus(config.text)
    valid_corpus = None if config.valid is None else Corpus(config.valid)
    record = folder_run(output, "left-to-right", config, fingerprints(text=corpus, valid=valid_corpus), fixed=False)
    start = prepare_teacher(config.bert, corpus, trim_vocab=True, seed=config.training.seed)
    teacher = LeftToRightTeacher(start.model, start.tokenizer)
    sections = TextSections(_encode(corpus, teacher))
    valid = None if valid_corpus is None else _valid_views(valid_corpus, teacher)
    task = LeftToRightTask(teacher, config.training.seed, valid)
    with training_group("auto") as group:
        result = fit(task, sections, config.training, output, corpus.fingerprint, group)
    teacher.model.cpu()
    teacher.save(output)
    record.finish(dataclasses.asdict(result))
    return teacher


def _encode(corpus: Corpus, teacher: Teacher) -> list[EncodedPairs]:
    return list(encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=False))


def _valid_views(corpus: Corpus, teacher: Teacher) -> list[MaskedViews]:
    pairs, special = concatenate(_encode(corpus, teacher)), teacher.tokenizer.special
    selections = valid_selections(pairs, np.random.default_rng(0))
    return [whole_view(pairs.take(one.rows), special) for one in selections]
