"""Writing target texts with a trained student: beam search over batches of similar length."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from kdcache.compute.device import resolve_device
from kdcache.compute.halving import HalvingRunner
from kdcache.console.progress import Progress
from kdcache.errors import DataError
from kdcache.files.atomic import replace_file, write_output
from kdcache.files.hub import local_folder
from kdcache.files.locations import STANDARD
from kdcache.files.run_records import file_run, log
from kdcache.process.prefetch import Prefetch
from kdcache.process.signals import StopRequest, default_signals, stop_on_signals
from kdcache.student import transformer
from kdcache.student.beam_search import beam_search, suits
from kdcache.student.fingerprints import student_fingerprints, text_sha256
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.seq2seq import Student
from kdcache.text.lines import iterate_sentences, read_sentences

# Lines that are sorted by length together, at first and at most, and the seconds without a further one after which
# fewer are taken.
_FIRST_LINES, _MOST_LINES, _PAUSE_SECONDS = 256, 8_192, 0.05
# Whether our search suits the models that have written something.
_TRIED: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def generate_file(config: GenerateConfig, output: Path) -> None:
    """Write one hypothesis a line for every line of the source; run again, it does nothing when the file is there.

    The output `-` is standard output, where hypotheses come soon after their lines and no record is kept.

    Raises:
        ModelError: the student cannot be opened, or the memory does not suffice for one line.
        DataError: the source cannot be read, or a line is longer than the student's positions.
        MismatchError: `output` was made with other settings.
    """
    config.check()
    if output == STANDARD:
        _generate_stream(config)
        return
    sentences = read_sentences(Path(config.source))
    # Fetched once, so that weights and fingerprint are of one revision.
    folder = local_folder(config.student)
    student = Student.load(folder)
    inputs = {"source": text_sha256(sentences), **student_fingerprints(folder)}
    run = file_run(output, "generate", config, inputs)
    if run.finished and output.exists():
        log.info("%s: was made by the same command; nothing to do.", output)
        return
    with stop_on_signals(kept=False) as stop:
        hypotheses = generate(student, sentences, config, stop)
    replace_file(output, "".join(f"{line}\n" for line in hypotheses).encode())
    limit = config.max_length or student.max_length
    run.finish({"sentences": len(hypotheses), "max_length": limit, "sha256": text_sha256(hypotheses)})
    log.info("%s: %s lines, each of at most %s tokens.", output, f"{len(hypotheses):,}", f"{limit:,}")


def _generate_stream(config: GenerateConfig) -> None:
    """Write a hypothesis on standard output for each line of the source, as soon as no further line waits."""
    student = Student.load(config.student)
    done = cut = 0
    with default_signals():
        for sentences in _arriving(iterate_sentences(Path(config.source))):
            hypotheses, more = _write(student, sentences, config, first=done + 1)
            write_output(STANDARD, "".join(f"{line}\n" for line in hypotheses).encode())
            done, cut = done + len(hypotheses), cut + more
    _warn_of_cut(cut, done, config.max_length or student.max_length)


def _arriving(sentences: Iterator[str]) -> Iterator[list[str]]:
    """Sentences in lists: those that came before a pause, or as many as fill batches of similar length."""

    def following(_item: None, _pause: object) -> str | Exception | None:
        try:
            return next(sentences, None)
        except DataError as error:
            return error

    with Prefetch(following, itertools.repeat(None), _MOST_LINES, leave_seconds=0.0) as ahead:
        last: str | Exception | None = ""
        most = _FIRST_LINES
        while isinstance(last, str):
            came: list[str] = []
            while len(came) < most and (not came or ahead.ready(_PAUSE_SECONDS)):
                last = ahead.take()
                if not isinstance(last, str):
                    break
                came.append(last)
            if came:
                yield came
            most = min(2 * most, _MOST_LINES)
        if last is not None:
            raise last


def generate(
    student: Student, sentences: Sequence[str], config: GenerateConfig, stop: StopRequest | None = None
) -> list[str]:
    """One hypothesis for each sentence, in their order; an empty sentence gives an empty one.

    It does not depend on the other sentences, but for rounding. It has at most `config.max_length` tokens, or else as
    many as the student's own limit says; a warning counts those that do not end by then.

    Raises:
        DataError: a sentence is longer than the student's positions.
        ModelError: the memory does not suffice for one sentence.
        StoppedError: a signal asked to stop.
    """
    with Progress("generating", sum(bool(text.strip()) for text in sentences), "sentences") as progress:
        hypotheses, cut = _write(student, sentences, config, stop, progress)
    _warn_of_cut(cut, len(sentences), config.max_length or student.max_length)
    return hypotheses


def _warn_of_cut(cut: int, sentences: int, max_length: int) -> None:
    if cut:
        counts = (f"{count:,}" for count in (cut, sentences, max_length))
        log.warning("%s of %s texts do not end within %s tokens and are cut; --max-length sets another limit.", *counts)


@torch.inference_mode()
def _write(
    student: Student,
    sentences: Sequence[str],
    config: GenerateConfig,
    stop: StopRequest | None = None,
    progress: Progress | None = None,
    first: int = 1,
) -> tuple[list[str], int]:
    """One hypothesis for each sentence, the `first` of which is the line of that number, and how many are cut."""
    student.model.to(resolve_device(config.device)).eval()
    sources = student.tokenizer.encode_sources(sentences)
    for number, ids in enumerate(sources, first):
        if len(ids) > student.positions:
            raise DataError(
                f"{config.source}:{number}: {len(ids):,} tokens; the student has {student.positions:,} positions."
            )
    config = replace(config, max_length=config.max_length or student.max_length)
    written = [row for row, text in enumerate(sentences) if text.strip()]
    hypotheses, cut = [""] * len(sentences), 0
    halving = HalvingRunner("a beam search over one source", "Lower --beam-size, free memory")
    for rows in length_batches(written, sources, config.max_tokens):
        if stop is not None:
            stop.check()
        for row, ids in zip(rows, _search(student, [sources[row] for row in rows], config, halving), strict=True):
            # A line feed inside a hypothesis would shift every line after it.
            hypotheses[row] = " ".join(student.tokenizer.decode(ids).split())
            cut += student.tokenizer.special.end not in ids[1:]
        if progress is not None:
            progress.advance(len(rows))
    return hypotheses, cut


class WritingStudent(Student):
    """A student that writes texts."""

    def generate(
        self,
        sentences: Sequence[str],
        beam_size: int = 4,
        length_penalty: float = 1.0,
        max_length: int | None = None,
        device: str = "auto",
    ) -> list[str]:
        """One text for each sentence, in their order, as `kdcache generate` writes it; see `GenerateConfig`.

        Raises:
            UsageError: a value is not allowed.
            DataError: a sentence is longer than the student's positions.
            ModelError: the memory does not suffice for one sentence.
        """
        config = GenerateConfig("", "sentence", beam_size, length_penalty, max_length, device=device)
        config.check()
        return generate(self, sentences, config)


def length_batches(rows: list[int], sources: list[list[int]], max_tokens: int) -> Iterator[list[int]]:
    """Those of `rows` with sources of similar length, longest first, at most `max_tokens` padded tokens together."""
    order = sorted(rows, key=lambda row: -len(sources[row]))
    start = 0
    while start < len(order):
        stop = start + max(1, max_tokens // len(sources[order[start]]))
        yield order[start:stop]
        start = stop


@dataclass(frozen=True, slots=True)
class _Sources:
    """Tokens of sources, int64 `[rows, longest]`, padded on the right."""

    input_ids: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        count, longest = self.input_ids.shape
        return count, longest

    def rows(self, start: int, stop: int) -> _Sources:
        # Padded as before: another width of padding would round, and might end, differently.
        return _Sources(self.input_ids[start:stop])


def _search(
    student: Student, sources: Sequence[list[int]], config: GenerateConfig, halving: HalvingRunner
) -> list[list[int]]:
    """The tokens of the best hypothesis for each source."""
    pad, longest = student.tokenizer.special.pad, len(sources[0])
    rows = [[*ids, *[pad] * (longest - len(ids))] for ids in sources]
    batch = _Sources(torch.tensor(rows, device=student.model.device))
    parts = halving.parts(batch, lambda part: _beams(student, part.input_ids, config))
    return [ids for _, best in parts for ids in best]


def _is_searched(model: nn.Module) -> bool:
    """Whether our search suits a model, which is tried once."""
    if model not in _TRIED:
        _TRIED[model] = suits(model)
        if not _TRIED[model]:
            log.info("This version of transformers changed what the fast beam search uses; its own one is slower.")
    return _TRIED[model]


def _beams(student: Student, input_ids: Tensor, config: GenerateConfig) -> list[list[int]]:
    chosen: dict[str, Any] = {
        "no_repeat_ngram_size": config.no_repeat_ngram_size,
        "repetition_penalty": config.repetition_penalty,
    }
    if (
        config.beam_size > 1
        and student.model.config.model_type == transformer.MODEL_TYPE
        and _is_searched(student.model)
    ):
        chosen["custom_generate"] = beam_search
    hypotheses: list[list[int]] = student.model.generate(
        input_ids=input_ids,
        attention_mask=(input_ids != student.tokenizer.special.pad).long(),
        num_beams=config.beam_size,
        length_penalty=config.length_penalty,
        max_length=config.max_length,
        do_sample=False,
        **{name: value for name, value in chosen.items() if value is not None},
    ).tolist()
    return hypotheses
