"""A small random model of each family of transformers that has a masked-LM class, with its own kind of tokenizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from models import word_pieces
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, pre_tokenizers, processors
from tokenizers import models as backends
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from kdcache.text.tokenizer import SPECIAL_NAMES

# Much wider than what a model starts from, so that answers are far from uniform and depend on all that is read.
_SPREAD = 0.25
POSITIONS = 96

MakeTokenizer = Callable[[list[str]], Any]


def _defaults(name: str) -> dict[str, str]:
    """The special tokens of a tokenizer's class, by their names."""
    parameters = inspect.signature(getattr(transformers, name).__init__).parameters
    return {key: str(parameters[key].default) for key in SPECIAL_NAMES}


def _word_piece(name: str = "BertTokenizer") -> MakeTokenizer:
    def make(lines: list[str]) -> Any:
        own = {f"[{key.removesuffix('_token').upper()}]": text for key, text in _defaults(name).items()}
        pieces = {own.get(piece, piece): i for piece, i in word_pieces(lines).items()}
        return getattr(transformers, name)(vocab=pieces, do_lower_case=False, strip_accents=False)

    return make


def _byte_level(name: str = "RobertaTokenizer") -> MakeTokenizer:
    def make(_lines: list[str]) -> Any:
        own = _defaults(name)
        special = [own[key] for key in ("cls_token", "pad_token", "sep_token", "unk_token")]
        pieces = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), own["mask_token"]]
        return getattr(transformers, name)(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])

    return make


def _bert_on_bytes(_lines: list[str]) -> Any:
    """Byte-level pieces between BERT's special tokens, as ModernBERT has them."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = {p: i for i, p in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Backend(backends.BPE(vocab=pieces, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), special, strict=True)),
    )


def _unigram(name: str) -> MakeTokenizer:
    def make(lines: list[str]) -> Any:
        own = _defaults(name)
        special = [own[key] for key in ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")]
        characters = sorted({char for line in lines for char in line if not char.isspace()})
        pieces = dict.fromkeys(["▁", *characters, *(f"▁{char}" for char in characters)])
        scored = [(piece, -i / 10) for i, piece in enumerate(pieces, start=1)]
        return getattr(transformers, name)(vocab=[*((piece, 0.0) for piece in special), *scored])

    return make


_SHAPE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": POSITIONS,
}
_ROBERTA = _SHAPE | {"max_position_embeddings": POSITIONS + 2}
_SEQ2SEQ = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
    "max_position_embeddings": POSITIONS,
}
_XLM = {"emb_dim": 32, "n_layers": 2, "n_heads": 2, "max_position_embeddings": POSITIONS}
_ROTARY = _SHAPE | {"num_key_value_heads": 2, "head_dim": 16}

_VISION = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 16,
    "image_size": 32,
    "patch_size": 16,
}
_REFORMER = {
    "attn_layers": ["local", "lsh"],
    "hidden_size": 32,
    "feed_forward_size": 32,
    "num_attention_heads": 2,
    "attention_head_size": 16,
    "axial_pos_shape": [8, 16],
    "axial_pos_embds_dim": [8, 24],
    "local_attn_chunk_length": 8,
    "lsh_attn_chunk_length": 8,
    "num_buckets": 4,
    "max_position_embeddings": 128,
    "is_decoder": False,
}

# Name of the family: its tokenizer, and its configuration where that is not the common one.
FAMILIES: dict[str, tuple[MakeTokenizer, dict[str, Any]]] = {
    "albert": (_unigram("AlbertTokenizer"), _SHAPE | {"embedding_size": 16}),
    "bart": (_byte_level(), _SEQ2SEQ),
    "bert": (_word_piece(), _SHAPE),
    "big_bird": (_unigram("BigBirdTokenizer"), _SHAPE | {"block_size": 4, "num_random_blocks": 1}),
    "camembert": (_unigram("CamembertTokenizer"), _ROBERTA | {"type_vocab_size": 1}),
    "convbert": (_word_piece(), _SHAPE | {"embedding_size": 32}),
    "data2vec-text": (_byte_level(), _ROBERTA | {"type_vocab_size": 1}),
    "deberta": (_byte_level("DebertaTokenizer"), _SHAPE | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]}),
    "deberta-v2": (
        _unigram("DebertaV2Tokenizer"),
        _SHAPE | {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 16},
    ),
    "distilbert": (
        _word_piece(),
        {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64, "max_position_embeddings": POSITIONS},
    ),
    "electra": (_word_piece(), _SHAPE | {"embedding_size": 16}),
    "ernie": (_word_piece(), _SHAPE),
    "esm": (_word_piece(), _SHAPE | {"position_embedding_type": "rotary"}),
    "esmc": (_word_piece(), _ROTARY),
    "eurobert": (_bert_on_bytes, _ROTARY),
    "flaubert": (_word_piece(), _XLM),
    "fnet": (_unigram("FNetTokenizer"), _SHAPE | {"type_vocab_size": 4}),
    "funnel": (
        _word_piece("FunnelTokenizer"),
        {"block_sizes": [1, 1], "num_decoder_layers": 1, "d_model": 32, "n_head": 2, "d_head": 16, "d_inner": 64},
    ),
    "gte": (_unigram("XLMRobertaTokenizer"), _SHAPE),
    "ibert": (_byte_level(), _ROBERTA | {"type_vocab_size": 1}),
    "jina_embeddings_v3": (_unigram("XLMRobertaTokenizer"), _ROBERTA),
    "layoutlm": (_word_piece(), _SHAPE),
    "longformer": (_byte_level(), _ROBERTA | {"type_vocab_size": 1, "attention_window": [8, 8]}),
    "luke": (
        _byte_level("LukeTokenizer"),
        _ROBERTA | {"type_vocab_size": 1, "entity_vocab_size": 5, "entity_emb_size": 32},
    ),
    "mbart": (_unigram("MBartTokenizer"), _SEQ2SEQ),
    "megatron-bert": (_word_piece(), _SHAPE),
    "mobilebert": (_word_piece("MobileBertTokenizer"), _SHAPE | {"embedding_size": 16, "true_hidden_size": 16}),
    "modernbert": (_bert_on_bytes, _SHAPE | {"local_attention": 8}),
    "modernvbert": (_bert_on_bytes, {"text_config": _SHAPE | {"local_attention": 8}, "vision_config": _VISION}),
    "mpnet": (_word_piece("MPNetTokenizer"), _ROBERTA),
    "mra": (_byte_level(), _ROBERTA),
    "mvp": (_byte_level(), _SEQ2SEQ),
    "neomme": (_bert_on_bytes, _ROTARY | {"sliding_window": 4, "embedding_dim": 16}),
    "nomic_bert": (_word_piece(), _ROTARY),
    "nystromformer": (_unigram("AlbertTokenizer"), _SHAPE | {"num_landmarks": 8, "segment_means_seq_len": 8}),
    "perceiver": (_bert_on_bytes, {"d_model": 32, "d_latents": 32, "num_latents": 8, "num_self_attends_per_block": 1}),
    "reformer": (_bert_on_bytes, _REFORMER),
    "rembert": (_unigram("RemBertTokenizer"), _SHAPE | {"input_embedding_size": 16, "output_embedding_size": 48}),
    "roberta": (_byte_level(), _ROBERTA | {"type_vocab_size": 1}),
    "roberta-prelayernorm": (_byte_level(), _ROBERTA | {"type_vocab_size": 1}),
    "roc_bert": (_word_piece(), _SHAPE | {"pronunciation_embed_dim": 8, "shape_embed_dim": 8}),
    "roformer": (_word_piece(), _SHAPE | {"embedding_size": 32}),
    "squeezebert": (_word_piece(), _SHAPE | {"embedding_size": 32}),
    "tapas": (_word_piece(), _SHAPE),
    "ultrabert": (_bert_on_bytes, _ROTARY | {"sliding_window": 4, "prediction_head_size": 32}),
    "ultravbert": (
        _bert_on_bytes,
        {"text_config": _ROTARY | {"sliding_window": 4, "prediction_head_size": 32}, "vision_config": _VISION},
    ),
    "xlm": (_word_piece(), _XLM),
    "xlm-roberta": (_unigram("XLMRobertaTokenizer"), _ROBERTA | {"type_vocab_size": 1}),
    "xlm-roberta-xl": (_unigram("XLMRobertaTokenizer"), _ROBERTA),
    "xmod": (
        _unigram("XLMRobertaTokenizer"),
        _ROBERTA | {"type_vocab_size": 1, "languages": ["en_XX"], "default_language": "en_XX"},
    ),
    "yoso": (_unigram("AlbertTokenizer"), _ROBERTA | {"use_expectation": True}),
}


def save_family(name: str, folder: Path, lines: list[str] | None = None) -> Path:
    """The small model of one family as the library itself saves one."""
    make_tokenizer, settings = FAMILIES[name]
    tokenizer = make_tokenizer(lines or [])
    words: dict[str, Any] = {"vocab_size": len(tokenizer)}
    words |= {f"{key}_token_id": getattr(tokenizer, f"{key}_token_id") for key in ("pad", "bos", "eos", "mask")}
    if "text_config" in settings:
        settings = settings | {"text_config": {**settings["text_config"], **words}}
    config = CONFIG_MAPPING[name](**settings, **words)
    torch.manual_seed(7)
    model = AutoModelForMaskedLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=_SPREAD)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
