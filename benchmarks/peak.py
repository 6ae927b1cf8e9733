"""How many operations a forward pass takes, and how many a second the device can do at best."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import torch
from transformers import PretrainedConfig

from benchmarks.report import seconds
from kdcache.teacher.masking import MaskedViews

_SIDES = {"cpu": 2_048, "cuda": 8_192}
_RUNS = 5


def forward_operations(config: PretrainedConfig, batches: Iterable[MaskedViews]) -> int:
    """Multiplications and additions in the matrix products of a BERT: encoder, and head at the masked positions."""
    width, inner = config.hidden_size, config.intermediate_size
    total = 0
    for views in batches:
        rows, length = views.input_ids.shape
        # Four projections, two feed-forward layers, and twice every position with every other.
        encoder = rows * length * (4 * width * width + 2 * width * inner + 2 * length * width)
        head = len(views.masked) * (width * width + width * config.vocab_size)
        total += 2 * (config.num_hidden_layers * encoder + head)
    return total


def operations_per_second(device: torch.device, precision: str) -> float:
    """Of one large matrix product in `precision`, the median of some."""
    side = _SIDES[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=getattr(torch, precision)) for _ in range(2))

    def product() -> None:
        one @ other
        if device.type == "cuda":
            torch.cuda.synchronize()

    product()
    return 2 * side**3 / statistics.median(seconds(product) for _ in range(_RUNS))
