"""Training a student from a cache. The teacher is neither needed nor imported."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from kdcache.cache.reader import CacheReader, open_cache
from kdcache.errors import ModelError, TrainingError
from kdcache.files.atomic import sha256
from kdcache.files.hub import local_folder
from kdcache.files.run_records import folder_run, log
from kdcache.files.strict_json import canonical_json
from kdcache.losses.objective_config import PLAIN, ObjectiveConfig
from kdcache.losses.projection import LossSums, projected_loss
from kdcache.student.cached_labels import cache_sections, check_text
from kdcache.student.fingerprints import WEIGHTS_FILE, weights_fingerprint
from kdcache.student.label_watch import LabelWatch
from kdcache.student.seq2seq import Student, build_student
from kdcache.student.student_config import POSITIONS, StudentConfig
from kdcache.text.corpus import Corpus, fingerprints
from kdcache.text.encode_corpus import encode_sections
from kdcache.text.encoded_pairs import EncodedPairs, concatenate
from kdcache.text.likeness import text_warnings
from kdcache.training.batches import Batch, Resampling, Selection, collate, micro_bounds, some_pairs, valid_selections
from kdcache.training.checkpoint import copy_parameters, remove_all
from kdcache.training.group import Group, training_group
from kdcache.training.loop import FitResult, fit, why_not_longer
from kdcache.training.model_card import text_fact, training_facts, write_card

_PROGRAM = """from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained(".")
model = AutoModelForSeq2SeqLM.from_pretrained(".")
output = model.generate(**tokenizer("A sentence.", return_tensors="pt"))
print(tokenizer.decode(output[0], skip_special_tokens=True))
"""
_SCORES = """## Scores

Not measured yet. `kdcache score --student . --source F --reference F --json scores.json` writes them with their
signatures, intervals and fingerprints, to be put here."""


@dataclass(frozen=True, slots=True)
class StudentTask:
    """The student's side of the training loop."""

    student: Student
    objective: ObjectiveConfig
    valid: list[Batch] | None
    resampling: Resampling | None = None

    @property
    def model(self) -> nn.Module:
        """The sequence-to-sequence model."""
        return self.student.module

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return self.student.width

    def collate(self, selection: Selection, bounds: Sequence[tuple[int, int]]) -> list[Batch]:
        """Pad each part of the selection."""
        return _collate_parts(selection, bounds, self.student, self.objective.topk, self.resampling)

    def move(self, batch: Batch, device: torch.device) -> Batch:
        """The batch on the device."""
        return batch.to(device)

    def loss(self, batch: Batch, step: int) -> LossSums:
        """The configured objective over all target positions of the batch."""
        return self._loss(batch, self.objective, step)

    def valid_loss(self, batch: Batch) -> LossSums:
        """Plain cross entropy."""
        return self._loss(batch, PLAIN, 1)

    def _loss(self, batch: Batch, objective: ObjectiveConfig, step: int) -> LossSums:
        hidden, layer = self.student.hidden(batch), self.student.output_layer
        return projected_loss(hidden, layer, batch.labels, batch.soft, objective, step)


def train_student(config: StudentConfig, output: Path | str) -> None:
    """Train a student into `output`; run again, it continues, and does nothing when it has finished.

    Raises:
        UsageError: a setting is outside its range, or the cache does not hold what the objective needs.
        CorruptError: the cache is incomplete or damaged.
        CacheError: it cannot be reached.
        MismatchError: `output` belongs to a run with other settings, or `config.compared` is not the text of the cache.
        ModelError: it cannot start from the student that is named.
        StoppedError: a signal asked to stop.
    """
    config.check()
    with training_group(config.training.device) as group:
        _train(config, Path(output), group)


def _train(config: StudentConfig, output: Path, group: Group) -> None:
    reader, valid, inputs = open_inputs(config)
    sections = cache_sections(reader, config.objective, config.resample)
    longer = partial(why_not_longer, config.training, output)
    run = group.begin(lambda: folder_run(output, "student-train", config, inputs, why_not_longer=longer))
    if config.compared is not None:
        check_text(reader, Corpus(config.compared, skip_bad=True))
        log.info("The text is the one in the cache.")
    if run.finished:
        log.info("%s: this student is finished; nothing to do.", output)
        return
    valid_pairs = None
    if valid is not None:
        parts = encode_sections(valid, reader.tokenizer(), _positions(reader), skip_bad=config.skip_bad)
        valid_pairs = concatenate(list(parts))
    vocabulary, most = reader.plan.vocabulary, config.training.max_tokens
    for warning in text_warnings(some_pairs(sections), valid_pairs, vocabulary, most):
        log.warning("%s", warning)
    task = make_task(config, reader, valid_pairs)
    task.student.limit_length(sections.longest_target())
    parameters = sum(parameter.numel() for parameter in task.model.parameters())
    counts = (f"{count:,}" for count in (reader.plan.n_pairs, reader.n_targets, parameters))
    log.info("%s pairs, %s targets; a student of %s parameters.", *counts)
    if config.start_from is not None:
        log.info("It starts from the weights in %s.", config.start_from)
    # Without soft labels there is nothing to say about them.
    watch = LabelWatch(reader, valid) if config.objective.needs_soft_labels else None
    validated = {} if watch is None else {"validated": watch.validated}
    result = fit(task, sections, config.training, output, sha256(canonical_json(inputs)), group, **validated)
    with group.all_or_none():
        if group.leads:
            task.student.model.cpu()
            task.student.save(output)
            _write_card(output, config, reader, result, inputs, parameters)
            labels = None if watch is None else watch.conclusion(result.loss)
            run.finish({**asdict(result), "labels": labels})
    log.info("%s: the student of step %s is saved.", output, result.exported)
    if group.leads and not config.training.keep_checkpoints:
        remove_all(output)


def _write_card(
    output: Path, config: StudentConfig, reader: CacheReader, result: FitResult, inputs: dict[str, str], parameters: int
) -> None:
    plan, objective, is_rnn = reader.plan, config.objective, config.arch == "rnn"
    lead = f"{'An RNN' if is_rnn else 'A Transformer'} of {parameters:,} parameters that writes a target for a source."
    if is_rnn:
        lead += " transformers has no such model; it runs `rnn.py` of this folder."
    words = f"{plan.draws} drawn" if plan.draws else f"the {plan.topk} best"
    soft = f"{objective.name}, temperature {objective.temperature}" if objective.needs_soft_labels else "not used"
    facts = {
        "Text": text_fact(plan.n_pairs, reader.n_targets, plan.corpus),
        "Teacher": f"SHA-256 `{plan.teacher}`",
        "Cache": f"{words} words at each position, made by `{plan.made_by}`; SHA-256 `{inputs['cache']}`",
        "Soft labels": soft,
        "Hard labels": f"weight (alpha) {objective.alpha}, label smoothing {objective.label_smoothing:g}",
        **({"First weights": f"SHA-256 `{inputs['start']}`"} if "start" in inputs else {}),
        **training_facts(config.training, result, inputs.get("valid")),
    }
    trusted = ", trust_remote_code=True" if is_rnn else ""
    write_card(output, lead, _PROGRAM.replace('"."', f'"."{trusted}'), facts, _SCORES)


def open_inputs(config: StudentConfig) -> tuple[CacheReader, Corpus | None, dict[str, str]]:
    """Open the cache and the validation text; return them with the fingerprints of all that the student learns from.

    Raises:
        CorruptError: the cache is incomplete or damaged.
        DataError: the validation text cannot be read or used.
        ModelError: there is no student to start from.
    """
    reader = open_cache(config.cache, config.store)
    valid = None if config.valid is None else Corpus(config.valid, skip_bad=config.skip_bad)
    inputs = {"cache": reader.manifest.root, **fingerprints(valid=valid)}
    if config.start_from is not None:
        weights = weights_fingerprint(local_folder(config.start_from))
        if weights is None:
            missing = f"no student here (no {WEIGHTS_FILE}). Make one with kdcache student-train."
            raise ModelError(f"{config.start_from}: {missing}")
        inputs["start"] = weights
    return reader, valid, inputs


def start_from(student: Student, folder: Path) -> None:
    """Give `student` the parameters of the one in `folder`.

    Raises:
        ModelError: the folder holds no student, or one with another tokenizer, architecture or size.
    """
    other = Student.load(folder)
    if other.tokenizer.fingerprint != student.tokenizer.fingerprint:
        raise ModelError(
            f"{folder}: this student has another tokenizer than the cache; its words have other numbers. Start from "
            "one that learned from this cache, or from another cache of the same teacher."
        )
    try:
        copy_parameters(student.module, dict(other.module.named_parameters()), folder)
    except TrainingError as error:
        raise ModelError(
            f"{folder}: this student has another shape than the new one. Give the --arch and --size with which it was "
            "trained."
        ) from error


def make_task(config: StudentConfig, reader: CacheReader, valid: EncodedPairs | None = None) -> StudentTask:
    """A student of this configuration before its first step, with the validation text in batches, if there is one.

    Raises:
        ModelError: it cannot start from the student that is named.
    """
    tokenizer = reader.tokenizer()
    seed = config.training.seed
    sizes = reader.plan.vocabulary, config.dropout, seed, _positions(reader)
    student = build_student(config.arch, config.size, tokenizer, *sizes)
    if config.start_from is not None:
        start_from(student, local_folder(config.start_from))
    batches = None
    if valid is not None:
        batches = [
            batch
            for selection in valid_selections(valid, np.random.default_rng(0))
            for batch in _collate_parts(
                selection, micro_bounds(selection, config.training.most_tokens, 1), student, None
            )
        ]
    resampling = Resampling(config.resample, seed, tokenizer.special) if config.resample else None
    return StudentTask(student, config.objective, batches, resampling)


def _positions(reader: CacheReader) -> int:
    """Positions of a student, enough for whatever pair the teacher took."""
    return max(POSITIONS, reader.plan.positions)


def _collate_parts(
    selection: Selection,
    bounds: Sequence[tuple[int, int]],
    student: Student,
    topk: int | None,
    resampling: Resampling | None = None,
) -> list[Batch]:
    parts = (replace(selection, rows=selection.rows[start:stop]) for start, stop in bounds)
    return [collate(part, student.tokenizer.special, topk, resampling) for part in parts]
