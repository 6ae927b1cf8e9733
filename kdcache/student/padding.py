"""A recurrent network over rows that padding makes equally long."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence


def padded_states(lstm: nn.LSTM, embed: Callable[[Tensor], Tensor], input_ids: Tensor, mask: Tensor) -> Tensor:
    """States `[rows, S, width]` of the words `[rows, S]` that `mask` (0 is padding, wherever it stands) leaves; else 0.

    Each row must have a word. `lstm` has `batch_first`, and sees a row's words alone, one behind the other.
    """
    present = mask != 0
    at_right = (present[:, 1:] <= present[:, :-1]).all(dim=1)
    # As PyTorch itself would sort them: their order decides what dropout drops between the layers.
    lengths, rows = torch.sort(present.sum(dim=1), descending=True)
    # One transfer has all that the host needs: more of them would keep a GPU waiting.
    lengths, padded_at_right = torch.stack([lengths, at_right.long()]).cpu()
    if padded_at_right.all():
        return _states(lstm, embed(input_ids), lengths, rows)
    order = torch.argsort(present.long(), dim=1, descending=True, stable=True)
    states = _states(lstm, embed(input_ids.gather(1, order)), lengths, rows)
    return states.gather(1, order.argsort(dim=1)[:, :, None].expand_as(states))


def _states(lstm: nn.LSTM, embedded: Tensor, lengths: Tensor, rows: Tensor) -> Tensor:
    """The backward direction begins at the last word, not at padding. `rows`, the longest first, have `lengths`."""
    # On a GPU autocast would run the LSTM in float16, whatever precision was asked for, and gradients overflow.
    with torch.autocast(embedded.device.type, enabled=False):
        # Sorted here, since packing would send the order to the GPU and fetch it back, and the host waits both times.
        packed = pack_padded_sequence(embedded.index_select(0, rows), lengths, batch_first=True)
        states, _ = pad_packed_sequence(lstm(packed)[0], batch_first=True, total_length=embedded.shape[1])
    return states.index_select(0, rows.argsort())
