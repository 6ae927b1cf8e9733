"""The soft terms: what a student's distribution is compared with at one position, and how.

With z = W h + b the logits, p_i the teacher's probability of its i-th best word (i ≤ k, over the whole vocabulary),
q = softmax((log p_1 … log p_k)/T), and v_i = log softmax(z)_i:

- `chen2020`: −Σ_i q_i v_i; the student is not tempered (Chen et al. 2020, equation 7, as their code has it);
- `hinton`: −T² Σ_i q_i log softmax(z/T)_i (Hinton, Vinyals and Dean 2015, section 2);
- `sampled`: −Σ_i (c_i / N) v_i, c_i of N draws from the teacher (Anshumann et al. 2025).

The others count the tail. With t_i = p_i^{1/T} / Z_T, Z_T = Σ_w p_w^{1/T} over the whole vocabulary, t_0 = 1 − Σ_i t_i,
u_i = log softmax(z/T)_i and u_0 = log(1 − Σ_i e^{u_i}) they are, both sides tempered as Hinton's:

- `bucket`: −T² Σ_{i≥0} t_i u_i (at T = 1 Anshumann et al. 2025, "ghost token");
- `forward-kl`: T² Σ_{i≥0} t_i (log t_i − u_i) (Kullback and Leibler 1951);
- `reverse-kl`: T² Σ_{i≥0} e^{u_i} (u_i − log t_i), the same with its arguments exchanged;
- `jensen-shannon`: T² (½ KL(t, m) + ½ KL(e^u, m)) with m = ½ (t + e^u) (Lin 1991).

At T = 1 Z_T is 1; elsewhere `SoftLabels.log_normalizers` holds its logarithm. `bucket` and `forward-kl` differ by the
teacher's entropy, so their gradients are equal.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objective_config import BUCKETED, ObjectiveConfig

# A smaller probability counts as e^-25 (1.4e-11) where its logarithm is a factor.
_MIN_LOG_PROB = -25.0


@dataclass(frozen=True, slots=True)
class Objective:
    """A soft term as a function of the student's log-probabilities of the k words, and of the rest.

    Attributes:
        loss: `[n, m]` student's and `[n, m]` teacher's log-probabilities to `[n]`, without the factor `scale`; m is
            k, or k + 1 where `bucket`.
        bucket: whether the last column is the rest of the vocabulary.
        student_temperature: what divides the student's logits first.
        scale: factor before the term.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    bucket: bool
    student_temperature: float
    scale: float


def make_objective(name: str, temperature: float) -> Objective:
    """The soft term `name` at a temperature T; names as in `kdcache.losses.objective_config.OBJECTIVES`."""
    tempered = name == "hinton" or name in BUCKETED
    return Objective(
        _LOSSES.get(name, cross_entropy),
        bucket=name in BUCKETED,
        student_temperature=temperature if tempered else 1.0,
        scale=temperature**2 if tempered else 1.0,
    )


def teacher_log_probs(name: str, soft: SoftLabels[Tensor], temperature: float) -> Tensor:
    """The log-probabilities with which the soft term `name` compares the student's at temperature T.

    An objective that counts the tail at a temperature other than 1 needs `log_normalizers` of that temperature alone,
    `[n, 1]`.

    *Shape:* `[n, k]`, or `[n, k + 1]` with the rest in the last column; in float32 (float64 for float64).

    Raises:
        UsageError: the normalizers are missing, or of several temperatures.
    """
    wide = soft.log_probs if soft.log_probs.dtype == torch.float64 else soft.log_probs.float()
    if name in ("chen2020", "hinton"):
        return torch.log_softmax(wide / temperature, dim=-1)
    if name == "sampled":
        return wide
    if temperature != 1:
        if soft.log_normalizers is None or soft.log_normalizers.shape[1] != 1:
            raise UsageError(f"--temperature {temperature:g} with --objective {name} needs normalizers.")
        wide = wide / temperature - soft.log_normalizers.to(wide.dtype)
    # Rounding can lift the k words' mass a little above 1: then there is no rest.
    rest = (1 - wide.exp().sum(dim=-1, keepdim=True)).clamp(min=0)
    return torch.cat([wide, rest.log()], dim=-1)


def cross_entropy(student: Tensor, teacher: Tensor) -> Tensor:
    """−Σ_i p_i u_i; `[n, m]` twice to `[n]`. Words to which the teacher gives no probability do not count."""
    weights = teacher.exp()
    return -torch.where(weights > 0, weights * student, 0).sum(dim=-1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ_i p_i (log p_i − u_i); `[n, m]` twice to `[n]`."""
    weights = teacher.exp()
    return torch.where(weights > 0, weights * (teacher - student), 0).sum(dim=-1)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """Σ_i e^{u_i} (u_i − log p_i), p_i at least e^−25; `[n, m]` twice to `[n]`."""
    weights = student.exp()
    return torch.where(weights > 0, weights * (student - teacher.clamp(min=_MIN_LOG_PROB)), 0).sum(dim=-1)


def jensen_shannon(student: Tensor, teacher: Tensor) -> Tensor:
    """½ KL(p, m) + ½ KL(e^u, m) with m their mean; `[n, m]` twice to `[n]`, between 0 and log 2."""
    # The bound only keeps the gradient of log 0 finite: e^-250 adds nothing to a mean.
    mean = torch.logaddexp(student, teacher.clamp(min=10 * _MIN_LOG_PROB)) - math.log(2)
    return (forward_kl(mean, teacher) + forward_kl(mean, student)) / 2


_LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "forward-kl": forward_kl,
    "reverse-kl": reverse_kl,
    "jensen-shannon": jensen_shannon,
}


def gate(config: ObjectiveConfig, soft: SoftLabels[Tensor], labels: Tensor) -> Tensor | None:
    """At which positions there is a soft term: bool `[n]`, or None for all; labels int64 `[n]`."""
    if config.gate == "confident":
        confident: Tensor = soft.log_probs[:, 0].float().exp() >= config.gate_threshold
        return confident
    if config.gate == "known":
        # The columns that drawn words leave over hold ids that mean nothing.
        return ((soft.token_ids == labels[:, None]) & (soft.log_probs > -torch.inf)).any(dim=-1)
    return None
