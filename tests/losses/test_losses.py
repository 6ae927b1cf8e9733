"""The loss at the ends of its settings, against numbers by hand and PyTorch's own cross entropy."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import compare, make_case
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


def soft_targets(log_probs: Tensor, temperature: float) -> Tensor:
    return teacher_log_probs("chen2020", SoftLabels(torch.zeros(0), log_probs), temperature).exp()


def make_logits(seed: int, n: int, vocabulary: int, k: int) -> tuple[Tensor, ...]:
    """Logits, labels, and ids and log-probabilities of a random teacher's k best words, in float64."""
    case = make_case(seed, n, vocabulary, k, width=vocabulary)
    return 2 * case.hidden, case.labels, case.ids, case.teacher.gather(1, case.ids)


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**31),
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
    """Any shape and setting of the formula of 2020 gives the dense form's value and gradients."""
    case = make_case(seed, n, vocabulary, k=max(1, round(share * vocabulary)))
    compare(case, ObjectiveConfig(alpha, temperature, label_smoothing=smoothing, name="chen2020"), temperature)


@pytest.mark.parametrize("bias", [True, False])
def test_gradients_reach_hidden_states_and_matrix(bias: bool) -> None:
    """The gradients of hidden states, matrix and bias, where there is one, are those of finite differences."""
    case = make_case(seed=5, n=4, vocabulary=11, k=3)
    config = ObjectiveConfig(alpha=0.4, temperature=2.0, label_smoothing=0.1, name="chen2020")

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
        config = ObjectiveConfig(alpha, temperature=10.0, label_smoothing=0.1, name="chen2020")
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
    logits, labels, ids, log_probs = make_logits(1, 9, 40, 4)
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
    logits, labels, *soft = make_logits(2, 5, 20, 6)
    config = ObjectiveConfig(alpha=0.0, temperature=2.0, label_smoothing=0.3, name="chen2020")
    found = distillation_loss(logits, labels, *soft, config)
    other = distillation_loss(logits, (labels + 1) % 20, *soft, config)
    assert float(found.total) == float(other.total) == float(found.parts["soft"])


def test_extreme_temperatures_keep_the_best_word_or_make_the_k_equal() -> None:
    """As T goes to 0 the teacher's best word alone counts, ties share it; as T grows the k words share equally."""
    logits, labels, ids, log_probs = make_logits(3, 6, 20, 5)
    cold = distillation_loss(
        logits, labels, ids, log_probs, ObjectiveConfig(0.0, temperature=1e-4, name="chen2020")
    ).total
    torch.testing.assert_close(cold, functional.cross_entropy(logits, ids[:, 0], reduction="sum"))
    tied = torch.tensor([[-1.0, -1.0, -5.0]])
    torch.testing.assert_close(soft_targets(tied, 1e-4), torch.tensor([[0.5, 0.5, 0.0]]))
    hot = distillation_loss(
        logits, labels, ids, log_probs, ObjectiveConfig(0.0, temperature=1e9, name="chen2020")
    ).total
    expected = -torch.log_softmax(logits, dim=1).gather(1, ids).mean(dim=1).sum()
    torch.testing.assert_close(hot, expected, rtol=1e-7, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_ids_and_log_probs_as_stored_give_the_same_loss(temperature: float) -> None:
    """Narrow ids and float16 log-probabilities are widened before they are tempered: they need no conversion."""
    logits, labels, ids, log_probs = make_logits(6, 5, 50, 8)
    logits, config, halves = logits.float(), ObjectiveConfig(0.3, temperature, name="chen2020"), log_probs.half()
    expected = distillation_loss(logits, labels, ids, halves.float(), config).total
    assert torch.equal(distillation_loss(logits, labels, ids.int(), halves, config).total, expected)


def test_missing_soft_labels_are_refused() -> None:
    """An alpha below 1 without soft labels is an error that says so."""
    logits, labels, ids, log_probs = make_logits(0, 2, 5, 2)
    distillation_loss(logits, labels, ids, log_probs, ObjectiveConfig(alpha=0.99, name="chen2020"))
    with pytest.raises(UsageError, match="needs soft labels"):
        distillation_loss(logits, labels, None, None, ObjectiveConfig(alpha=0.99, name="chen2020"))


def test_parts_by_hand() -> None:
    """The recorded sums are the plain negative log-likelihood, the hits and the positions."""
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]]).log()
    labels, ids = torch.tensor([0, 1]), torch.tensor([[1], [1]])
    config = ObjectiveConfig(alpha=0.5, label_smoothing=0.2, name="chen2020")
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
