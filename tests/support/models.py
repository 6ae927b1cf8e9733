"""Small text, small models and small settings for the tests of the model side."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from conftest import ROOT
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    BertTokenizer,
)

from kdcache.student.student_config import Size
from kdcache.text.corpus import Pair, TextFiles
from kdcache.training.training_config import TrainingConfig

# Bitwise comparisons hold for one number of threads.
torch.set_num_threads(1)

NANO = Size(layers=1, width=32, feed_forward=64, heads=2, learning_rate=2e-3)
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
# Much wider than BERT's 0.02, so that an untrained model's distributions are far from uniform and have no ties.
_SPREAD = 0.25


# A toy language: each word has one translation, and the last mark depends on the last word.
_SYLLABLES = ("ka", "lo", "mi", "ru", "te", "so", "ná", "vö")
_WORDS = [f"{one}{other}" for one in _SYLLABLES for other in _SYLLABLES[:4]]
_TRANSLATIONS = [f"{other}{one}x" for one in _SYLLABLES for other in _SYLLABLES[4:]]


def toy_lines(side: str, count: int, first: int = 0) -> list[str]:
    """Sentences `first` to `first + count` of an endless toy corpus, the same in every process."""
    lines = []
    for number in range(first, first + count):
        generator = random.Random(number)
        drawn = [min(int(generator.expovariate(0.15)), len(_WORDS) - 1) for _ in range(generator.randint(2, 9))]
        words = _WORDS if side == "src" else _TRANSLATIONS
        mark = "?" if side == "tgt" and drawn[-1] % 2 else "."
        lines.append(" ".join(words[one] for one in drawn).capitalize() + mark)
    return lines


def toy_pairs(count: int, first: int = 0) -> list[Pair]:
    """Sentences `first` to `first + count` of both sides, as pairs."""
    return [Pair(s, t) for s, t in zip(toy_lines("src", count, first), toy_lines("tgt", count, first), strict=True)]


def write_text(folder: Path, sources: list[str], targets: list[str], name: str = "text") -> TextFiles:
    """Two files of parallel text."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / f"{name}.src", folder / f"{name}.tgt"
    for path, lines in zip(paths, (sources, targets), strict=True):
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return TextFiles(str(paths[0]), str(paths[1]))


def toy_text(folder: Path, count: int, first: int = 0, name: str = "text") -> TextFiles:
    """Some pairs of the toy corpus as files."""
    return write_text(folder, toy_lines("src", count, first), toy_lines("tgt", count, first), name)


def all_lines(text: TextFiles) -> list[str]:
    """The lines of both sides."""
    return [line for path in text.paths() for line in path.read_text(encoding="utf-8").splitlines()]


def word_pieces(lines: list[str], words: int = 30) -> dict[str, int]:
    """A WordPiece vocabulary: frequent words, all characters, and pieces that no text uses in between."""
    counts = Counter(word for line in lines for word in line.replace(".", " ").split())
    characters = sorted({char for line in lines for char in line if not char.isspace()})
    frequent = [word for word, _ in counts.most_common(words) if len(word) > 1]
    pieces = [*(f"[unused{i}]" for i in range(10)), *characters, "漢", *(f"##{c}" for c in characters), *frequent]
    return {piece: i for i, piece in enumerate([*_SPECIAL, *pieces])}


def save_bert(folder: Path, lines: list[str], *, head: bool = True, seed: int = 3, **settings: Any) -> Path:
    """A small random BERT as the library itself saves one."""
    tokenizer = BertTokenizer(vocab=word_pieces(lines), do_lower_case=False, strip_accents=False)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        **{**shape, "vocab_size": len(tokenizer), "max_position_embeddings": 128, "initializer_range": _SPREAD}
        | settings
    )
    torch.manual_seed(seed)
    (BertForMaskedLM(config) if head else BertModel(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def slow_distributions(
    folder: Path, pairs: list[Pair], passes: int, dealt: list[list[int]] | None = None
) -> tuple[list[list[int]], np.ndarray]:
    """The obvious way, with the library alone: one view at a time, one position at a time, in float32.

    `dealt` names the pass of each target position of each pair; by default p modulo `passes`. Returns the target ids of
    each pair and the log-probabilities of the whole vocabulary at every target position, [targets, vocabulary].
    """
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    targets, rows = [], []
    for number, pair in enumerate(pairs):
        inputs = tokenizer(pair.source, pair.target, return_tensors="pt")
        ids = [*tokenizer(pair.target, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]
        first = inputs["input_ids"].shape[1] - len(ids)
        assert inputs["input_ids"][0, first:].tolist() == ids
        targets.append(ids)
        for t in range(len(ids)):
            masked = inputs["input_ids"].clone()
            in_pass = [p % passes for p in range(len(ids))] if dealt is None else dealt[number]
            for other in range(len(ids)):
                if in_pass[other] == in_pass[t]:
                    masked[0, first + other] = tokenizer.mask_token_id
            with torch.no_grad():
                logits = model(**{**inputs, "input_ids": masked}).logits[0, first + t]
            rows.append(torch.log_softmax(logits, dim=0).numpy())
    return targets, np.stack(rows)


def steps(count: int, **settings: Any) -> TrainingConfig:
    """A few steps on the CPU, in batches of some pairs."""
    chosen = {"learning_rate": 2e-3, "schedule": "linear", "max_tokens": 400, "warmup": 2, "device": "cpu"}
    return TrainingConfig(**{**chosen, "max_steps": count, **settings})


def parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """A copy of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def same_parameters(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether names and bits are the same."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# What a Python is called with to start two processes that work together.
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@contextmanager
def started(*command: object) -> Iterator[subprocess.Popen[str]]:
    """A command that runs beside the block. What still runs at its end is killed; where a wait failed, it says where.

    A process that hangs would otherwise be waited for without end.
    """
    with subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        start_new_session=True,
    ) as process:
        try:
            yield process
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            process.send_signal(signal.SIGABRT)
            error.add_note(process.communicate(timeout=30)[1])
            raise
        finally:
            # With all that it has started: torchrun's own processes outlive it.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def start_cli(*arguments: object) -> AbstractContextManager[subprocess.Popen[str]]:
    """Start `kdcache` in a process of its own and do not wait for it."""
    return started(ROOT / "cli.py", *arguments)


def wait_until(
    condition: Callable[[], bool], process: subprocess.Popen[str] | None = None, seconds: float = 240
) -> bool:
    """Wait for `condition`; False if `process` ended before.

    Raises:
        TimeoutError: neither happened in time.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process is not None and process.poll() is not None:
            return condition()
        time.sleep(0.002)
    raise TimeoutError("the expected moment did not come")


@contextmanager
def terminated_when(condition: Callable[[], bool]) -> Iterator[None]:
    """Send this very process SIGTERM as soon as `condition` holds; harmless where nobody listens any more."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    over = threading.Event()

    def watch() -> None:
        while not over.is_set():
            if condition():
                os.kill(os.getpid(), signal.SIGTERM)
                return
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        signal.signal(signal.SIGTERM, before)


# Run where kdcache cannot be imported; prints what the library alone makes of both folders.
_ELSEWHERE = """
import json, sys
sys.modules["kdcache"] = None
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSeq2SeqLM, AutoTokenizer
teacher, student, lines = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
model, tokenizer = AutoModelForMaskedLM.from_pretrained(teacher), AutoTokenizer.from_pretrained(teacher)
inputs = tokenizer(lines[0], lines[1], return_tensors="pt")
with torch.no_grad():
    found = {"inputs": {k: v.tolist() for k, v in inputs.items()}, "logits": model.eval()(**inputs).logits.tolist()}
model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(student), AutoTokenizer.from_pretrained(student)
texts = []
for line in lines:
    inputs = tokenizer(line, return_tensors="pt")
    texts.append(tokenizer.decode(model.generate(**inputs)[0], skip_special_tokens=True))
found |= {"texts": texts, "class": type(model).__name__, "keys": sorted(inputs)}
found["imported"] = sorted(name for name in sys.modules if name.startswith("kdcache."))
print(json.dumps(found))
"""


def open_elsewhere(teacher: Path, student: Path, lines: list[str], folder: Path) -> dict[str, Any]:
    """What a process makes of the two folders that has the libraries, but neither kdcache nor this checkout."""
    process = subprocess.run(
        [sys.executable, "-I", "-c", _ELSEWHERE, str(teacher), str(student), json.dumps(lines)],
        capture_output=True,
        text=True,
        cwd=folder,
        timeout=300,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    found: dict[str, Any] = json.loads(process.stdout)
    return found
