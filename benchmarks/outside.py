"""An outside check of the plain student: eole trains the same shape on the same pieces, scored by the same call.

Both learn from the pairs of one cache, cut into the same pieces; both have the dropout, label smoothing, steps and
highest learning rate of the options. What differs is the toolkit: layers, initialisation, batches and the course of the
learning rate, which falls to 0 along a cosine; of eole's it is the nearest to kdcache's line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

from benchmarks.peers_arms import Work, configured, eole_settings
from benchmarks.peers_setup import environment, material_of, pieces
from benchmarks.report import publish
from kdcache.scoring.score_config import MetricSettings
from kdcache.scoring.score_corpus import score_corpus
from kdcache.student.student_config import SIZES
from kdcache.text.lines import read_sentences
from kdcache.text.tokenizer import Tokenizer

_METRICS = ("bleu", "rouge")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Options of this check."""
    parser.add_argument("--cache", required=True, help="whose pairs are learnt; its soft labels are not read")
    parser.add_argument("--test", nargs=2, action="append", required=True, metavar=("SOURCE", "REFERENCE"))
    parser.add_argument("--folder", required=True, help="where the environment, the text and the model go")
    parser.add_argument("--size", choices=tuple(SIZES), default="tiny")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--max-steps", type=int, default=2_000)
    parser.add_argument("--max-tokens", type=int, default=2_048, help="padded tokens of the longer side of a step")
    parser.add_argument("--warmup", type=int, default=200)
    parser.add_argument("--cores", type=int, default=1)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")


def run(options: argparse.Namespace) -> None:
    """Train, translate, score and print."""
    folder = Path(options.folder).resolve()
    python = environment(folder, "eole")
    work = Work(material_of(folder / "text", Path(options.cache)), options.size, options.cores)
    home = folder / "eole"
    home.mkdir(exist_ok=True)
    if not (home / "model" / f"step_{options.max_steps}").is_dir():
        _call(python, configured(home, _settings(work, home, options), "train", "--config", "{}"), home, options.cores)
    rows, figures = [("text", "metric", "value", "signature")], {}
    for source, reference in options.test:
        name = Path(source).stem
        hypotheses = _translate(python, work, home, Path(source), options)
        (home / f"{name}.txt").write_text("".join(f"{line}\n" for line in hypotheses), encoding="utf-8")
        for one in score_corpus(
            hypotheses, [read_sentences(Path(reference))], _METRICS, MetricSettings(lowercase=True)
        ):
            rows.append((name, one.name, f"{one.value:.2f}", one.signature))
            figures[f"{name}_{one.name}"] = one.value
    publish(rows, figures)


def _settings(work: Work, home: Path, options: argparse.Namespace) -> dict[str, object]:
    settings = eole_settings(work, home, options.precision, options.max_tokens, options.max_steps)
    settings["training"] |= {
        "dropout": [options.dropout],
        "attention_dropout": [options.dropout],
        "save_checkpoint_steps": options.max_steps,
        "decay_method": "cosine",
        "warmup_steps": options.warmup,
        "learning_rate": SIZES[options.size].learning_rate,
    }
    return settings


def _translate(python: Path, work: Work, home: Path, source: Path, options: argparse.Namespace) -> list[str]:
    """Beam search of eole with four hypotheses, from pieces to pieces."""
    tokenizer = work.material.tokenizer
    names, reserved = pieces(tokenizer)
    given, written = home / f"{source.stem}.pieces", home / f"{source.stem}.pieces.out"
    lines = (" ".join(names[one] for one in ids if one not in reserved) for ids in _encode(tokenizer, source))
    given.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    settings = {
        "model_path": [str(home / "model" / f"step_{options.max_steps}")],
        "src": str(given),
        "output": str(written),
        "beam_size": 4,
        "batch_size": 32,
        "batch_type": "sents",
        "max_length": 200,
        "world_size": 1,
        "gpu_ranks": [],
    }
    _call(python, configured(home, settings, "predict", "--config", "{}"), home, options.cores)
    ids = {name: number for number, name in enumerate(names)}
    return [tokenizer.decode([ids[one] for one in line.split() if one in ids]) for line in read_sentences(written)]


def _encode(tokenizer: Tokenizer, source: Path) -> list[list[int]]:
    return tokenizer.encode(read_sentences(source))


def _call(python: Path, arguments: list[str], home: Path, cores: int) -> None:
    """Run eole; its output goes to the end of `home`/log."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONPATH": ""}
    command = [str(python.parent / "eole"), *arguments]
    with (home / "log").open("a", encoding="utf-8") as file:
        print(json.dumps(command), file=file, flush=True)
        subprocess.run(command, env=environment, cwd=home, stdout=file, stderr=subprocess.STDOUT, check=True)
