"""The same student in other programs: CTranslate2 by `kdcache export`, eole by its weights under eole's names."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.peers_arms import configured
from benchmarks.peers_setup import environment, pieces
from kdcache.export.ctranslate2_folder import export_ctranslate2
from kdcache.export.export_config import ExportConfig
from kdcache.student.generate_config import GenerateConfig
from kdcache.student.seq2seq import Student
from kdcache.text.lines import read_sentences

_WORKER = Path(__file__).with_name("generation_worker.py")
# eole's first four words.
_SPECIAL = ("<unk>", "<blank>", "<s>", "</s>")
# Parts of a layer: eole's name, and the student's.
_LAYER = {
    "input_layernorm": "self_attn_layer_norm",
    "precontext_layernorm": "encoder_attn_layer_norm",
    "post_attention_layernorm": "final_layer_norm",
    "mlp.gate_up_proj": "fc1",
    "mlp.down_proj": "fc2",
    **{
        f"{theirs}.{part}": f"{ours}.{name}"
        for theirs, ours in (("self_attn", "self_attn"), ("context_attn", "encoder_attn"))
        for part, name in (
            ("linear_query", "q_proj"),
            ("linear_keys", "k_proj"),
            ("linear_values", "v_proj"),
            ("final_linear", "out_proj"),
        )
    },
}


class PeerError(Exception):
    """Another program cannot be measured."""


@dataclass(frozen=True, slots=True)
class Written:
    """Texts, and the seconds that writing them took."""

    texts: list[str]
    seconds: float


def exported(
    student: Student, config: GenerateConfig, folder: Path, quantization: str, cores: int
) -> Callable[[list[str]], list[str]]:
    """How CTranslate2 translates, from lines to lines, with batches of as many tokens."""
    from ctranslate2 import Translator

    home = folder / f"ctranslate2-{quantization}"
    export_ctranslate2(ExportConfig(config.student, format="ctranslate2", quantization=quantization), home)
    translator = Translator(str(home), device="cpu", compute_type=quantization, intra_threads=cores, inter_threads=1)
    names, _ = pieces(student.tokenizer)
    numbers = {name: number for number, name in enumerate(names)}

    def translate(lines: list[str]) -> list[str]:
        found = translator.translate_batch(
            [[names[one] for one in ids] for ids in student.tokenizer.encode_sources(lines)],
            beam_size=config.beam_size,
            max_decoding_length=student.max_length - 1,
            max_batch_size=config.max_tokens,
            batch_type="tokens",
        )
        return [
            " ".join(student.tokenizer.decode([numbers[piece] for piece in one.hypotheses[0]]).split()) for one in found
        ]

    return translate


class Eole:
    """A process of eole that has the student's weights and translates all lines when it is asked."""

    def __init__(self, student: Student, lines: list[str], config: GenerateConfig, folder: Path, cores: int) -> None:
        self._tokenizer = student.tokenizer
        self._names, reserved = pieces(student.tokenizer)
        home = folder / "eole"
        home.mkdir(exist_ok=True)
        try:
            python = environment(folder, "eole")
        except subprocess.CalledProcessError as error:
            raise PeerError(f"cannot be installed: {error}") from error
        self._log = (home / "log").open("w", encoding="utf-8")
        self._environment = {**os.environ, "OMP_NUM_THREADS": str(cores), "PYTHONPATH": ""}
        source = home / "source"
        # As the student reads them: with its start and its end.
        source.write_text(
            "".join(
                f"<s> {' '.join(self._names[one] for one in ids[1:-1])} </s>\n"
                for ids in student.tokenizer.encode_sources(lines)
            ),
            encoding="utf-8",
        )
        self._call([str(python.parent / "eole"), *_skeleton(student, home, source, reserved)], home)
        _carry(student, home / "model")
        self._written = home / "written"
        settings = {
            "model_path": [str(home / "model")],
            "src": str(source),
            "output": str(self._written),
            "beam_size": config.beam_size,
            "length_penalty": "avg",
            "batch_size": config.max_tokens,
            "batch_type": "tokens",
            "max_length": student.max_length - 1,
            "world_size": 1,
            "gpu_ranks": [],
        }
        command = [str(python), str(_WORKER), *configured(home, settings, "{}")]
        self._worker = subprocess.Popen(
            command,
            env=self._environment,
            cwd=home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )

    def write(self) -> Written:
        """Translate all lines, from pieces to pieces."""
        if self._worker.stdin is None or self._worker.stdout is None:
            raise PeerError("its process has no pipes")
        print("go", file=self._worker.stdin, flush=True)
        answer = self._worker.stdout.readline()
        if not answer:
            raise PeerError(f"its process ended; see {self._log.name}")
        ids = {name: number for number, name in enumerate(self._names)}
        lines = read_sentences(self._written)
        texts = [self._tokenizer.decode([ids[one] for one in line.split() if one in ids]) for line in lines]
        return Written([" ".join(text.split()) for text in texts], float(answer))

    def _call(self, command: list[str], home: Path) -> None:
        done = subprocess.run(command, env=self._environment, cwd=home, stdout=self._log, stderr=self._log, check=False)
        if done.returncode:
            raise PeerError(f"failed ({done.returncode}); see {self._log.name}")


def _skeleton(student: Student, home: Path, source: Path, reserved: set[int]) -> list[str]:
    """Arguments with which eole writes a model of the student's shape: one step of training on anything."""
    shape, (names, _) = student.model.config, pieces(student.tokenizer)
    kept = [name for one, name in enumerate(names) if one not in reserved or one == student.tokenizer.special.mask]
    vocabulary = home / "pieces.txt"
    vocabulary.write_text("".join(f"{name}\n" for name in kept), encoding="utf-8")
    settings: dict[str, Any] = {
        "share_vocab": True,
        "src_vocab": str(vocabulary),
        "tgt_vocab": str(vocabulary),
        "src_vocab_size": len(names),
        "tgt_vocab_size": len(names),
        "vocab_size_multiple": 1,
        "save_data": str(home / "data"),
        "overwrite": True,
        "data": {"corpus": {"path_src": str(source), "path_tgt": str(source)}},
        "training": {
            "model_path": str(home / "model"),
            "train_steps": 1,
            "save_checkpoint_steps": 1,
            "valid_steps": 2,
            "batch_type": "tokens",
            "batch_size": 256,
            "bucket_size": 64,
            "num_workers": 0,
            "optim": "sgd",
            "learning_rate": 0.0,
            "compute_dtype": "fp32",
            "world_size": 1,
            "gpu_ranks": [],
        },
        "model": {
            "architecture": "transformer",
            "layers": shape.encoder_layers,
            "heads": shape.encoder_attention_heads,
            "hidden_size": shape.d_model,
            "transformer_ff": shape.encoder_ffn_dim,
            "mlp_activation_fn": shape.activation_function,
            "norm_eps": 1e-5,
            "share_embeddings": True,
            "share_decoder_embeddings": True,
            "add_qkvbias": True,
            "add_final_linear_bias": True,
            "add_ffnbias": True,
            "generator_bias": False,
            "embeddings": {"word_vec_size": shape.d_model, "position_encoding_type": "SinusoidalConcat"},
        },
    }
    return configured(home, settings, "train", "--config", "{}")


def _carry(student: Student, folder: Path) -> None:
    """Put the student's weights into the model that eole wrote."""
    words = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))["src"]
    names, _ = pieces(student.tokenizer)
    special = student.tokenizer.special
    numbers = {name: number for number, name in enumerate(names)}
    numbers |= dict(zip(_SPECIAL, (special.unk, special.pad, special.start, special.end), strict=True))
    rows = torch.tensor([numbers[word] for word in words])
    path = folder / "model.00.safetensors"
    save_file({name: _weight(student, name, old, rows) for name, old in load_file(path).items()}, path)


def _weight(student: Student, name: str, old: Tensor, rows: Tensor) -> Tensor:
    half, rest = name.split(".", 1)
    weights: dict[str, Tensor] = student.module.state_dict()
    if name.endswith("layer_scalar"):
        return old
    if rest == "embeddings.weight":
        return weights["model.shared.weight"][rows].clone()
    if rest == "pe.pe":
        positions = student.model.model.encoder.embed_positions
        table: Tensor = positions.weights[positions.padding_idx + 1 :][: len(old), None]
        return torch.cat([table, old[len(table) :]])
    if rest.startswith("layer_norm"):
        return weights[f"model.{name}"].clone()
    _, number, part, kind = re.fullmatch(r"(\w+)\.(\d+)\.(.+)\.(\w+)", rest).groups()  # type: ignore[union-attr]
    return weights[f"model.{half}.layers.{number}.{_LAYER[part]}.{kind}"].clone()
