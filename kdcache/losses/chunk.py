"""The loss of some positions and its gradient with respect to their logits, written over the logits in place."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objectives import Objective


@dataclass(frozen=True, slots=True)
class Targets:
    """What the student is compared with at n positions.

    Attributes:
        labels: the written words, int64 `[n]`.
        alpha: weight of the hard labels at each position, `[n]`.
        smoothing: ε of the label smoothing.
        objective: the soft term.
        soft: ids int64 `[n, k]`, with log-probabilities as `teacher_log_probs` gives them, `[n, k]` or `[n, k + 1]`;
            None where α is 1 everywhere.
    """

    labels: Tensor
    alpha: Tensor
    smoothing: float
    objective: Objective
    soft: SoftLabels[Tensor] | None

    def rows(self, rows: slice) -> Targets:
        """The targets of some of the positions."""
        soft = None if self.soft is None else self.soft.map(lambda tensor: tensor[rows])
        return replace(self, labels=self.labels[rows], alpha=self.alpha[rows], soft=soft)


@dataclass(frozen=True, slots=True)
class ChunkSums:
    """Sums over some positions, 0-dimensional, and the gradient in the logits `[n, vocabulary]`.

    The part −(ε/V) Σ_w z_w of label smoothing is in neither: it needs no logits. `parts` are those of `LossSums`.
    """

    loss: Tensor
    parts: tuple[Tensor, ...]
    gradient: Tensor | None


def chunk_loss(logits: Tensor, targets: Targets, *, gradient: bool) -> ChunkSums:
    """α · hard + (1 − α) · soft over some positions; see `kdcache.losses.projection.projected_loss`.

    *Shape:* logits `[n, vocabulary]` in float32 or float64, which are overwritten.
    """
    # Ten times as fast as asking for the word too.
    best = logits.amax(dim=-1, keepdim=True)
    written = logits.gather(1, targets.labels[:, None])
    soft, temperature = targets.soft, 1.0
    head = None
    if soft is not None:
        temperature = targets.objective.student_temperature
        head = (logits.gather(1, soft.token_ids) - best) / temperature
    # One sum of exponentials serves both terms, unless the soft one tempers the student.
    tempered_exp = ((logits - best) / temperature).exp_() if temperature != 1 else None
    exponentials = logits.sub_(best).exp_()
    total = exponentials.sum(dim=-1, keepdim=True)
    log_written = written - best - total.log()
    alpha = targets.alpha[:, None]
    hard = total.log() + best - (1 - targets.smoothing) * written
    loss, soft_gradient = (alpha * hard).sum(), None
    parts: tuple[Tensor, ...] = (-log_written.sum(), (written == best).sum())
    if soft is not None and head is not None:
        tempered = (
            (exponentials, total) if tempered_exp is None else (tempered_exp, tempered_exp.sum(dim=-1, keepdim=True))
        )
        soft_loss, soft_gradient = _soft_term(*tempered, head, soft, targets.objective, gradient=gradient)
        loss = loss + ((1 - alpha[:, 0]) * soft_loss).sum()
        parts = (*parts, soft_loss.sum())
    if gradient:
        _into_gradient(exponentials, total, targets, soft_gradient, tempered_exp)
    return ChunkSums(loss, parts, exponentials if gradient else None)


def _soft_term(
    exponentials: Tensor, total: Tensor, head: Tensor, soft: SoftLabels[Tensor], objective: Objective, *, gradient: bool
) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
    """The soft loss `[n]`, and with `gradient` its gradient in the logits.

    They are made of exp(z/T − its maximum) `[n, vocabulary]`, their sum, and their logarithms at the k words. The
    gradient is a factor `[n, 1]` times the exponentials, and at the k words `[n, k]` in its place.
    """
    log_total = total.log()
    student = head - log_total
    if objective.bucket:
        # 1 - the head's mass would lose precision where the student is confident: the other words are added up.
        exponentials.scatter_(1, soft.token_ids, 0)
        rest = exponentials.sum(dim=-1, keepdim=True)
        exponentials.scatter_(1, soft.token_ids, head.exp())
        tail = rest.clamp(min=torch.finfo(rest.dtype).tiny).log() - log_total
        student = torch.cat([student, tail], dim=-1)
    if not gradient:
        return objective.scale * objective.loss(student, soft.log_probs), None
    with torch.enable_grad():
        leaf = student.detach().requires_grad_()
        values = objective.loss(leaf, soft.log_probs)
        (slopes,) = torch.autograd.grad(values.sum(), leaf)
    return objective.scale * values.detach(), _in_logits(student, slopes, log_total, objective)


def _in_logits(student: Tensor, slopes: Tensor, log_total: Tensor, objective: Objective) -> tuple[Tensor, Tensor]:
    """From the gradient in log-probabilities to that in logits, which all share one normalizer.

    With G the sum of the slopes, a word of the k gets g_i − G·P_i, any other (g_0/P_0 − G)·P_j.
    """
    k = slopes.shape[-1] - objective.bucket
    together = slopes.sum(dim=-1, keepdim=True)
    scale = objective.scale / objective.student_temperature
    head = scale * (slopes[:, :k] - together * student[:, :k].exp())
    others = -together
    if objective.bucket:
        tail = student[:, k:].exp()
        others = others + torch.where(tail > 0, slopes[:, k:] / tail, 0)
    return scale * others * torch.exp(-log_total), head


def _into_gradient(
    exponentials: Tensor,
    total: Tensor,
    targets: Targets,
    soft_gradient: tuple[Tensor, Tensor] | None,
    tempered_exp: Tensor | None,
) -> None:
    """Turn exp(z − its maximum) into the gradient of the loss in z, in place."""
    alpha = targets.alpha[:, None]
    factor = alpha / total
    if soft_gradient is not None and targets.soft is not None:
        ids, (soft_factor, head) = targets.soft.token_ids, ((1 - alpha) * part for part in soft_gradient)
        if tempered_exp is None:
            head = head + factor * exponentials.gather(1, ids)
            exponentials.mul_(factor + soft_factor).scatter_(1, ids, head)
        else:
            tempered_exp.mul_(soft_factor).scatter_(1, ids, head)
            torch.addcmul(tempered_exp, exponentials, factor, out=exponentials)
    else:
        exponentials.mul_(factor)
    exponentials.scatter_add_(1, targets.labels[:, None], -(1 - targets.smoothing) * alpha)
