"""The RNN student: a bidirectional LSTM encoder and an LSTM decoder with attention and input feeding.

With x_t the embedding of the decoder's input word, h̃_{t-1} the attentional vector before it and h̄_s the encoder's
states:

- h_t = LSTM([x_t; h̃_{t-1}])                       (input feeding, section 3.3)
- a_t(s) = softmax_s(h_tᵀ W_a h̄_s)                 (general score, equation 8)
- h̃_t = tanh(W_c [Σ_s a_t(s) h̄_s; h_t])           (equation 5)
- P(w) = softmax(E h̃_t), E the embeddings, which encoder, decoder and output share; x_t = √width · E_{y_t-1}

after Luong, Pham and Manning, *Effective Approaches to Attention-based Neural Machine Translation*, EMNLP 2015. The
decoder starts from the mean of the encoder's states.

The library has no such model. So it copies this file, which therefore imports nothing of kdcache, into the folder of
each student that is saved, and runs the copy with `trust_remote_code=True`. Once `kdcache.student.rnn` was imported,
`AutoModelForSeq2SeqLM` opens the folder with the classes here, and never with the copy.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput


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
    """The state of the decoder for each row of a batch.

    *Shape:* hidden and cell `[layers, rows, width]`, attentional `[rows, width]`.
    """

    hidden: Tensor
    cell: Tensor
    attentional: Tensor
    length: int = 0

    def reorder_cache(self, rows: Tensor) -> None:
        """Keep the given rows, in that order; beam search calls this."""
        self.hidden, self.cell = self.hidden.index_select(1, rows), self.cell.index_select(1, rows)
        self.attentional = self.attentional.index_select(0, rows)

    def get_seq_length(self, _layer: int = 0) -> int:
        """Words that were read."""
        return self.length


def scaled(embedding: nn.Embedding, input_ids: Tensor) -> Tensor:
    """Embeddings times √width: the output layer, which shares them, needs them as small as they are initialised."""
    embedded: Tensor = embedding(input_ids)
    return embedded * math.sqrt(embedding.embedding_dim)


def _padded_states(lstm: nn.LSTM, embed: Callable[[Tensor], Tensor], input_ids: Tensor, mask: Tensor) -> Tensor:
    """States `[rows, S, width]` of the words `[rows, S]` that `mask` (0 is padding, wherever it stands) leaves; else 0.

    Each row must have a word. `lstm` has `batch_first`, and sees a row's words alone, one behind the other.
    """
    present = mask != 0
    at_right = (present[:, 1:] <= present[:, :-1]).all(dim=1)
    # Sorted as PyTorch itself would, since the order decides which units dropout drops between the layers.
    lengths, rows = torch.sort(present.sum(dim=1), descending=True)
    # One transfer brings all that the host needs; several would keep a GPU waiting.
    lengths, padded_at_right = torch.stack([lengths, at_right.long()]).cpu()
    if padded_at_right.all():
        return _sorted_states(lstm, embed(input_ids), lengths, rows)
    order = torch.argsort(present.long(), dim=1, descending=True, stable=True)
    states = _sorted_states(lstm, embed(input_ids.gather(1, order)), lengths, rows)
    return states.gather(1, order.argsort(dim=1)[:, :, None].expand_as(states))


def _sorted_states(lstm: nn.LSTM, embedded: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
    """The backward direction begins at the last word, not at padding. `rows`, the longest first, have `lengths`."""
    # On a GPU autocast runs an LSTM in float16, even where bfloat16 was asked for, and gradients overflow.
    with torch.autocast(embedded.device.type, enabled=False):
        # Sorted here, since packing would send the order to the GPU and fetch it back, and the host waits both times.
        packed = pack_padded_sequence(embedded.index_select(0, rows), lengths, batch_first=True)
        states, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=embedded.shape[1])
    return states.index_select(0, rows.argsort())


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
        states = _padded_states(self.lstm, self._embed, input_ids, mask)
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
        attentional, vectors = state.attentional, []
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
            vectors.append(attentional)
        length = state.length + input_ids.shape[1]
        return torch.stack(vectors, dim=1), DecoderState(torch.stack(hidden), torch.stack(cell), attentional, length)


class RnnModel(nn.Module):
    """Encoder and decoder with shared embeddings."""

    def __init__(self, config: RnnConfig) -> None:
        super().__init__()
        self.shared = nn.Embedding(config.vocab_size, config.d_model, padding_idx=config.pad_token_id)
        self.encoder = RnnEncoder(config, self.shared)
        self.decoder = RnnDecoder(config, self.shared)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: DecoderState | None = None,
    ) -> Seq2SeqModelOutput:
        """The decoder's attentional vectors for `decoder_input_ids` `[rows, N]`: `[rows, N, width]`."""
        if encoder_outputs is None:
            encoder_outputs = self.encoder(input_ids, attention_mask)
        states: Any = encoder_outputs.last_hidden_state
        mask = torch.ones(states.shape[:2], device=states.device) if attention_mask is None else attention_mask
        before = self.decoder.start(states, mask) if past_key_values is None else past_key_values
        vectors, after = self.decoder(decoder_input_ids, states, mask, before)
        return Seq2SeqModelOutput(last_hidden_state=vectors, past_key_values=after, encoder_last_hidden_state=states)


class RnnForConditionalGeneration(PreTrainedModel, GenerationMixin):
    """The model with its output layer; `generate` works as for any model of the library."""

    config_class = RnnConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    _tied_weights_keys = {  # noqa: RUF012
        "model.encoder.embed_tokens.weight": "model.shared.weight",
        "model.decoder.embed_tokens.weight": "model.shared.weight",
        "lm_head.weight": "model.shared.weight",
    }

    def __init__(self, config: RnnConfig) -> None:
        super().__init__(config)
        self.model = RnnModel(config)
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_encoder(self, *_modality: Any) -> nn.Module:
        """The encoder, which `generate` runs once."""
        encoder: nn.Module = self.model.encoder
        return encoder

    def get_input_embeddings(self) -> nn.Module:
        """The shared embeddings."""
        shared: nn.Module = self.model.shared
        return shared

    def get_output_embeddings(self) -> nn.Module:
        """The output layer."""
        layer: nn.Module = self.lm_head
        return layer

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        decoder_input_ids: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        past_key_values: DecoderState | None = None,
        return_dict: bool = True,
    ) -> Seq2SeqLMOutput:
        """Logits `[rows, N, vocabulary]` of the words after `decoder_input_ids` `[rows, N]`.

        `generate` gives `return_dict`; what is returned is always such an object.
        """
        output = self.model(input_ids, attention_mask, decoder_input_ids, encoder_outputs, past_key_values)
        return Seq2SeqLMOutput(
            logits=self.lm_head(output.last_hidden_state),
            past_key_values=output.past_key_values,
            encoder_last_hidden_state=output.encoder_last_hidden_state,
        )

    def prepare_inputs_for_generation(  # type: ignore[override]
        self,
        input_ids: Tensor,
        past_key_values: DecoderState | None = None,
        attention_mask: Tensor | None = None,
        encoder_outputs: BaseModelOutput | None = None,
        **_ignored: Any,
    ) -> dict[str, Any]:
        """Once there is a state, only the last word is new."""
        return {
            "decoder_input_ids": input_ids if past_key_values is None else input_ids[:, -1:],
            "past_key_values": past_key_values,
            "attention_mask": attention_mask,
            "encoder_outputs": encoder_outputs,
        }

    @classmethod
    def _supports_default_dynamic_cache(cls) -> bool:
        # The library would otherwise prepare a cache for keys and values of self-attention.
        return False

    def _init_weights(self, module: nn.Module) -> None:
        """Embeddings with deviation d^-0.5, Glorot-uniform matrices, forget gates open (Jozefowicz et al. 2015)."""
        if isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=module.embedding_dim**-0.5)
            if module.padding_idx is not None:
                nn.init.zeros_(module.weight[module.padding_idx])
        elif isinstance(module, nn.Linear) and module is not self.lm_head:
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM | nn.LSTMCell):
            for name, parameter in module.named_parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
                else:
                    nn.init.zeros_(parameter)
                    if "bias_ih" in name:
                        nn.init.ones_(parameter.chunk(4)[1])


RnnConfig.register_for_auto_class()  # type: ignore[no-untyped-call]
RnnForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")  # type: ignore[no-untyped-call]
# The copy in a student's folder is no part of this package, and must not take its place.
if __name__ == "kdcache.student.rnn":
    AutoConfig.register(RnnConfig.model_type, RnnConfig)
    AutoModelForSeq2SeqLM.register(RnnConfig, RnnForConditionalGeneration)
