"""The teacher and the dump that the benchmarks time."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch.nn import functional
from transformers import BertConfig, BertForMaskedLM

from benchmarks.synthetic import text_tokenizer
from kdcache.compute.device import autocast
from kdcache.dump.dump_config import DumpConfig
from kdcache.dump.dump_job import Job, prepare
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.masking import MaskedViews
from kdcache.text.corpus import TextFiles

PASSES, TOPK, TOKENS = 7, 8, 8_192
SHARD_PAIRS = 4_096


# MiniLM-L6 and BERT-base: 10.6 and 85 million parameters without embeddings.
SHAPES = {"minilm": (6, 384, 12), "base": (12, 768, 12)}


def save_teacher(folder: Path, text: TextFiles, shape: str = "minilm") -> None:
    """A random BERT with a vocabulary of the text: speed does not depend on what it says."""
    tokenizer = text_tokenizer(text)
    torch.manual_seed(1)
    layers, width, heads = SHAPES[shape]
    config = BertConfig(
        vocab_size=tokenizer.size,
        pad_token_id=tokenizer.special.pad,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    Teacher(BertForMaskedLM(config), tokenizer).save(folder)


def make_job(folder: Path, text: TextFiles, precision: str) -> Job:
    """The dump of the text by the teacher in `folder`."""
    config = DumpConfig(
        str(folder / "teacher"), text, TOPK, PASSES, SHARD_PAIRS, TOKENS, max_unknown=1.0, precision=precision
    )
    return prepare(config)


@torch.inference_mode()
def forward(job: Job, batches: list[MaskedViews]) -> None:
    """Encoder, and the product with the vocabulary matrix at the masked positions; nothing is done with the logits."""
    if not isinstance(job.teacher, Teacher):
        raise TypeError("this arm needs the real teacher")
    teacher = job.teacher.whole()
    for views in batches:
        with autocast(job.device, job.plan.precision):
            functional.linear(teacher.hidden(views, job.device), teacher.output_layer.weight, teacher.output_layer.bias)
    if job.device.type == "cuda":
        torch.cuda.synchronize()


def pilot_job(folder: Path, text: TextFiles, shards: int) -> Job:
    """A float32 job cut into about `shards` shards."""
    job = make_job(folder, text, "float32")
    size = -(-job.plan.n_pairs // shards)
    return dataclasses.replace(job, plan=dataclasses.replace(job.plan, shard_pairs=size))
