"""Writing target texts with a trained student: the library's beam search over batches of similar length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from kdcache.compute.device import resolve_device
from kdcache.compute.halving import HalvingRunner
from kdcache.console.progress import Progress
from kdcache.errors import DataError
from kdcache.files.atomic import replace_file
from kdcache.files.run_records import file_run, log
from kdcache.process.signals import StopRequest, stop_on_signals
from kdcache.student.fingerprints import student_fingerprints, text_sha256
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.seq2seq import Student, load_student
from kdcache.student.student_config import POSITIONS
from kdcache.text.lines import read_sentences


def generate_file(config: GenerateConfig, output: Path) -> None:
    """Write one hypothesis a line for every line of the source; run again, it does nothing when the file is there.

    Raises:
        ModelError: the student cannot be opened, or the memory does not suffice for one line.
        DataError: the source cannot be read, or a line is longer than the student's positions.
        MismatchError: `output` was made with other settings.
    """
    config.check()
    sentences = read_sentences(Path(config.source))
    student = load_student(Path(config.student))
    inputs = {"source": text_sha256(sentences), **student_fingerprints(Path(config.student))}
    run = file_run(output, "generate", config, inputs)
    if run.finished and output.exists():
        log.info("%s: was made by the same command; nothing to do.", output)
        return
    with stop_on_signals() as stop:
        hypotheses = generate(student, sentences, config, stop)
    replace_file(output, "".join(f"{line}\n" for line in hypotheses).encode())
    run.finish({"sentences": len(hypotheses), "sha256": text_sha256(hypotheses)})
    log.info("%s: %s lines.", output, f"{len(hypotheses):,}")


@torch.inference_mode()
def generate(
    student: Student, sentences: Sequence[str], config: GenerateConfig, stop: StopRequest | None = None
) -> list[str]:
    """One hypothesis for each sentence, in their order; an empty sentence gives an empty one.

    A hypothesis has at most twice as many tokens as the longest source of its batch, plus 16.

    Raises:
        DataError: a sentence is longer than the student's positions.
        ModelError: the memory does not suffice for one sentence.
        StoppedError: a signal asked to stop.
    """
    device = resolve_device(config.device)
    student.model.to(device).eval()
    sources = student.tokenizer.encode_sources(sentences)
    for number, ids in enumerate(sources, 1):
        if len(ids) > POSITIONS:
            raise DataError(f"{config.source}:{number}: {len(ids):,} tokens; the student has {POSITIONS:,} positions.")
    hypotheses = [""] * len(sentences)
    halving = HalvingRunner("a beam search over one source", "Lower --beam-size, free memory")
    with Progress("generating", len(sentences), "sentences") as progress:
        for rows in _batches(sources, config.max_tokens):
            if stop is not None:
                stop.check()
            for row, text in zip(rows, _search(student, [sources[row] for row in rows], config, halving), strict=True):
                hypotheses[row] = text if sentences[row].strip() else ""
            progress.advance(len(rows))
    return hypotheses


def _batches(sources: list[list[int]], max_tokens: int) -> Iterator[list[int]]:
    """Indices of sentences of similar length, longest first, at most `max_tokens` padded tokens together."""
    order = sorted(range(len(sources)), key=lambda row: -len(sources[row]))
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
) -> list[str]:
    pad, longest = student.tokenizer.special.pad, len(sources[0])
    rows = [[*ids, *[pad] * (longest - len(ids))] for ids in sources]
    batch = _Sources(torch.tensor(rows, device=student.model.device))
    parts = halving.parts(batch, lambda part: _beams(student, part.input_ids, config))
    # A line feed inside a hypothesis would shift every line after it.
    return [" ".join(student.tokenizer.decode(ids).split()) for _, best in parts for ids in best]


def _beams(student: Student, input_ids: Tensor, config: GenerateConfig) -> list[list[int]]:
    """The best hypothesis of each row."""
    hypotheses: list[list[int]] = student.model.generate(
        input_ids=input_ids,
        attention_mask=(input_ids != student.tokenizer.special.pad).long(),
        num_beams=config.beam_size,
        length_penalty=config.length_penalty,
        max_length=min(POSITIONS, 2 * input_ids.shape[1] + 16),
        do_sample=False,
    ).tolist()
    return hypotheses
