"""Hugging Face's `Seq2SeqTrainer` on the model and the ids that a file of settings names; run by `peers_probe.py`."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence


def main() -> None:
    """Train."""
    # Not a dependency of kdcache's environment in this form, so that type checkers do not look for it.
    library = importlib.import_module("transformers")
    settings = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    pairs = json.loads(Path(settings["pairs"]).read_text(encoding="utf-8"))
    model = library.AutoModelForSeq2SeqLM.from_pretrained(settings["model"])
    pad, start = model.config.pad_token_id, model.config.decoder_start_token_id

    def collate(rows: list[dict[str, list[int]]]) -> dict[str, Any]:
        sources = pad_sequence([torch.tensor(row["input_ids"]) for row in rows], True, pad)
        labels = pad_sequence([torch.tensor(row["labels"]) for row in rows], True, -100)
        # The trainer's label smoothing takes the labels away, so the decoder's input is made here.
        decoder = torch.cat([torch.full((len(rows), 1), start), labels[:, :-1].clamp(min=0)], dim=1)
        decoder[labels == -100] = pad
        mask = (sources != pad).long()
        return {"input_ids": sources, "attention_mask": mask, "decoder_input_ids": decoder, "labels": labels}

    arguments = library.Seq2SeqTrainingArguments(
        output_dir=settings["output"],
        max_steps=settings["steps"],
        per_device_train_batch_size=settings["batch"],
        train_sampling_strategy="group_by_length",
        label_smoothing_factor=settings["label_smoothing"],
        bf16=settings["precision"] == "bfloat16",
        use_cpu=True,
        optim="adamw_torch_fused",
        adam_beta2=0.98,
        weight_decay=0.01,
        learning_rate=settings["learning_rate"],
        save_strategy="no",
        report_to="none",
        logging_steps=1_000_000,
        remove_unused_columns=False,
        disable_tqdm=True,
    )
    library.Seq2SeqTrainer(model, arguments, collate, train_dataset=pairs).train()
