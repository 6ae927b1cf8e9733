"""What the RNN student is made of: the encoder, the decoder with its attention, and what the decoder remembers.

The equations stand in `kdcache.student.rnn`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedConfig
from transformers.modeling_outputs import BaseModelOutput

from kdcache.student.padding import padded_states


class RnnConfig(PreTrainedConfig):  # type: ignore[no-untyped-call]
    """Dimensions of an `RnnForConditionalGeneration`.

    Attributes:
        vocab_size: words.
        d_model: width of embeddings and of the decoder's states; each direction of the encoder has half of it.
        num_hidden_layers: LSTM layers on each side.
        dropout: of embeddings, between layers, and of the attentional vector.
    """

    model_type = "kdcache-rnn"
    vocab_size: int = 8_000
    d_model: int = 512
    num_hidden_layers: int = 2
    dropout: float = 0.1
    is_encoder_decoder: bool = True
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | None = None
    decoder_start_token_id: int | None = None


@dataclass
class DecoderState:
    """What the decoder remembers, for each row of a batch.

    *Shape:* hidden and cell `[layers, rows, width]`, attentional `[rows, width]`.
    """

    hidden: Tensor
    cell: Tensor
    attentional: Tensor
    length: int = 0

    def reorder_cache(self, rows: Tensor) -> None:
        """Keep the given rows, in that order: what beam search asks of a cache."""
        self.hidden, self.cell = self.hidden.index_select(1, rows), self.cell.index_select(1, rows)
        self.attentional = self.attentional.index_select(0, rows)

    def get_seq_length(self, _layer: int = 0) -> int:
        """Words that were read."""
        return self.length


def scaled(embedding: nn.Embedding, input_ids: Tensor) -> Tensor:
    """Embeddings times √width: the output layer, which shares them, needs them as small as they are initialised."""
    embedded: Tensor = embedding(input_ids)
    return embedded * math.sqrt(embedding.embedding_dim)


class RnnEncoder(nn.Module):
    """Embeddings and a bidirectional LSTM."""

    main_input_name = "input_ids"

    def __init__(self, config: RnnConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        self.embed_tokens = embed_tokens
        self.dropout = nn.Dropout(config.dropout)
        self.lstm = nn.LSTM(
            config.d_model,
            config.d_model // 2,
            config.num_hidden_layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.num_hidden_layers > 1 else 0.0,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, **_ignored: Any) -> BaseModelOutput:
        """States of both directions side by side: `[rows, S]` to `[rows, S, width]`; padding, anywhere, becomes 0."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        states = padded_states(self.lstm, self._embed, input_ids, mask)
        return BaseModelOutput(last_hidden_state=states)

    def _embed(self, input_ids: Tensor) -> Tensor:
        embedded: Tensor = self.dropout(scaled(self.embed_tokens, input_ids))
        return embedded


class RnnDecoder(nn.Module):
    """LSTM cells, attention over the encoder's states, and the attentional vectors that they give."""

    def __init__(self, config: RnnConfig, embed_tokens: nn.Embedding) -> None:
        super().__init__()
        width = config.d_model
        self.embed_tokens = embed_tokens
        self.dropout = nn.Dropout(config.dropout)
        inputs = [2 * width, *[width] * (config.num_hidden_layers - 1)]
        self.cells = nn.ModuleList(nn.LSTMCell(size, width) for size in inputs)
        self.bridge = nn.Linear(width, 2 * width * config.num_hidden_layers)
        self.score = nn.Linear(width, width, bias=False)
        self.combine = nn.Linear(2 * width, width, bias=False)

    def start(self, states: Tensor, mask: Tensor) -> DecoderState:
        """The state before the first word, from the mean of the encoder's states."""
        weights = mask.to(states.dtype)
        mean = (states * weights[:, :, None]).sum(dim=1) / weights.sum(dim=1, keepdim=True)
        hidden, cell = self.bridge(mean).to(states.dtype).unflatten(1, (2, len(self.cells), -1)).permute(1, 2, 0, 3)
        return DecoderState(torch.tanh(hidden), cell, torch.zeros_like(mean))

    def forward(
        self, input_ids: Tensor, states: Tensor, mask: Tensor, state: DecoderState
    ) -> tuple[Tensor, DecoderState]:
        """Attentional vectors after each word `[rows, N]`: `[rows, N, width]`, and the state after the last."""
        keys = self.score(states)
        padding = torch.zeros(mask.shape, device=keys.device).masked_fill(mask == 0, -torch.inf)
        embedded = self.dropout(scaled(self.embed_tokens, input_ids))
        hidden, cell = list(state.hidden), list(state.cell)
        attentional, found = state.attentional, []
        for step in range(input_ids.shape[1]):
            below = torch.cat([embedded[:, step], attentional], dim=-1)
            # In bfloat16 a GPU would keep the states, and add up the weights' gradients over the words, too roughly.
            with torch.autocast(below.device.type, enabled=False):
                for layer, lstm in enumerate(self.cells):
                    hidden[layer], cell[layer] = lstm(below, (hidden[layer], cell[layer]))
                    below = self.dropout(hidden[layer])
            scores = torch.bmm(keys, below[:, :, None])[:, :, 0]
            weights = functional.softmax(scores + padding, dim=-1, dtype=torch.float32).to(states.dtype)
            context = torch.bmm(weights[:, None], states)[:, 0]
            attentional = self.dropout(torch.tanh(self.combine(torch.cat([context, below], dim=-1))))
            found.append(attentional)
        length = state.length + input_ids.shape[1]
        return torch.stack(found, dim=1), DecoderState(torch.stack(hidden), torch.stack(cell), attentional, length)
