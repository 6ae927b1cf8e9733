"""The loss of hidden states, without ever holding the logits of all positions.

The product with the vocabulary matrix dominates a small student, and [tokens, vocabulary] logits would fill its memory
several times over. So the loss works through the positions in chunks: the logits of a chunk are computed, turned into
their own gradient in place, and multiplied into the gradients of hidden states, matrix and bias, all in the forward
pass. The backward pass only scales them; computing the logits there again would cost a fourth product.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from kdcache.errors import UsageError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.chunk import ChunkSums, Targets, chunk_loss
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.losses.objectives import gate, make_objective, teacher_log_probs

# Logits in memory at once; with fewer positions in a chunk, adding to the matrix's gradient would dominate.
_CHUNK_LOGITS = 1 << 22
_CHUNK_POSITIONS = 512


@dataclass(frozen=True, slots=True)
class OutputLayer:
    """The last layer of a model: logits = hidden @ weight.T + bias.

    *Shape:* weight `[vocabulary, width]`, bias `[vocabulary]` or None.
    """

    weight: Tensor
    bias: Tensor | None

    def exact_logits(self, hidden: Tensor) -> Tensor:
        """Logits computed in float32 even under autocast: a log-softmax cannot repair bfloat16 logits.

        *Shape:* hidden `[tokens, width]` to float32 `[tokens, vocabulary]`.
        """
        with torch.autocast(hidden.device.type, enabled=False):
            bias = None if self.bias is None else self.bias.float()
            return functional.linear(hidden.float(), self.weight.float(), bias)


@dataclass(frozen=True, slots=True)
class LossSums:
    """Sums over target positions; the optimizer step divides by the number of positions of all processes.

    Attributes:
        total: what is minimised, a scalar with gradient.
        parts: named sums without gradient, for the records: `nll` (−log P_θ(y), nats), `correct` (positions where
            no word is more probable than the written one), `soft` (the soft term, before α and gates).
        n_tokens: number of target positions.
    """

    total: Tensor
    parts: dict[str, Tensor]
    n_tokens: int


def projected_loss(
    hidden: Tensor,
    layer: OutputLayer,
    labels: Tensor,
    soft: SoftLabels[Tensor] | None,
    config: ObjectiveConfig,
    step: int = 1,
) -> LossSums:
    """α · hard + (1 − α) · soft, summed over positions: α weighs the hard labels.

    The hard term is −log P_θ(y), with label smoothing ε: (1−ε)·(−log P_θ(y)) − ε/V Σ_w log P_θ(w). The soft terms are
    in `kdcache.losses.objectives`. Under autocast the products run in its precision, all else in float32 at least.

    *Shape:* hidden `[n, width]`; labels int64 `[n]`. `soft` may be None where α is 1; `step` counts from 1.

    Raises:
        UsageError: α is below 1 and there are no soft labels.
    """
    targets = _targets(labels, soft, config, step)
    tensors = [hidden, layer.weight, *([] if layer.bias is None else [layer.bias])]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        total, *parts = _ProjectedLoss.apply(hidden, layer.weight, layer.bias, targets)  # type: ignore[no-untyped-call]
    else:
        sums = _run(hidden, layer.weight, layer.bias, targets, (False, False, False))
        total, parts = sums.loss, sums.parts
    names = ("nll", "correct") if targets.soft is None else ("nll", "correct", "soft")
    return LossSums(total, dict(zip(names, parts, strict=True)), len(labels))


def _targets(labels: Tensor, soft: SoftLabels[Tensor] | None, config: ObjectiveConfig, step: int) -> Targets:
    weight, temperature = config.at(step)
    objective = make_objective(config.name, temperature)
    if weight == 1:
        alpha = torch.ones(len(labels), device=labels.device)
        return Targets(labels, alpha, config.label_smoothing, objective, None)
    if soft is None:
        raise UsageError("alpha below 1 needs soft labels.")
    compared = SoftLabels(soft.token_ids.long(), teacher_log_probs(config.name, soft, temperature))
    alpha = torch.full((len(labels),), weight, dtype=compared.log_probs.dtype, device=labels.device)
    weighed = gate(config, soft, labels)
    if weighed is not None:
        alpha = torch.where(weighed, alpha, 1)
    return Targets(labels, alpha, config.label_smoothing, objective, compared)


class _ProjectedLoss(torch.autograd.Function):
    """The loss and its parts; gradients are computed together with them."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets) -> tuple[Tensor, ...]:
        """The loss, and the parts without gradient."""
        sums = _run(hidden, weight, bias, targets, ctx.needs_input_grad[:3])
        ctx.save_for_backward(sums.hidden, sums.weight, sums.bias)
        ctx.dtypes = [None if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
        ctx.mark_non_differentiable(*sums.parts)
        return (sums.loss, *sums.parts)

    @staticmethod
    def backward(ctx: Any, scale: Tensor, *_parts: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients that the forward pass computed, times that of the loss."""
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        return (*(None if tensor is None else (tensor * scale).to(dtype) for tensor, dtype in gradients), None)


@dataclass(slots=True)
class _Sums:
    """Sums over all chunks: the loss and its parts (0-dimensional), and the gradients that are needed."""

    loss: Tensor
    parts: tuple[Tensor, ...]
    hidden: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def _run(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets, needed: tuple[bool, bool, bool]
) -> _Sums:
    """Work through the positions in chunks; `needed` says for which of the first three a gradient is computed."""
    device = hidden.device.type
    low = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    wide = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    wanted = [
        torch.zeros_like(tensor, dtype=wide) if need and tensor is not None else None
        for tensor, need in zip((hidden, weight, bias), needed, strict=True)
    ]
    sums = _Sums(torch.zeros((), dtype=wide, device=hidden.device), (), *wanted)
    targets = replace(targets, alpha=targets.alpha.to(wide))
    size = max(_CHUNK_POSITIONS, _CHUNK_LOGITS // weight.shape[0])
    # Explicitly, since without gradients autocast would convert the matrix anew for every chunk.
    with torch.autocast(device, enabled=False):
        states, matrix = hidden.to(low), weight.to(low)
        # One buffer for all chunks: fresh memory costs more than the arithmetic in it.
        room = torch.empty((min(size, len(hidden)), weight.shape[0]), dtype=wide, device=hidden.device)
        for start in range(0, max(1, len(hidden)), size):
            rows = slice(start, start + size)
            logits = _logits(states[rows], matrix, bias, room)
            chunk = chunk_loss(logits, targets.rows(rows), gradient=any(needed))
            _add(sums, chunk, states, matrix, rows)
        if targets.smoothing > 0:
            _smooth(sums, hidden.to(wide), weight.to(wide), bias, targets)
    return sums


def _logits(states: Tensor, matrix: Tensor, bias: Tensor | None, room: Tensor) -> Tensor:
    logits = room[: len(states)]
    if states.dtype == room.dtype:
        torch.mm(states, matrix.t(), out=logits)
    else:
        logits.copy_(states @ matrix.t())
    return logits if bias is None else logits.add_(bias)


def _add(sums: _Sums, chunk: ChunkSums, states: Tensor, matrix: Tensor, rows: slice) -> None:
    sums.loss = sums.loss + chunk.loss
    sums.parts = tuple(a + b for a, b in zip(sums.parts, chunk.parts, strict=True)) if sums.parts else chunk.parts
    if chunk.gradient is None:
        return
    low = chunk.gradient.to(states.dtype)
    if sums.hidden is not None:
        sums.hidden[rows] = low @ matrix
    if sums.weight is not None:
        if low.dtype == sums.weight.dtype:
            sums.weight.addmm_(low.t(), states[rows])
        else:
            sums.weight += low.t() @ states[rows]
    if sums.bias is not None:
        sums.bias += chunk.gradient.sum(dim=0)


def _smooth(sums: _Sums, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Targets) -> None:
    """The part −(ε/V) Σ_t α_t Σ_w z_tw of the loss: the matrix's mean row gives it without the logits."""
    share, alpha = targets.smoothing / weight.shape[0], targets.alpha
    row, states = weight.sum(dim=0), alpha @ hidden
    sums.loss = sums.loss - share * (states @ row)
    if bias is not None:
        sums.loss = sums.loss - share * alpha.sum() * bias.sum()
    if sums.hidden is not None:
        sums.hidden.addr_(alpha, row, alpha=-share)
    if sums.weight is not None:
        sums.weight.sub_(share * states)
    if sums.bias is not None:
        sums.bias.sub_(share * alpha.sum())
