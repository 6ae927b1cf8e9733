"""How fast a student writes: kdcache's beam search beside the library's own, CTranslate2 and eole, same weights."""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.generation_peers import Eole, PeerError, Written, exported
from benchmarks.report import alternate, publish, ratio, spread
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.generation import generate, length_batches
from kdcache.student.seq2seq import Student
from kdcache.text.lines import read_sentences

_LIBRARY_BATCH = 32
_QUANTIZATIONS = ("float32", "int8")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this benchmark."""
    parser.add_argument("--student", required=True, help="a trained Transformer student")
    parser.add_argument("--source", required=True, help="text to translate, a sentence a line")
    parser.add_argument("--folder", required=True, help="where eole's environment and the exports go; kept")
    parser.add_argument("--peers", nargs="*", choices=("ctranslate2", "eole"), default=("ctranslate2", "eole"))
    parser.add_argument("--lines", type=int, default=400, help="first lines of the source")
    parser.add_argument("--beams", type=int, default=4, help="hypotheses of the search")
    parser.add_argument("--cores", type=int, default=1, help="threads of each program; with 1, processor time counts")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each arm")


@dataclass(frozen=True, slots=True)
class Work:
    """What every arm translates.

    Attributes:
        config: beams, and padded source tokens of a batch.
        cores: threads of each program.
    """

    student: Student
    lines: list[str]
    config: GenerateConfig
    cores: int


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    torch.set_num_threads(options.cores)
    folder = Path(options.folder).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    student, lines = Student.load(options.student), read_sentences(Path(options.source))[: options.lines]
    config = GenerateConfig(options.student, options.source, beam_size=options.beams, device="cpu")
    work = Work(student, [line for line in lines if line.strip()], config, options.cores)
    arms, failed = _arms(work, folder, options.peers)
    texts: dict[str, list[str]] = {}
    rates = alternate({name: partial(_rate, work, arm, texts, name) for name, arm in arms.items()}, options.rounds)
    for name, reason in failed.items():
        print(f"{name}: {reason}")
    _publish(rates, texts)


def _arms(work: Work, folder: Path, peers: Iterable[str]) -> tuple[dict[str, Callable[[], Written]], dict[str, str]]:
    """How each program writes all lines, and why one cannot."""
    sources = work.student.tokenizer.encode_sources(work.lines)
    similar = list(length_batches([*range(len(sources))], sources, work.config.max_tokens))
    in_order = [[*range(len(sources))][at : at + _LIBRARY_BATCH] for at in range(0, len(sources), _LIBRARY_BATCH)]
    arms: dict[str, Callable[[], Written]] = {
        "kdcache": lambda: _timed(work.cores, lambda: generate(work.student, work.lines, work.config)),
        "library, same batches": lambda: _timed(work.cores, lambda: by_library(work, similar)),
        "library, file order": lambda: _timed(work.cores, lambda: by_library(work, in_order)),
    }
    failed = {}
    if "ctranslate2" in peers:
        for quantization in _QUANTIZATIONS:
            translate = exported(work.student, work.config, folder, quantization, work.cores)
            arms[f"ctranslate2, {quantization}"] = lambda translate=translate: _timed(
                work.cores, lambda: translate(work.lines)
            )  # type: ignore[misc]
    if "eole" in peers:
        try:
            arms["eole"] = Eole(work.student, work.lines, work.config, folder, work.cores).write
        except PeerError as error:
            failed["eole"] = str(error)
    return arms, failed


def _timed(cores: int, write: Callable[[], list[str]]) -> Written:
    # Of one thread, processor time is what it would take alone on its core; other programs disturb it less.
    clock = time.process_time if cores == 1 else time.perf_counter
    start = clock()
    texts = write()
    return Written(texts, clock() - start)


@torch.inference_mode()
def by_library(work: Work, batches: Iterable[list[int]]) -> list[str]:
    """What the model's own `generate` writes, from lines to lines."""
    student, texts = work.student, [""] * len(work.lines)
    pad = student.tokenizer.special.pad
    sources = student.tokenizer.encode_sources(work.lines)
    for rows in batches:
        ids = pad_sequence([torch.tensor(sources[row]) for row in rows], batch_first=True, padding_value=pad)
        found = student.model.generate(
            input_ids=ids, attention_mask=(ids != pad).long(), num_beams=work.config.beam_size, do_sample=False
        )
        for row, one in zip(rows, found.tolist(), strict=True):
            texts[row] = " ".join(student.tokenizer.decode(one).split())
    return texts


def _rate(work: Work, arm: Callable[[], Written], texts: dict[str, list[str]], name: str) -> float:
    """Targets per second, ends included, of the texts that this arm writes."""
    written = arm()
    texts[name] = written.texts
    return sum(len(ids) + 1 for ids in work.student.tokenizer.encode(written.texts)) / written.seconds


def _publish(rates: dict[str, list[float]], texts: dict[str, list[str]]) -> None:
    rows = [("program", "targets/s, median [range]", "kdcache over it", "same texts")]
    figures: dict[str, float] = {}
    for name, values in rates.items():
        over = ratio(rates["kdcache"], values)
        same = statistics.mean(a == b for a, b in zip(texts[name], texts["kdcache"], strict=True))
        rows.append((name, spread(values, 0), f"{over:.2f}", f"{100 * same:.1f} %"))
        label = name.replace(", ", "_").replace(" ", "_")
        figures |= {f"targets_per_s_{label}": statistics.median(values), f"over_{label}": over, f"same_{label}": same}
    publish(rows, figures)
