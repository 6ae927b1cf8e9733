"""The student's and the teacher's objectives: pure functions of hidden states and an output matrix.

With h_t the hidden state at target position t, z_t = W h_t + b the logits and P_θ = softmax(z_t):

- L_xe   = −Σ_t log P_θ(y_t | y_<t, x), with label smoothing ε: (1−ε)·L_xe − ε/V Σ_t Σ_w log P_θ(w);
- L_bidi = −Σ_t Σ_{i≤k} q_{t,i} log P_θ(w_{t,i}), with q_t = softmax(log P_φ(w_{t,·}) / T) over the k stored words;
- L      = α·L_xe + (1−α)·L_bidi.

This is what Chen et al. (ACL 2020, arXiv 1911.03829, equation 7) train with, as their code does it: the teacher's k
best are tempered and renormalised over the k, the student's log-softmax is over the full vocabulary and not tempered,
and there is no factor T². **α weighs the hard labels here; in the paper it weighs the soft ones.**
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from kdcache.errors import UsageError
from kdcache.objective import ObjectiveConfig


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over target positions; whoever takes the optimizer step divides by the number of positions.

    Attributes:
        total: what is minimised, a scalar with gradient.
        parts: named sums without gradient, for the records: `nll` (−log P_θ(y), nats), `correct` (positions whose
            best word is the written one), `soft` (the soft term).
        n_tokens: number of target positions.
    """

    total: Tensor
    parts: dict[str, Tensor]
    n_tokens: int


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """The last layer of a model: logits = hidden @ weight.T + bias.

    *Shape:* weight `[vocabulary, width]`, bias `[vocabulary]` or None.
    """

    weight: Tensor
    bias: Tensor | None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits for training: the product in the precision of the context, the result in at least float32.

        *Shape:* hidden `[tokens, width]` to `[tokens, vocabulary]`.
        """
        product = functional.linear(hidden, self.weight, self.bias)
        return product if product.dtype == torch.float64 else product.float()

    def exact_logits(self, hidden: Tensor) -> Tensor:
        """Logits computed in float32 even under autocast: a log-softmax after bfloat16 logits is too late.

        *Shape:* hidden `[tokens, width]` to float32 `[tokens, vocabulary]`.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return functional.linear(hidden.float(), self.weight.float(), bias)


def soft_targets(log_probs: Tensor, temperature: float) -> Tensor:
    """The teacher's k best, tempered and renormalised over the k (Chen et al. 2020).

    *Shape:* log_probs `[tokens, k]`, natural logarithms at temperature 1, to probabilities `[tokens, k]` in float32
    (float64 for float64).
    """
    wide = log_probs if log_probs.dtype == torch.float64 else log_probs.float()
    return torch.softmax(wide / temperature, dim=-1)


def projected_loss(
    hidden: Tensor,
    layer: OutputLayer,
    labels: Tensor,
    topk_ids: Tensor | None,
    topk_log_probs: Tensor | None,
    config: ObjectiveConfig,
) -> LossSums:
    """`distillation_loss` of what `layer` makes of hidden states.

    *Shape:* hidden `[tokens, width]`; the rest as in `distillation_loss`.
    """
    return distillation_loss(layer.logits(hidden), labels, topk_ids, topk_log_probs, config)


def distillation_loss(
    logits: Tensor,
    labels: Tensor,
    topk_ids: Tensor | None,
    topk_log_probs: Tensor | None,
    config: ObjectiveConfig,
) -> LossSums:
    """α·L_xe + (1−α)·L_bidi, summed over positions. One log-sum-exp serves both terms.

    *Shape:* logits `[tokens, vocabulary]`; labels int64 `[tokens]`; topk_ids of any whole type `[tokens, k]`;
    topk_log_probs `[tokens, k]`. The soft labels may be None where α is 1.
    """
    normalizer = torch.logsumexp(logits, dim=-1)
    nll = normalizer - logits.gather(1, labels[:, None])[:, 0]
    hard = nll
    if config.label_smoothing > 0:
        uniform = normalizer - logits.mean(dim=-1)
        hard = (1 - config.label_smoothing) * nll + config.label_smoothing * uniform
    total = config.alpha * hard.sum()
    parts = {"nll": nll.detach().sum(), "correct": (logits.detach().argmax(dim=-1) == labels).sum()}
    if config.alpha < 1:
        if topk_ids is None or topk_log_probs is None:
            raise UsageError("alpha below 1 needs soft labels.")
        weights = soft_targets(topk_log_probs, config.temperature)
        # The weights sum to 1, so the normalizer enters once.
        soft = (normalizer - (weights * logits.gather(1, topk_ids.long())).sum(dim=-1)).sum()
        total = total + (1 - config.alpha) * soft
        parts["soft"] = soft.detach()
    return LossSums(total, parts, len(labels))
