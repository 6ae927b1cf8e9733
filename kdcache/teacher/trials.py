"""Trying out a masked language model before it teaches: how long a view it takes, and what its answers depend on."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from kdcache.compute.device import is_out_of_memory
from kdcache.teacher.masking import MaskedViews
from kdcache.text.tokenizer import Tokenizer

# Longer than the windows, blocks and convolutions of the library's models reach; a longer view is only run once.
LONG = 1_024
SHORT = 16
# Prime, so that a model which works in blocks has to pad it.
ODD = 61
_SEED = 0
# Positions whose answers are compared at each end of a view and, evenly spread, between them.
_COMPARED = 16
# Noise of float32 on a CPU, with reserve; what a neighbour changes is more than the whole spread.
EXACT = 1e-3
# The same of a run's precision, on any device: TF32 in convolutions, bfloat16 in all products.
ROUNDED = {"float32": 0.05, "bfloat16": 0.5}


def trial_views(tokenizer: Tokenizer, lengths: tuple[int, ...]) -> MaskedViews:
    """Views of ordinary tokens that depend on their length alone; answers are wanted at both ends of each and between.

    `lengths` fall.
    """
    special = tokenizer.special
    reserved = {special.pad, special.unk, special.start, special.end, *special.joint}
    ordinary = np.array([i for i in range(tokenizer.size) if i not in reserved])
    ids = np.full((len(lengths), max(lengths)), special.pad, dtype=np.int64)
    masked = []
    for row, length in enumerate(lengths):
        ids[row, :length] = np.random.default_rng((_SEED, length)).choice(ordinary, length)
        ends = np.arange(min(_COMPARED, length))
        between = np.linspace(0, length - 1, _COMPARED).astype(np.int64)
        masked.append(row * max(lengths) + np.unique(np.concatenate([ends, between, length - 1 - ends])))
    places = np.concatenate(masked)
    return MaskedViews(ids, np.zeros_like(ids), np.array(lengths), places, np.zeros_like(places), places)


def longest(bound: int, padding: int, run: Callable[[int], object]) -> int:
    """The largest length up to `bound` with which `run` succeeds.

    RoBERTa-like models number positions from `padding` + 1 on and so take that many fewer; this is tried first.

    Raises:
        Exception: what `run` raises where even a short view does not succeed.
    """
    if _succeeds(run, bound):
        return bound
    run(min(SHORT, bound))
    low, high = min(SHORT, bound), bound
    guess = bound - padding - 1
    while high - low > 1:
        middle = guess if low < guess < high else (low + high) // 2
        if _succeeds(run, middle):
            low, guess = middle, middle + 1
        else:
            high, guess = middle, 0
    return low


def _succeeds(run: Callable[[int], object], length: int) -> bool:
    try:
        run(length)
    except (IndexError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False
    return True


def last_layer(encoder: nn.Module) -> list[nn.Module]:
    """The parts of the last module of the last list of modules, each before those inside it."""
    lists = [module for module in encoder.modules() if isinstance(module, nn.ModuleList) and len(module)]
    return list(lists[-1][-1].modules())[1:] if lists else []


def same_answers(expected: Tensor, found: Tensor, share: float = EXACT) -> bool:
    """Whether float32 logits [masked, vocabulary] are the same up to `share` of their standard deviation."""
    if expected.shape != found.shape:
        return False
    known = expected[torch.isfinite(expected)]
    spread = float(known.std()) if known.numel() > 1 else 1.0
    # A model that gives NaN is accepted here; the dump reports the line at which it does.
    return torch.allclose(expected, found, atol=1e-6 + share * spread, rtol=0, equal_nan=True)
