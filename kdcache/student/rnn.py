"""The RNN student: a bidirectional LSTM encoder and an LSTM decoder with attention and input feeding.

With x_t the embedding of the decoder's input word, h̃_{t-1} the attentional vector before it and h̄_s the encoder's
states:

- h_t = LSTM([x_t; h̃_{t-1}])                       (input feeding, section 3.3)
- a_t(s) = softmax_s(h_tᵀ W_a h̄_s)                 (general score, equation 8)
- h̃_t = tanh(W_c [Σ_s a_t(s) h̄_s; h_t])           (equation 5)
- P(w) = softmax(E h̃_t), E the embeddings, which encoder, decoder and output share; x_t = √width · E_{y_t-1}

after Luong, Pham and Manning, *Effective Approaches to Attention-based Neural Machine Translation*, EMNLP 2015. The
decoder starts from the mean of the encoder's states. The library has no such model, so a saved folder opens with
`AutoModelForSeq2SeqLM` once `kdcache.student.rnn` was imported.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput

from kdcache.student.rnn_layers import DecoderState, RnnConfig, RnnDecoder, RnnEncoder
from kdcache.student.student_config import RnnSize
from kdcache.text.encoded_pairs import SpecialIds
from kdcache.training.batches import Batch


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
        found = self.model(input_ids, attention_mask, decoder_input_ids, encoder_outputs, past_key_values)
        return Seq2SeqLMOutput(
            logits=self.lm_head(found.last_hidden_state),
            past_key_values=found.past_key_values,
            encoder_last_hidden_state=found.encoder_last_hidden_state,
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


def inputs(batch: Batch) -> dict[str, Any]:
    """What the model's encoder and decoder take in training."""
    return {
        "input_ids": batch.source_ids,
        "attention_mask": batch.source_mask,
        "decoder_input_ids": batch.decoder_ids,
    }


def build_rnn(shape: RnnSize, special: SpecialIds, vocabulary: int, dropout: float) -> RnnForConditionalGeneration:
    """A fresh model; the state of the random number generator decides its parameters."""
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


AutoConfig.register(RnnConfig.model_type, RnnConfig)
AutoModelForSeq2SeqLM.register(RnnConfig, RnnForConditionalGeneration)
