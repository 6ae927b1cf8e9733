"""The teacher before training: a checkpoint with its vocabulary trimmed, or a small BERT with random weights."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM

from kdcache.errors import ModelError, UsageError
from kdcache.files.locations import utf8_folder
from kdcache.files.run_records import log
from kdcache.teacher.masked_lm import Teacher
from kdcache.teacher.open_checkpoint import check_place, open_failure, open_masked_lm
from kdcache.teacher.teacher_config import SCRATCH
from kdcache.text import vocabulary
from kdcache.text.corpus import Corpus
from kdcache.text.tokenizer import SPECIAL_NAMES, Tokenizer

_SCRATCH_WIDTH = 128


def prepare_teacher(bert: str, corpus: Corpus, *, trim_vocab: bool, seed: int) -> Teacher:
    """Make the teacher that training starts from: deterministic, given the checkpoint, the corpus and the seed.

    Raises:
        UsageError: an unknown `scratch:` name.
        ModelError: the checkpoint or its tokenizer cannot be used.
    """
    torch.manual_seed(seed)
    if bert.startswith("scratch:"):
        if bert != SCRATCH:
            raise UsageError(f"--bert {bert}: unknown; the only teacher from nothing is {SCRATCH}.")
        return _scratch(corpus)
    check_place(bert, "--bert")
    tokenizer = open_tokenizer(bert)
    model, missing = open_masked_lm(bert, "--bert")
    if tokenizer.size > model.config.vocab_size:
        raise ModelError(f"--bert {bert}: {tokenizer.size} pieces, but the model has {model.config.vocab_size} rows.")
    if missing:
        log.warning("%s has no trained masked-LM head. Newly initialised, to be trained: %s.", bert, ", ".join(missing))
    if not trim_vocab:
        return Teacher(model, tokenizer)
    if tokenizer.kind != "WordPiece":
        log.warning(
            "The vocabulary is %s, not WordPiece: it is kept whole (%s pieces).", tokenizer.kind, tokenizer.size
        )
        return Teacher(model, tokenizer)
    trimmed, kept, shares = vocabulary.trim(tokenizer, _texts(corpus))
    log.info("Vocabulary trimmed from %s to %s pieces.", f"{tokenizer.size:,}", f"{trimmed.size:,}")
    _keep_rows(model, kept, shares, trimmed)
    return Teacher(model, trimmed)


def _texts(corpus: Corpus) -> Iterator[str]:
    return (text for pair in corpus.read() if pair is not None for text in (pair.source, pair.target))


def _scratch(corpus: Corpus) -> Teacher:
    tokenizer = vocabulary.from_corpus(_texts(corpus))
    log.info("A BERT from nothing with a vocabulary of %s pieces made from the text.", f"{tokenizer.size:,}")
    config = BertConfig(
        vocab_size=tokenizer.size,
        hidden_size=_SCRATCH_WIDTH,
        # As BERT-Tiny (Turc et al. 2019): deeper, it takes longer to learn anything from nothing.
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=512,
        max_position_embeddings=512,
        # BERT's 0.02 belongs to a width of 768; with it a narrow model takes about half as long again to learn.
        initializer_range=0.02 * (768 / _SCRATCH_WIDTH) ** 0.5,
        pad_token_id=tokenizer.special.pad,
    )
    model = BertForMaskedLM(config)
    return Teacher(model, tokenizer)


@torch.no_grad()
def _keep_rows(model: Any, kept: npt.NDArray[np.int64], shares: npt.NDArray[np.float64], tokenizer: Tokenizer) -> None:
    """Make row i of the embedding and of the output layer what row `kept[i]` was.

    Added to the bias, the logarithms `shares` divide a word's probability among the pieces that have its row.
    """
    rows = torch.from_numpy(kept)
    wanted = [None if weight is None else weight[rows].clone() for weight in _vocabulary_weights(model)]
    if wanted[-1] is not None:
        wanted[-1] += torch.from_numpy(shares)
    model.resize_token_embeddings(len(rows))
    for weight, row_values in zip(_vocabulary_weights(model), wanted, strict=True):
        if row_values is not None:
            weight.copy_(row_values)
    resized = model.get_output_embeddings()
    if resized.bias is not None and not getattr(model.config, "tie_word_embeddings", True):
        # Resizing ties the bias to another name, which saving then drops and loading does not bring back.
        resized.bias = torch.nn.Parameter(resized.bias.clone())
    model.config.pad_token_id = tokenizer.special.pad


def _vocabulary_weights(model: Any) -> tuple[Any, Any, Any]:
    """What has a row for each piece: the embedding, and the output layer's weight and bias (None where it has none)."""
    output = model.get_output_embeddings()
    return model.get_input_embeddings().weight, output.weight, output.bias


def open_tokenizer(name: str) -> Tokenizer:
    """Open the tokenizer of a hub name or folder.

    Raises:
        ModelError: it cannot be found, has no vocabulary, or is not of the fast kind that kdcache works with.
    """
    try:
        with utf8_folder(Path(name)) as place:
            opened = AutoTokenizer.from_pretrained(str(place))
    except Exception as error:  # the hub client and the library raise many kinds
        raise ModelError(open_failure(name, "--bert", error)) from error
    try:
        # Some have no such form, and others hold parts in Python that cannot be written.
        definition = json.loads(opened.backend_tokenizer.to_str())
    except Exception as error:
        raise ModelError(f"--bert {name}: its tokenizer has no tokenizer.json form, which kdcache needs.") from error
    names = {key: str(text) for key in SPECIAL_NAMES if (text := getattr(opened, key, None)) is not None}
    for token in definition["added_tokens"]:
        # Only the five are structure, which text must not spell; any other is a word that a text may hold.
        token["special"] = token["content"] in names.values()
    tokenizer = Tokenizer(definition, names)
    if tokenizer.size <= len(tokenizer.definition["added_tokens"]):
        # The library makes a tokenizer of the special tokens alone where a folder holds none.
        raise ModelError(f"--bert {name}: has no vocabulary: no tokenizer.json, vocab.txt or the like is beside it.")
    return tokenizer
