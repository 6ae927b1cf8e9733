"""Training a teacher: conditional masked language modelling on pairs (Chen et al. 2020, section 3.1)."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kdcache.compute.device import resolve_device, resolve_precision
from kdcache.errors import OutputError
from kdcache.files.atomic import sha256
from kdcache.files.run_records import folder_run, log
from kdcache.files.strict_json import canonical_json
from kdcache.labels.verdict import HeldOut
from kdcache.losses.objective_config import PLAIN
from kdcache.losses.projection import LossSums, projected_loss
from kdcache.teacher.folds import FOLDER, folds_of
from kdcache.teacher.masked_lm import Teacher, to_device
from kdcache.teacher.masking import MaskedViews, random_views
from kdcache.teacher.open_checkpoint import checkpoint_fingerprint
from kdcache.teacher.prepare_teacher import prepare_teacher
from kdcache.teacher.teacher_config import SCRATCH, TeacherConfig
from kdcache.text.corpus import Corpus, fingerprints
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import EncodedPairs, concatenate
from kdcache.text.likeness import text_warnings
from kdcache.text.text_checks import examine, tokenizer_warnings
from kdcache.training.batches import Selection, TextSections, micro_bounds, some_pairs, valid_selections
from kdcache.training.checkpoint import remove_all
from kdcache.training.group import Group, training_group
from kdcache.training.loop import FitResult, fit
from kdcache.training.model_card import text_fact, training_facts, write_card

# Validation always masks the same positions, so that its numbers compare.
_VALID_SEED = 20_201
_PROGRAM = """from transformers import AutoModelForMaskedLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForMaskedLM.from_pretrained(".")
"""


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

    def collate(self, selection: Selection, bounds: Sequence[tuple[int, int]]) -> list[MaskedViews]:
        """Target positions masked at random, a pure function of seed, epoch, step and pair; then the parts of that."""
        generator = np.random.default_rng((self.seed, selection.epoch, selection.index, 1))
        views = random_views(selection.window.pairs, selection.rows, generator, self.teacher.tokenizer.special)
        return [views.rows(start, stop) for start, stop in bounds]

    def move(self, batch: MaskedViews, _device: torch.device) -> MaskedViews:
        """The views as they are: the teacher moves what it reads."""
        return batch

    def loss(self, batch: MaskedViews, _step: int) -> LossSums:
        """Cross entropy at the masked positions."""
        device = self.teacher.output_layer.weight.device
        hidden = self.teacher.hidden(batch, device)
        labels = to_device(batch.labels, device)
        return projected_loss(hidden, self.teacher.output_layer, labels, None, PLAIN)

    def valid_loss(self, batch: MaskedViews) -> LossSums:
        """Cross entropy at the masked positions."""
        return self.loss(batch, 0)


def train_teacher(config: TeacherConfig, output: Path | str) -> None:
    """Make a teacher and train it into `output`; run again, it continues, and does nothing when it has finished.

    With `config.folds` it makes as many teachers, one after the other, in folders of `output`.

    Raises:
        DataError: the text breaks a rule.
        ModelError: the checkpoint cannot be used.
        MismatchError: `output` belongs to a run with other settings.
        OutputError: with `config.folds`, `output` is the folder of a teacher.
        StoppedError: a signal asked to stop.
    """
    config.check()
    with training_group(config.training.device) as group:
        if config.folds is None:
            _train(config, Path(output), group)
            return
        if (Path(output) / "config.json").exists():
            raise OutputError(f"{output}: holds a teacher. Choose another output for those of --folds.")
        for number in range(1, config.folds + 1):
            one = replace(config, folds=None, fold=(number, config.folds))
            _train(one, Path(output) / FOLDER.format(number), group)


def _train(config: TeacherConfig, output: Path, group: Group) -> None:
    corpus = Corpus(config.text, skip_bad=config.skip_bad)
    valid = None if config.valid is None else Corpus(config.valid, skip_bad=config.skip_bad)
    inputs = fingerprints(text=corpus, valid=valid)
    run = group.begin(
        lambda: folder_run(output, "teacher-train", config, {**inputs, **checkpoint_fingerprint(config.bert)})
    )
    if run.finished:
        log.info("%s: this teacher is finished; nothing to do.", output)
        return
    for line in examine(corpus, valid).lines():
        log.info("%s", line)
    teacher = prepare_teacher(config.bert, corpus, trim_vocab=config.trim_vocab, seed=config.training.seed)
    # The tokenizer is saved before training, so that every checkpoint has it beside it.
    with group.all_or_none():
        if group.leads:
            teacher.tokenizer.save(output, max_length=teacher.positions, segments=teacher.segments)
    device = resolve_device(config.training.device, group.process.local)
    teacher.model.to(device)
    teacher.check_run(device, resolve_precision(config.training.precision, device))
    for warning in tokenizer_warnings(teacher.tokenizer, corpus):
        log.warning("%s", warning)
    parts = list(encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=config.skip_bad))
    if config.fold is not None:
        left_out = [folds_of(part, config.fold[1]) == config.fold[0] for part in parts]
        parts = [part.without(skipped) for part, skipped in zip(parts, left_out, strict=True)]
        number = sum(int(skipped.sum()) for skipped in left_out)
        log.info("Fold %s of %s: %s of %s pairs are left out.", *config.fold, f"{number:,}", f"{corpus.n_pairs:,}")
    sections = TextSections(parts)
    valid_pairs = None if valid is None else _encode(valid, teacher, config)
    for warning in text_warnings(some_pairs(sections), valid_pairs, teacher.vocabulary, config.training.max_tokens):
        log.warning("%s", warning)
    views = None if valid_pairs is None else _valid_views(valid_pairs, teacher, config)
    task = TeacherTask(teacher, config.training.seed, views)
    identity: list[Any] = [corpus.fingerprint, valid and valid.fingerprint, teacher.tokenizer.fingerprint]
    identity += [] if config.fold is None else [config.fold]
    result = fit(task, sections, config.training, output, sha256(canonical_json(identity)), group)
    with group.all_or_none():
        if group.leads:
            teacher.model.cpu()
            teacher.save(output)
            _write_card(output, teacher, sections, config, result, run.content["inputs"])
            held_out = _held_out(result, valid, task)
            run.finish({**asdict(result), "held_out": None if held_out is None else asdict(held_out)})
            if held_out is not None and (poor := held_out.poor()) is not None:
                log.warning("%s", poor)
    log.info("%s: the teacher of step %s is saved.", output, result.exported)
    if group.leads and not config.training.keep_checkpoints:
        remove_all(output)


def _write_card(
    output: Path,
    teacher: Teacher,
    sections: TextSections,
    config: TeacherConfig,
    result: FitResult,
    inputs: dict[str, str],
) -> None:
    parameters = sum(parameter.numel() for parameter in teacher.model.parameters())
    lead = (
        f"A masked language model of {parameters:,} parameters that reads a source and its target together and fills "
        "in masked words of the target; `kdcache dump-logits` asks it for every one."
    )
    facts = {
        "Text": text_fact(sum(sections.sizes), sum(part.n_targets for part in sections.parts), inputs["text"]),
        "First weights": f"SHA-256 `{inputs['bert']}`" if "bert" in inputs else config.bert,
        **training_facts(config.training, result, inputs.get("valid")),
    }
    # A name on the hub; a folder has a fingerprint.
    base = {} if "bert" in inputs or config.bert == SCRATCH else {"base_model": config.bert}
    write_card(output, lead, _PROGRAM, facts, **base)


def _held_out(result: FitResult, valid: Corpus | None, task: TeacherTask) -> HeldOut | None:
    if valid is None or task.valid is None or result.loss is None or result.valid_accuracy is None:
        return None
    targets = sum(len(views.labels) for views in task.valid)
    return HeldOut(result.loss, result.valid_accuracy, targets, valid.fingerprint)


def _encode(corpus: Corpus, teacher: Teacher, config: TeacherConfig) -> EncodedPairs:
    parts = encode_sections(corpus, teacher.tokenizer, teacher.positions, skip_bad=config.skip_bad)
    return concatenate(list(parts))


def _valid_views(pairs: EncodedPairs, teacher: Teacher, config: TeacherConfig) -> list[MaskedViews]:
    generator = np.random.default_rng(_VALID_SEED)
    batches = []
    for selection in valid_selections(pairs, generator):
        views = random_views(pairs, selection.rows, generator, teacher.tokenizer.special)
        batches += [views.rows(*bounds) for bounds in micro_bounds(selection, config.training.most_tokens, 1)]
    return batches
