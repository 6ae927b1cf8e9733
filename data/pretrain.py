"""Make the demo's BERT: a small one that has read much Ostu and much Mirel, but no translation.

`python -m data.pretrain FOLDER` writes it, in about fifteen minutes on one core. As a real BERT, it reads texts of two
sentences of one language, of which some words are masked. Both sentences say the same, each in words of its own: real
texts repeat themselves, too, and show so which words may stand for each other. No sentence of the demo corpus is read.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import BertConfig, BertForMaskedLM

from kdcache.text.tokenizer import Tokenizer
from kdcache.text.vocabulary import from_corpus

from .generate import draw

SEED = 4
STEPS, WARMUP, TOKENS, RATE = 3_500, 350, 2_048, 1e-3
MASKED = 0.2
WIDTH, LAYERS, POSITIONS = 128, 3, 128


def batches(read: list[list[str]], tokenizer: Tokenizer) -> list[tuple[Tensor, Tensor]]:
    """Ids and segments of all texts, `[texts, length]` int64 each, texts of similar lengths together."""
    special = tokenizer.special
    rows = []
    for first, second in (tokenizer.encode(text) for text in read):
        ids = [special.start, *first, special.end, *second, special.end]
        rows.append((torch.tensor(ids), torch.tensor([0] * (len(first) + 2) + [1] * (len(second) + 1))))
    rows.sort(key=lambda row: len(row[0]))
    groups: list[list[tuple[Tensor, Tensor]]] = [[]]
    for row in rows:
        if (len(groups[-1]) + 1) * len(row[0]) > TOKENS:
            groups.append([])
        groups[-1].append(row)
    pad = torch.nn.utils.rnn.pad_sequence
    return [(pad([r[0] for r in g], True, special.pad), pad([r[1] for r in g], True, 0)) for g in groups]


def loss(model: BertForMaskedLM, ids: Tensor, segments: Tensor, tokenizer: Tokenizer) -> Tensor:
    """Cross entropy at words that are masked at random."""
    special = tokenizer.special
    masked = (torch.rand(ids.shape) < MASKED) & (ids != special.pad) & (ids != special.start)
    shown = ids.masked_fill(masked, special.mask)
    hidden = model.bert(shown, attention_mask=(ids != special.pad).long(), token_type_ids=segments).last_hidden_state
    return cross_entropy(model.cls(hidden[masked]), ids[masked])


def pretrain(folder: Path) -> None:
    """Read the texts and write the model into `folder`."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    read = draw()[1]
    tokenizer = from_corpus(sentence for text in read for sentence in text)
    config = BertConfig(
        vocab_size=tokenizer.size,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        max_position_embeddings=POSITIONS,
        initializer_range=0.05,
        pad_token_id=tokenizer.special.pad,
    )
    model = BertForMaskedLM(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), RATE, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(step / WARMUP, (STEPS - step) / (STEPS - WARMUP))
    )
    all_batches = batches(read, tokenizer)
    order: list[int] = []
    mean = 0.0
    for step in range(1, STEPS + 1):
        order = order or torch.randperm(len(all_batches)).tolist()
        value = loss(model, *all_batches[order.pop()], tokenizer)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        mean += (value.item() - mean) / min(step, 100)
        if step % 100 == 0:
            print(f"{step:,} of {STEPS:,} steps, loss {mean:.3f}", flush=True)
    model.half().save_pretrained(folder)
    tokenizer.save(folder, max_length=POSITIONS, segments=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m data.pretrain FOLDER")
    pretrain(Path(sys.argv[1]))
