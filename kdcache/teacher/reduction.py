"""The part of a teacher's distributions that is kept: the k best words or some that are drawn, and normalizers.

A distribution over the whole vocabulary never leaves the device.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from kdcache.compute.device import moved
from kdcache.labels import counter_random

# Numbers in float64 in memory at once: the cumulative sums of a whole batch would fill a GPU.
_CHUNK = 1 << 22


class Predictions:
    """What is kept at n masked positions. A GPU may still compute it; reading a property waits for that.

    *Shape:* ids `[n, k]`, values `[n, k]` (log-probabilities float32, or counts of drawn words), written float32 `[n]`,
    log_normalizers float32 `[n, n_T]` or None, on any device.
    """

    def __init__(self, ids: Tensor, values: Tensor, written: Tensor, log_normalizers: Tensor | None = None) -> None:
        kept = [ids, values, written, *([] if log_normalizers is None else [log_normalizers])]
        # Into pinned memory, without waiting.
        self._host = [tensor.to("cpu", non_blocking=True) for tensor in kept]
        self._done = torch.cuda.current_stream(ids.device).record_event() if ids.is_cuda else None

    def _arrays(self) -> list[npt.NDArray[Any]]:
        if self._done is not None:
            self._done.synchronize()
        return [tensor.numpy() for tensor in self._host]

    @property
    def ids(self) -> npt.NDArray[Any]:
        """The words that are kept, [n, k]."""
        return self._arrays()[0]

    @property
    def values(self) -> npt.NDArray[Any]:
        """Their log-probabilities, float32 [n, k], falling; or how often each was drawn, 0 where there is no word."""
        return self._arrays()[1]

    @property
    def target_log_prob(self) -> npt.NDArray[np.float32]:
        """Log-probability of the word that was there, float32 [n]."""
        return self._arrays()[2]

    @property
    def log_normalizers(self) -> npt.NDArray[np.float32] | None:
        """Log Z_T at the temperatures that were asked for, float32 [n, n_T], or None."""
        return self._arrays()[3] if len(self._host) > 3 else None


@dataclass(frozen=True, slots=True)
class Reduction:
    """How distributions are reduced.

    Attributes:
        topk: words that are kept at a position; of words that are drawn, min(N, V).
        temperatures: T at which log Σ_w p(w)^(1/T) is kept.
        draws: N, how many words are drawn with replacement at each position; 0 for the k best.
        keys: uint64 [ΣN], one for each target position of some pairs; what is drawn is a function of key and
            distribution. None without draws.
    """

    topk: int
    temperatures: tuple[float, ...] = ()
    draws: int = 0
    keys: counter_random.UInt64s | None = None

    def __call__(self, log_probs: Tensor, labels: npt.NDArray[np.int64], rows: npt.NDArray[np.int64]) -> Predictions:
        """Reduce the distributions at the target positions `rows`, where the words `labels` were, int64 [n] both.

        *Shape:* log_probs float32 `[n, vocabulary]`.
        """
        written = log_probs.gather(1, moved(torch.from_numpy(labels), log_probs.device)[:, None])[:, 0]
        if self.keys is None:
            values, ids = log_probs.topk(self.topk, dim=-1)
        else:
            ids, values = _draw(log_probs, self.keys[rows], self.draws, self.topk)
        return Predictions(ids.int(), values, written, self._normalizers(log_probs))

    def _normalizers(self, log_probs: Tensor) -> Tensor | None:
        if not self.temperatures:
            return None
        columns = [torch.cat([torch.logsumexp(part / t, -1) for part in _parts(log_probs)]) for t in self.temperatures]
        return torch.stack(columns, dim=1)


def _parts(rows: Tensor, width: int = 0) -> list[Tensor]:
    """Runs of rows, so few that no tensor made of one has more than `_CHUNK` numbers, at least one."""
    size = max(1, _CHUNK // max(width, rows.shape[1]))
    return [rows[start : start + size] for start in range(0, max(1, len(rows)), size)]


def _draw(log_probs: Tensor, keys: counter_random.UInt64s, count: int, columns: int) -> tuple[Tensor, Tensor]:
    """Draw `count` words at each position by inverting the cumulative distribution in the order of ids.

    *Shape:* log_probs `[n, vocabulary]`; ids int64 and counts int32 `[n, columns]`, by falling count, then by id.
    """
    drawn, start = [], 0
    for part in _parts(log_probs, count):
        uniforms = counter_random.uniforms(keys[start : start + len(part)], count)
        cumulative = part.exp().cumsum(dim=-1, dtype=torch.float64)
        points = moved(torch.from_numpy(uniforms), part.device) * cumulative[:, -1:]
        # The first word whose sum is above the point: words of probability 0 are never hit.
        words = torch.searchsorted(cumulative, points, right=True).clamp_(max=part.shape[1] - 1)
        drawn.append(_count(words, columns))
        start += len(part)
    ids, counts = zip(*drawn, strict=True)
    return torch.cat(ids), torch.cat(counts)


def _count(words: Tensor, columns: int) -> tuple[Tensor, Tensor]:
    """The different words of each row `[n, N]` and how often each occurs there, `[n, columns]` twice, padded with 0."""
    words = words.sort(dim=-1).values
    new = torch.zeros_like(words)
    new[:, 1:] = (words[:, 1:] != words[:, :-1]).long()
    group = new.cumsum(dim=-1)
    ids = torch.zeros_like(words).scatter_(1, group, words)
    counts = torch.zeros_like(words).scatter_add_(1, group, torch.ones_like(words))
    # Groups come by rising id, and a stable sort keeps that order among equal counts.
    counts, order = counts.sort(dim=-1, descending=True, stable=True)
    return ids.gather(1, order)[:, :columns], counts[:, :columns].int()
