"""Training a teacher: conditional masked language modelling on pairs (Chen et al. 2020, section 3.1)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdcache.batches import Selection, TextSections, window_batches
from kdcache.corpus import Corpus, fingerprints
from kdcache.encode import encode_sections
from kdcache.files import sha256
from kdcache.losses.projection import projected_loss
from kdcache.losses.sums import LossSums
from kdcache.masking import MaskedViews, random_views
from kdcache.objective import ObjectiveConfig
from kdcache.records import canonical_json
from kdcache.runs import folder_run, log
from kdcache.teacher.config import TeacherConfig
from kdcache.teacher.model import Teacher
from kdcache.teacher.prepare import prepare_teacher
from kdcache.textcheck import examine, tokenizer_warnings
from kdcache.tokens import concatenate
from kdcache.training.loop import fit

_PLAIN = ObjectiveConfig(alpha=1.0, label_smoothing=0.0)
# Validation always masks the same positions, so that its numbers compare.
_VALID_SEED = 20_201


@dataclass(frozen=True, slots=True)
class TeacherTask:
    """The teacher's side of the training loop."""

    teacher: Teacher
    seed: int
    valid: list[MaskedViews] | None

    @property
    def model(self) -> nn.Module:
        """The masked language model."""
        model: nn.Module = self.teacher.model
        return model

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return self.teacher.width

    def loss(self, selection: Selection, _step: int, device: torch.device) -> LossSums:
        """Cross entropy at target positions masked at random, a pure function of seed, epoch and batch."""
        generator = np.random.default_rng((self.seed, selection.epoch, selection.index, 1))
        views = random_views(selection.window.pairs, selection.rows, generator, self.teacher.tokenizer.special)
        return self._loss(views, device)

    def valid_losses(self, device: torch.device) -> Iterator[LossSums] | None:
        """The same over the validation text, always with the same masks."""
        return None if self.valid is None else (self._loss(views, device) for views in self.valid)

    def _loss(self, views: MaskedViews, device: torch.device) -> LossSums:
        hidden = self.teacher.hidden(views, device)
        labels = torch.from_numpy(views.labels).to(device, non_blocking=True)
        return projected_loss(hidden, self.teacher.output_layer, labels, None, _PLAIN)


def train_teacher(config: TeacherConfig, output: Path) -> None:
    """Make a teacher and train it into `output`; run again, it continues, and does nothing when it has finished.

    Raises:
        DataError: the text breaks a rule.
        ModelError: the checkpoint cannot be used.
        MismatchError: `output` belongs to a run with other settings.
        StoppedError: a signal asked to stop.
    """
    config.training.check()
    corpus = Corpus(config.text, skip_bad=config.skip_bad)
    valid = None if config.valid is None else Corpus(config.valid, skip_bad=config.skip_bad)
    run = folder_run(output, "teacher-train", config, fingerprints(text=corpus, valid=valid))
    if run.finished:
        log.info("%s: this teacher is finished; nothing to do.", output)
        return
    for line in examine(corpus, valid).lines():
        log.info("%s", line)
    teacher = prepare_teacher(config.bert, corpus, trim_vocab=config.trim_vocab, seed=config.training.seed)
    # Saved before training, so that whatever was trained has its tokenizer beside it.
    teacher.tokenizer.save(output, max_length=teacher.positions, segments=teacher.segments)
    for warning in tokenizer_warnings(teacher.tokenizer, corpus):
        log.warning("%s", warning)
    sections = TextSections(
        list(encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=config.skip_bad))
    )
    task = TeacherTask(teacher, config.training.seed, None if valid is None else _valid_views(valid, teacher, config))
    identity = [corpus.fingerprint, valid and valid.fingerprint, teacher.tokenizer.fingerprint]
    result = fit(task, sections, config.training, output, sha256(canonical_json(identity)))
    teacher.model.cpu()
    teacher.save(output)
    run.finish({"steps": result.steps, "exported_step": result.exported_step, "valid_nll": result.best_loss})
    log.info("%s: the teacher of step %s is saved.", output, f"{result.exported_step:,}")


def _valid_views(valid: Corpus, teacher: Teacher, config: TeacherConfig) -> list[MaskedViews]:
    parts = list(encode_sections(valid, teacher.tokenizer, teacher.positions, skip_bad=config.skip_bad))
    pairs = concatenate(parts)
    generator = np.random.default_rng(_VALID_SEED)
    batches = window_batches(pairs, config.training.max_tokens, generator)
    return [random_views(pairs, rows, generator, teacher.tokenizer.special) for rows in batches]
