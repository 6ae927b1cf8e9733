"""Every named objective once more, as dense float64 formulas over the whole vocabulary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objective_config import BUCKETED, OBJECTIVES, ObjectiveConfig
from kdcache.losses.projection import OutputLayer, projected_loss

TEMPERED = tuple(name for name in OBJECTIVES if name != "sampled")


@dataclass
class Case:
    """Hidden states, an output layer, labels, and a teacher's whole distribution, in float64."""

    hidden: Tensor
    weight: Tensor
    bias: Tensor
    labels: Tensor
    teacher: Tensor  # log-probabilities over the whole vocabulary
    ids: Tensor

    def soft(self, name: str, temperature: float) -> SoftLabels[Tensor]:
        log_probs = self.teacher.gather(1, self.ids)
        if name == "sampled":
            return SoftLabels(self.ids, torch.log_softmax(log_probs, dim=1))
        normalizer = (
            torch.logsumexp(self.teacher / temperature, dim=1, keepdim=True)
            if name in BUCKETED and temperature != 1
            else None
        )
        return SoftLabels(self.ids, log_probs, normalizer)

    def ours(self, config: ObjectiveConfig, temperature: float = 1.0) -> Tensor:
        layer = OutputLayer(self.weight, self.bias)
        return projected_loss(self.hidden, layer, self.labels, self.soft(config.name, temperature), config).total

    def leaves(self) -> list[Tensor]:
        return [one.requires_grad_() for one in (self.hidden, self.weight, self.bias)]


def make_case(seed: int, n: int = 6, vocabulary: int = 13, k: int = 4, width: int = 5, spread: float = 2.0) -> Case:
    """A case of `n` positions; `spread` says how sharp the teacher is."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    teacher = torch.log_softmax(spread * draw(n, vocabulary), dim=1)
    labels = torch.randint(vocabulary, (n,), generator=generator)
    return Case(draw(n, width), draw(vocabulary, width), draw(vocabulary), labels, teacher, teacher.topk(k).indices)


def merged(log_probs: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities of the chosen words and of all others together, from those of the whole vocabulary."""
    rows = []
    for row, chosen in zip(log_probs, ids.tolist(), strict=True):
        others = [i for i in range(len(row)) if i not in chosen]
        rest = torch.logsumexp(row[others], dim=0) if others else row.new_tensor(-torch.inf)
        rows.append(torch.stack([*(row[i] for i in chosen), rest]))
    return torch.stack(rows)


def dense_soft(case: Case, logits: Tensor, name: str, temperature: float) -> Tensor:
    """The soft term at each position, written from the formulas with whole-vocabulary softmaxes."""
    student = torch.log_softmax(logits, dim=1)
    tempered = torch.log_softmax(logits / temperature, dim=1)
    top = case.teacher.gather(1, case.ids)
    q = torch.softmax(top / temperature, dim=1)
    if name == "chen2020":
        return -(q * student.gather(1, case.ids)).sum(dim=1)
    if name == "hinton":
        return -(temperature**2) * (q * tempered.gather(1, case.ids)).sum(dim=1)
    if name == "sampled":
        return -(torch.softmax(top, dim=1) * student.gather(1, case.ids)).sum(dim=1)
    # What counts the tail compares both sides at T, times T²; the teacher's tail comes from its whole distribution.
    p = merged(torch.log_softmax(case.teacher / temperature, dim=1), case.ids)
    return temperature**2 * dense_divergence(p, merged(tempered, case.ids), name)


def dense_divergence(p: Tensor, u: Tensor, name: str) -> Tensor:
    """The terms over the k words and the rest, from the log-probabilities of both sides."""
    if name == "bucket":
        return -torch.where(p.exp() > 0, p.exp() * u, 0).sum(dim=1)
    if name == "forward-kl":
        return torch.where(p.exp() > 0, p.exp() * (p - u), 0).sum(dim=1)
    if name == "reverse-kl":
        return torch.where(u.exp() > 0, u.exp() * (u - p.clamp(min=-25)), 0).sum(dim=1)
    m = ((p.exp() + u.exp()) / 2).log()
    return sum(torch.where(one.exp() > 0, one.exp() * (one - m), 0).sum(dim=1) for one in (p, u)) / 2


def dense(case: Case, config: ObjectiveConfig, temperature: float) -> Tensor:
    """The whole objective with dense logits; alpha weighs the hard labels."""
    logits = case.hidden @ case.weight.T + case.bias
    student = torch.log_softmax(logits, dim=1)
    total = logits.new_zeros(())
    soft, threshold = dense_soft(case, logits, config.name, temperature), config.gate_threshold
    for t, label in enumerate(case.labels.tolist()):
        alpha = config.at(1)[0]
        if config.gate == "confident" and case.soft(config.name, temperature).log_probs[t].max() < math.log(threshold):
            alpha = 1.0
        if config.gate == "known" and label not in case.ids[t].tolist():
            alpha = 1.0
        e = config.label_smoothing
        total = total + alpha * (-(1 - e) * student[t, label] - e * student[t].mean()) + (1 - alpha) * soft[t]
    return total


def compare(case: Case, config: ObjectiveConfig, temperature: float, *, tolerance: float = 1e-9) -> None:
    """Value, and gradients in hidden states, matrix and bias."""
    leaves = case.leaves()
    found, expected = case.ours(config, temperature), dense(case, config, temperature)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(case.ours(config, temperature), expected, rtol=1e-10, atol=1e-10)
    for one, other in zip(
        torch.autograd.grad(3 * found, leaves), torch.autograd.grad(3 * expected, leaves), strict=True
    ):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def config_of(name: str, temperature: float, **more: object) -> ObjectiveConfig:
    """A mixture of both terms, with smoothed hard labels unless `more` says otherwise."""
    return ObjectiveConfig(name=name, temperature=temperature, **{"alpha": 0.3, "label_smoothing": 0.1, **more})  # type: ignore[arg-type]
