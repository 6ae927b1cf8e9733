"""The Transformer student: `M2M100ForConditionalGeneration` of the transformers library, built from a config.

That class is the Transformer of the translation toolkits: pre-layer-norm, sinusoidal positions, embeddings scaled by
√d and shared by encoder, decoder and output.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, M2M100Config, M2M100ForConditionalGeneration

from kdcache.batches import Batch
from kdcache.errors import ModelError
from kdcache.losses.projection import OutputLayer
from kdcache.records import read_json
from kdcache.student.config import SIZES
from kdcache.tokens import Tokenizer

POSITIONS = 1_024
MAX_TARGET = 256


class Student:
    """A sequence-to-sequence model and its tokenizer.

    Attributes:
        model: an `AutoModelForSeq2SeqLM`.
        tokenizer: that of the cache it learned from.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @property
    def output_layer(self) -> OutputLayer:
        """The product with the vocabulary matrix, which `hidden` leaves to the loss."""
        layer = self.model.get_output_embeddings()
        return OutputLayer(layer.weight, layer.bias)

    @property
    def width(self) -> int:
        """Size of the hidden states."""
        return int(self.model.config.d_model)

    @property
    def module(self) -> nn.Module:
        """The model as a plain module."""
        module: nn.Module = self.model
        return module

    def hidden(self, batch: Batch) -> Tensor:
        """Decoder states at the target positions: `[targets, width]`."""
        # Padding of the decoder's input lies to the right, where a causal model does not look.
        output = self.model.model(
            input_ids=batch.source_ids, attention_mask=batch.source_mask, decoder_input_ids=batch.decoder_ids
        )
        states: Tensor = output.last_hidden_state
        return states.reshape(-1, states.shape[-1])[batch.positions]

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder: `AutoModelForSeq2SeqLM` and `AutoTokenizer` open it."""
        self.model.save_pretrained(folder)
        self.tokenizer.save(folder, max_length=POSITIONS, segments=False)


def build_transformer(size: str, tokenizer: Tokenizer, vocabulary: int, dropout: float, seed: int) -> Student:
    """A fresh student: deterministic, given its arguments. `vocabulary` is the teacher's output size."""
    torch.manual_seed(seed)
    shape, special = SIZES[size], tokenizer.special
    config = M2M100Config(
        vocab_size=vocabulary,
        d_model=shape.width,
        encoder_layers=shape.layers,
        decoder_layers=shape.layers,
        encoder_attention_heads=shape.heads,
        decoder_attention_heads=shape.heads,
        encoder_ffn_dim=shape.feed_forward,
        decoder_ffn_dim=shape.feed_forward,
        dropout=dropout,
        attention_dropout=dropout,
        activation_dropout=0.0,
        encoder_layerdrop=0.0,
        decoder_layerdrop=0.0,
        init_std=shape.width**-0.5,
        max_position_embeddings=POSITIONS,
        pad_token_id=special.pad,
        bos_token_id=special.start,
        eos_token_id=special.end,
        decoder_start_token_id=special.start,
    )
    model = M2M100ForConditionalGeneration(config)
    _initialise(model)
    # Explicit: the library's default stops at 20 tokens.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_length=MAX_TARGET,
        num_beams=4,
        pad_token_id=special.pad,
        bos_token_id=special.start,
        eos_token_id=special.end,
        decoder_start_token_id=special.start,
    )
    return Student(model, tokenizer)


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    """Glorot-uniform matrices (Glorot and Bengio 2010), as the translation toolkits do; embeddings stay d^-0.5."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.shape[0] != getattr(model.config, "vocab_size", 0):
            nn.init.xavier_uniform_(module.weight)


def load_student(folder: Path) -> Student:
    """Open a trained student.

    Raises:
        ModelError: the folder does not hold one.
    """
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no student here (no config.json). Make one with kdcache student-train.")
    if (kind := read_json(folder / "config.json").get("model_type")) != M2M100Config.model_type:
        raise ModelError(f"{folder}: holds a model of type {kind}, no student. Make one with kdcache student-train.")
    try:
        model = M2M100ForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    except Exception as error:  # the library raises many kinds
        raise ModelError(f"{folder}: cannot be opened as a student: {str(error).splitlines()[0]}") from error
    return Student(model, Tokenizer.load(folder))
