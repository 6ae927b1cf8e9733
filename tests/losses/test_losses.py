"""The loss against dense float64 arithmetic, hand-computed numbers and PyTorch's own cross entropy."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import compare, dense, make_case
from torch import Tensor
from torch.nn import functional

from kdcache.errors import UsageError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.losses.objectives import teacher_log_probs
from kdcache.losses.projection import LossSums, OutputLayer, projected_loss


def distillation_loss(
    logits: Tensor, labels: Tensor, ids: Tensor | None, log_probs: Tensor | None, config: ObjectiveConfig
) -> LossSums:
    """The loss of logits: what an output layer that changes nothing makes of them."""
    soft = None if ids is None or log_probs is None else SoftLabels(ids, log_probs)
    layer = OutputLayer(torch.eye(logits.shape[1], dtype=logits.dtype), None)
    return projected_loss(logits, layer, labels, soft, config)


def positions(seed: int, n: int, vocabulary: int, k: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits, labels, ids and log-probabilities of random positions, in float64."""
    case = make_case(seed, n, vocabulary, k)
    return case.hidden @ case.weight.T + case.bias, case.labels, case.ids, case.teacher.gather(1, case.ids)


def soft_targets(log_probs: torch.Tensor, temperature: float) -> torch.Tensor:
    return teacher_log_probs("chen2020", SoftLabels(torch.zeros(0), log_probs), temperature).exp()


CONFIGS = [
    ObjectiveConfig(alpha=alpha, temperature=temperature, label_smoothing=smoothing)
    for alpha in (0.0, 0.3, 1.0)
    for temperature in (0.5, 1.0, 10.0)
    for smoothing in (0.0, 0.1)
]


@pytest.mark.parametrize("config", CONFIGS, ids=str)
@pytest.mark.parametrize("k", [1, 8, 60])
def test_loss_and_gradient_equal_the_dense_form(config: ObjectiveConfig, k: int) -> None:
    """Value and gradients are those of dense float64 arithmetic, also at k = 1 and k = vocabulary."""
    case, temperature = make_case(seed=k, n=7, vocabulary=60, k=k), float(config.temperature)  # type: ignore[arg-type]
    compare(case, config, temperature)
    expected = float(dense(case, config, temperature).detach())
    logits, *rest = (one.detach() for one in positions(seed=k, n=7, vocabulary=60, k=k))
    single = distillation_loss(logits.float(), *rest[:2], rest[2].float(), config)
    assert float(single.total) == pytest.approx(expected, rel=1e-5)


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 6),
    vocabulary=st.integers(2, 30),
    share=st.floats(0, 1),
    alpha=st.floats(0, 1),
    temperature=st.floats(0.05, 50),
    smoothing=st.floats(0, 0.99),
)
def test_loss_equals_the_dense_form_everywhere(
    seed: int, n: int, vocabulary: int, share: float, alpha: float, temperature: float, smoothing: float
) -> None:
    """Any shape and setting gives the dense form's value and gradients."""
    case = make_case(seed, n, vocabulary, k=max(1, round(share * vocabulary)))
    compare(case, ObjectiveConfig(alpha, temperature, label_smoothing=smoothing), temperature)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_reach_hidden_states_and_matrix(bias: bool) -> None:
    """The gradients of hidden states, matrix and bias, where there is one, are those of finite differences."""
    case = make_case(seed=5, n=4, vocabulary=11, k=3)
    config = ObjectiveConfig(alpha=0.4, temperature=2.0, label_smoothing=0.1)

    def ours(hidden: Tensor, weight: Tensor, *rest: Tensor) -> Tensor:
        layer = OutputLayer(weight, rest[0] if rest else None)
        return projected_loss(hidden, layer, case.labels, case.soft("chen2020", 2.0), config).total

    assert torch.autograd.gradcheck(ours, case.leaves()[: 3 if bias else 2])


def test_the_2020_formula_by_hand() -> None:
    """At k = 8 and T = 10 the loss is what a pocket calculator gives for the formula of Chen et al."""
    student = [0.25, 0.2, 0.15, 0.1, 0.08, 0.07, 0.05, 0.04, 0.03, 0.03]
    ids = torch.tensor([[3, 0, 7, 1, 9, 2, 4, 5]])
    teacher = torch.tensor([[-0.5, -1.5, -3.0, -4.0, -5.0, -6.0, -8.0, -10.0]])
    # e^(-0.05), e^(-0.15), e^(-0.3), ... over their sum, 5.1957; the student's probabilities are not tempered.
    q = [0.183082723235, 0.165660098579, 0.142584968222, 0.129016214497]
    q += [0.116738698410, 0.105629542454, 0.086482154841, 0.070805599761]
    torch.testing.assert_close(soft_targets(teacher, 10.0), torch.tensor([q]), rtol=1e-6, atol=0)
    logits, labels = torch.tensor([student]).log() + 4.0, torch.tensor([3])

    def loss(alpha: float) -> float:
        config = ObjectiveConfig(alpha, temperature=10.0, label_smoothing=0.1)
        return float(distillation_loss(logits, labels, ids, teacher, config).total)

    # -(0.183083 · ln 0.1 + 0.165660 · ln 0.25 + 0.142585 · ln 0.04 + ... + 0.070806 · ln 0.07)
    assert loss(0.0) == pytest.approx(2.334287982316, rel=1e-6)
    # -0.9 · ln 0.1 - 0.01 · (ln 0.25 + ln 0.2 + ... + ln 0.03)
    assert loss(1.0) == pytest.approx(2.328408082952, rel=1e-6)
    # alpha weighs the hard labels: 0.9 · 2.328408 + 0.1 · 2.334288.
    assert loss(0.9) == pytest.approx(2.328996072888, rel=1e-6)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_alpha_1_is_cross_entropy(smoothing: float) -> None:
    """With alpha 1 value and gradient are those of PyTorch's cross entropy, soft labels or not."""
    logits, labels, ids, log_probs = positions(seed=1, n=9, vocabulary=40, k=4)
    logits.requires_grad_()
    config = ObjectiveConfig(alpha=1.0, label_smoothing=smoothing)
    expected = functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    (gradient,) = torch.autograd.grad(expected, logits)
    for soft in ((ids, log_probs), (None, None)):
        found = distillation_loss(logits, labels, *soft, config)
        torch.testing.assert_close(found.total, expected, rtol=1e-13, atol=0)
        torch.testing.assert_close(torch.autograd.grad(found.total, logits)[0], gradient, rtol=0, atol=1e-14)
        assert "soft" not in found.parts


def test_alpha_0_ignores_the_labels() -> None:
    """With alpha 0 the written words and the label smoothing do not count."""
    logits, labels, ids, log_probs = positions(seed=2, n=5, vocabulary=20, k=6)
    config = ObjectiveConfig(alpha=0.0, temperature=2.0, label_smoothing=0.3)
    found = distillation_loss(logits, labels, ids, log_probs, config)
    other = distillation_loss(logits, (labels + 1) % 20, ids, log_probs, config)
    assert float(found.total) == float(other.total) == float(found.parts["soft"])


def test_small_temperatures_keep_the_best_word() -> None:
    """As T goes to 0 the soft term becomes the cross entropy of the teacher's best word; ties share it."""
    logits, labels, ids, log_probs = positions(seed=3, n=6, vocabulary=20, k=5)
    found = distillation_loss(logits, labels, ids, log_probs, ObjectiveConfig(0.0, temperature=1e-4))
    torch.testing.assert_close(found.total, functional.cross_entropy(logits, ids[:, 0], reduction="sum"))
    tied = torch.tensor([[-1.0, -1.0, -5.0]])
    torch.testing.assert_close(soft_targets(tied, 1e-4), torch.tensor([[0.5, 0.5, 0.0]]))


def test_large_temperatures_make_the_k_equal() -> None:
    """As T grows the k words share the weight equally, and nothing reaches the other words."""
    logits, labels, ids, log_probs = positions(seed=4, n=3, vocabulary=20, k=4)
    found = distillation_loss(logits, labels, ids, log_probs, ObjectiveConfig(0.0, temperature=1e9))
    expected = -torch.log_softmax(logits, dim=1).gather(1, ids).mean(dim=1).sum()
    torch.testing.assert_close(found.total, expected, rtol=1e-7, atol=0)


def test_stored_halves_are_widened_before_they_are_tempered() -> None:
    """Float16 log-probabilities give the weights of the same values in float32."""
    stored = torch.tensor([[-0.01, -4.7, -9.3, -17.0]], dtype=torch.float16)
    found = soft_targets(stored, 1.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, soft_targets(stored.float(), 1.0))


def test_ids_and_log_probs_as_stored_give_the_same_loss() -> None:
    """Narrow ids and float16 log-probabilities need no conversion before they come here."""
    logits, labels, ids, log_probs = positions(6, 5, 50, 8)
    logits = logits.float()
    config, halves = ObjectiveConfig(0.3, temperature=3.0), log_probs.half()
    expected = distillation_loss(logits, labels, ids, halves.float(), config).total
    assert torch.equal(distillation_loss(logits, labels, ids.int(), halves, config).total, expected)


def test_missing_soft_labels_are_refused() -> None:
    """An alpha below 1 without soft labels is an error that says so."""
    logits, labels, ids, log_probs = positions(0, 2, 5, 2)
    distillation_loss(logits, labels, ids, log_probs, ObjectiveConfig(alpha=0.99))
    with pytest.raises(UsageError, match="needs soft labels"):
        distillation_loss(logits, labels, None, None, ObjectiveConfig(alpha=0.99))


def test_parts_by_hand() -> None:
    """The recorded sums are the plain negative log-likelihood, the hits and the positions."""
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    labels, ids = torch.tensor([0, 1]), torch.tensor([[1], [1]])
    config = ObjectiveConfig(alpha=0.5, label_smoothing=0.2)
    found = distillation_loss(logits, labels, ids, torch.tensor([[-0.1], [-0.1]]), config)
    assert float(found.parts["nll"]) == pytest.approx(0.3566749 + 1.2039728)
    assert int(found.parts["correct"]) == 1
    assert float(found.parts["soft"]) == pytest.approx(1.6094379 + 1.2039728)
    assert found.n_tokens == 2
    assert not any(part.requires_grad for part in found.parts.values())


def test_exact_logits_stay_exact_under_autocast() -> None:
    """Inside a bfloat16 context the teacher's logits are those of float32 products."""
    generator = torch.Generator().manual_seed(1)
    hidden, weight = torch.randn((5, 16), generator=generator), torch.randn((30, 16), generator=generator)
    layer = OutputLayer(weight, torch.randn(30, generator=generator))
    expected = functional.linear(hidden, weight, layer.bias)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not torch.allclose(functional.linear(hidden, weight, layer.bias).float(), expected, atol=1e-4)
        assert torch.equal(layer.exact_logits(hidden), expected)
