"""How each toolkit is told to train the same model on the same text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.peers_setup import Material, save_model
from kdcache.student.student_config import SIZES

DROPOUT, SMOOTHING, RATE = 0.1, 0.1, 1e-3
_PROBE = Path(__file__).with_name("peers_probe.py")


@dataclass(frozen=True, slots=True)
class Work:
    """What is trained: `size` is one of kdcache's; `cores` is also the number of threads."""

    material: Material
    size: str
    cores: int


@dataclass(frozen=True, slots=True)
class Times:
    """Of one training run: ends of its steps in seconds, and targets of each step (empty where the probe saw none)."""

    ends: list[float]
    targets: list[int]


class ToolError(Exception):
    """A toolkit ended with an error, or took no step."""


def joeynmt(work: Work, home: Path, precision: str, batch: int, steps: int) -> list[str]:
    """Its batches: the longest side of a batch, an end token added, times its pairs reaches `batch`."""
    if precision != "float32":
        raise ToolError("offers no bfloat16 on a CPU")
    shape = SIZES[work.size]
    layers = {
        "type": "transformer",
        "num_layers": shape.layers,
        "num_heads": shape.heads,
        "embeddings": {"embedding_dim": shape.width, "scale": True, "dropout": 0.0},
        "hidden_size": shape.width,
        "ff_size": shape.feed_forward,
        "dropout": DROPOUT,
        "layer_norm": "pre",
    }
    side = {"voc_file": str(work.material.pieces), "level": "word", "lowercase": False, "max_length": 512}
    text = str(work.material.source.with_suffix(""))
    return configured(
        home,
        {
            "name": "peers",
            "model_dir": str(home / "model"),
            "use_cuda": False,
            "fp16": False,
            "random_seed": 1,
            "data": {
                "train": text,
                "dev": text,
                "sample_dev_subset": 8,
                "dataset_type": "plain",
                "src": {"lang": "src", **side},
                "trg": {"lang": "tgt", **side},
            },
            "testing": {"batch_size": 8, "beam_size": 1},
            "training": {
                "optimizer": "adamw",
                "adam_betas": [0.9, 0.98],
                "learning_rate": RATE,
                "learning_rate_min": 0.0,
                "scheduling": "warmupinversesquareroot",
                "learning_rate_warmup": 4_000,
                "weight_decay": 0.01,
                "clip_grad_norm": 1.0,
                "label_smoothing": SMOOTHING,
                "normalization": "tokens",
                "batch_size": batch,
                "batch_type": "token",
                "epochs": 1_000,
                "updates": steps,
                "logging_freq": steps + 1,
                "validation_freq": steps + 1,
                "shuffle": True,
            },
            "model": {
                "initializer": "xavier_uniform",
                "embed_initializer": "xavier_uniform",
                "tied_embeddings": True,
                "tied_softmax": True,
                "encoder": layers,
                "decoder": layers,
            },
        },
        "train",
        "{}",
        "--skip-test",
    )


def eole(work: Work, home: Path, precision: str, batch: int, steps: int) -> list[str]:
    """Its batches: sorted by length in a bucket, padded tokens of the longer side at most `batch`."""
    return configured(home, eole_settings(work, home, precision, batch, steps), "train", "--config", "{}")


def eole_settings(work: Work, home: Path, precision: str, batch: int, steps: int) -> dict[str, Any]:
    """What eole reads of a training run whose learning rate stays as it is."""
    shape = SIZES[work.size]
    return {
        "seed": 1,
        "share_vocab": True,
        "src_vocab": str(work.material.pieces),
        "tgt_vocab": str(work.material.pieces),
        "src_vocab_size": work.material.tokenizer.size,
        "tgt_vocab_size": work.material.tokenizer.size,
        "vocab_size_multiple": 1,
        "save_data": str(home / "data"),
        "overwrite": True,
        "report_every": steps + 1,
        "data": {"corpus": {"path_src": str(work.material.source), "path_tgt": str(work.material.target)}},
        "training": {
            "model_path": str(home / "model"),
            "train_steps": steps,
            "save_checkpoint_steps": steps + 1,
            "valid_steps": steps + 1,
            "batch_type": "tokens",
            "batch_size": batch,
            "normalization": "tokens",
            # One bucket is as many pairs as kdcache's window; the loader shares the process's cores.
            "bucket_size": 32_768,
            "num_workers": 0,
            "prefetch_factor": 200,
            "optim": "adamw",
            "adam_beta2": 0.98,
            "learning_rate": RATE,
            "weight_decay": 0.01,
            "max_grad_norm": 1.0,
            "label_smoothing": SMOOTHING,
            "dropout": [DROPOUT],
            "attention_dropout": [DROPOUT],
            "dropout_steps": [0],
            "param_init_method": "xavier_uniform",
            "compute_dtype": {"float32": "fp32", "bfloat16": "bf16"}[precision],
            "world_size": 1,
            "gpu_ranks": [],
        },
        "model": {
            "architecture": "transformer",
            "layers": shape.layers,
            "heads": shape.heads,
            "hidden_size": shape.width,
            "transformer_ff": shape.feed_forward,
            "share_embeddings": True,
            "share_decoder_embeddings": True,
            "embeddings": {"word_vec_size": shape.width, "position_encoding_type": "SinusoidalInterleaved"},
        },
    }


def trainer(work: Work, home: Path, precision: str, batch: int, steps: int) -> list[str]:
    """Its batches: `batch` pairs of similar length."""
    settings = {
        "pairs": str(work.material.pairs),
        "model": str(save_model(home, work.material, work.size, DROPOUT)),
        "output": str(home / "out"),
        "batch": batch,
        "steps": steps,
        "precision": precision,
        "label_smoothing": SMOOTHING,
        "learning_rate": RATE,
    }
    return configured(home, settings, "{}")


def kdcache(work: Work, home: Path, precision: str, batch: int, steps: int, alpha: float) -> list[str]:
    """Its batches: sorted by length in a window, padded tokens of both sides together at most `batch`."""
    options: dict[str, object] = {
        "--cache": work.material.cache,
        "--output": home / "student",
        "--size": work.size,
        "--alpha": alpha,
        "--max-steps": steps,
        "--max-tokens": batch,
        "--precision": precision,
        "--label-smoothing": SMOOTHING,
        "--dropout": DROPOUT,
        "--learning-rate": RATE,
        "--device": "cpu",
    }
    return ["student-train", "--quiet", *(str(word) for pair in options.items() for word in pair)]


def configured(home: Path, settings: dict[str, Any], *arguments: str) -> list[str]:
    """Write the settings as JSON, which is YAML too, and name the file in place of `{}`."""
    path = home / "settings.yaml"
    path.write_text(json.dumps(settings, indent=1), encoding="utf-8")
    return [str(path) if one == "{}" else one for one in arguments]


Configure = Callable[[Work, Path, str, int, int], list[str]]
PEER_ARMS: dict[str, Configure] = {"joeynmt": joeynmt, "eole": eole, "trainer": trainer}


def train(tool: str, python: Path, arguments: list[str], home: Path, cores: int) -> Times:
    """Run a toolkit below the probe; its output goes to `home`/log.

    Raises:
        ToolError: it failed; the message is the last line that it wrote.
    """
    report, log = home / "report.json", home / "log"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(cores),
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "PYTHONPATH": str(Path(__file__).parents[1]) if tool == "kdcache" else "",
    }
    command = [str(python), str(_PROBE), tool, str(report), str(cores), *arguments]
    with log.open("w", encoding="utf-8") as file:
        done = subprocess.run(command, env=environment, cwd=home, stdout=file, stderr=subprocess.STDOUT, check=False)
    found = json.loads(report.read_text(encoding="utf-8")) if report.is_file() else {"ends": [], "targets": []}
    if done.returncode != 0 or not found["ends"]:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise ToolError(f"failed ({done.returncode}): {lines[-1][:120]}; see {log}")
    return Times(found["ends"], found["targets"])


OWN_PYTHON = Path(sys.executable)
