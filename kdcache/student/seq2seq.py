"""A student, of any architecture: a sequence-to-sequence model and its tokenizer."""

from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from kdcache.errors import ModelError
from kdcache.files.hub import local_folder
from kdcache.files.locations import utf8_folder
from kdcache.files.strict_json import read_json
from kdcache.losses.projection import OutputLayer
from kdcache.student import transformer
from kdcache.student.rnn import RnnConfig, RnnForConditionalGeneration
from kdcache.student.student_config import POSITIONS, RNN_SIZES, SIZES, RnnSize
from kdcache.text.encoded_pairs import SpecialIds
from kdcache.text.tokenizer import Tokenizer
from kdcache.training.batches import Batch
from kdcache.training.checkpoint import save_model

_TYPES = (transformer.MODEL_TYPE, RnnConfig.model_type)


class Student:
    """A sequence-to-sequence model and its tokenizer.

    Attributes:
        model: an `AutoModelForSeq2SeqLM`.
        tokenizer: that of the cache it learned from.
    """

    def __init__(self, model: Any, tokenizer: Tokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def load(cls, folder: Path | str) -> Self:
        """Open a trained student: a folder, or `hf://OWNER/NAME` on the Hugging Face hub.

        Raises:
            ModelError: the folder does not hold one.
        """
        folder = local_folder(str(folder))
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{folder}: no student here (no config.json). Make one with kdcache student-train; one on the "
                "Hugging Face hub is hf://OWNER/NAME."
            )
        if (kind := read_json(folder / "config.json").get("model_type")) not in _TYPES:
            raise ModelError(f"{folder}: a model of type {kind}, no student. Make one with kdcache student-train.")
        try:
            with utf8_folder(folder) as place:
                model = AutoModelForSeq2SeqLM.from_pretrained(place, dtype=torch.float32)
        except Exception as error:  # the library raises many kinds
            raise ModelError(f"{folder}: cannot be opened as a student: {str(error).splitlines()[0]}") from error
        return cls(model, Tokenizer.load(folder))

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
    def positions(self) -> int:
        """Tokens that a source or a target may have at most, start and end included."""
        return int(getattr(self.model.config, "max_position_embeddings", POSITIONS))

    @property
    def max_length(self) -> int:
        """Tokens of a text that it writes, start and end included, at most: transformers' `max_length`."""
        return int(self.model.generation_config.max_length or self.positions)

    def limit_length(self, longest: int) -> None:
        """Let texts be half as long again as the longest target, of `longest` tokens with its end, and not longer."""
        self.model.generation_config.max_length = min(self.positions, 1 + longest + longest // 2)

    @property
    def module(self) -> nn.Module:
        """The model as a plain module."""
        module: nn.Module = self.model
        return module

    def hidden(self, batch: Batch) -> Tensor:
        """Decoder states at the target positions: `[targets, width]`."""
        transformer_like = self.model.config.model_type == transformer.MODEL_TYPE
        inputs = transformer.inputs(batch) if transformer_like else _rnn_inputs(batch)
        states: Tensor = self.model.model(**inputs).last_hidden_state
        return states.reshape(-1, states.shape[-1])[batch.positions]

    def save(self, folder: Path) -> None:
        """Write an ordinary Hugging Face folder: `AutoModelForSeq2SeqLM` and `AutoTokenizer` open it."""
        save_model(self.model, folder)
        self.tokenizer.save(folder, max_length=self.positions, segments=False)


def build_student(
    arch: str, size: str, tokenizer: Tokenizer, vocabulary: int, dropout: float, seed: int, positions: int = POSITIONS
) -> Student:
    """A fresh student: deterministic, given its arguments. `vocabulary` is the teacher's output size."""
    torch.manual_seed(seed)
    if arch == "rnn":
        model: Any = _build_rnn(RNN_SIZES[size], tokenizer.special, vocabulary, dropout)
    else:
        model = transformer.build_transformer(SIZES[size], tokenizer.special, vocabulary, dropout)
    if positions > POSITIONS:
        # No parameters depend on it: the Transformer's table of sines is computed, and the RNN needs none.
        model.config.max_position_embeddings = positions
    special = tokenizer.special
    # Explicit: the library's default stops at 20 tokens. Training replaces the limit by one for its text.
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        max_length=positions,
        num_beams=4,
        pad_token_id=special.pad,
        bos_token_id=special.start,
        eos_token_id=special.end,
        decoder_start_token_id=special.start,
    )
    return Student(model, tokenizer)


def _build_rnn(shape: RnnSize, special: SpecialIds, vocabulary: int, dropout: float) -> RnnForConditionalGeneration:
    config = RnnConfig(
        vocab_size=vocabulary,
        d_model=shape.width,
        num_hidden_layers=shape.layers,
        dropout=dropout,
        pad_token_id=special.pad,
        bos_token_id=special.start,
        eos_token_id=special.end,
        decoder_start_token_id=special.start,
    )
    return RnnForConditionalGeneration(config)


def _rnn_inputs(batch: Batch) -> dict[str, Any]:
    return {
        "input_ids": batch.source_ids,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": batch.decoder_ids,
    }
