"""The Transformer student: `M2M100ForConditionalGeneration` of the transformers library, built from a config.

That class is the Transformer of the translation toolkits: pre-layer-norm, sinusoidal positions, embeddings scaled by
√d and shared by encoder, decoder and output.
"""

from typing import Any

import torch
from torch import nn
from transformers import M2M100Config, M2M100ForConditionalGeneration

from kdcache.student.student_config import POSITIONS, Size
from kdcache.text.encoded_pairs import SpecialIds
from kdcache.training.batches import Batch

MODEL_TYPE: str = M2M100Config.model_type


def build_transformer(
    shape: Size, special: SpecialIds, vocabulary: int, dropout: float
) -> M2M100ForConditionalGeneration:
    """A fresh model; the state of the random number generator decides its parameters."""
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
    return model


def inputs(batch: Batch) -> dict[str, Any]:
    """The arguments of the model's encoder and decoder in training.

    Given masks of [pairs, S], the library asks the device whether they mask anything, and the host waits for the
    answer. It takes masks of four dimensions as they are. Padding of the decoder's input is on the right, where a
    causal mask does not look.
    """
    n = batch.decoder_ids.shape[1]
    causal = torch.ones((n, n), dtype=torch.bool, device=batch.decoder_ids.device).tril()
    return {
        "input_ids": batch.source_ids,
        "attention_mask": batch.source_mask.bool()[:, None, None],
        "decoder_input_ids": batch.decoder_ids,
        "decoder_attention_mask": causal[None, None],
        "use_cache": False,
    }


@torch.no_grad()
def _initialise(model: nn.Module) -> None:
    """Glorot-uniform matrices (Glorot and Bengio 2010), as the translation toolkits do; embeddings stay d^-0.5."""
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.shape[0] != getattr(model.config, "vocab_size", 0):
            nn.init.xavier_uniform_(module.weight)
