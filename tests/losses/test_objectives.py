"""Every named objective against dense float64 formulas over the whole vocabulary, and against numbers by hand."""

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import TEMPERED, Case, compare, config_of, make_case
from torch import Tensor

from kdcache.errors import UsageError
from kdcache.labels.soft_labels import SoftLabels
from kdcache.losses import projection as module
from kdcache.losses.objective_config import BUCKETED, OBJECTIVES, ObjectiveConfig, Ramp, parse_ramp
from kdcache.losses.objectives import cross_entropy, jensen_shannon, reverse_kl
from kdcache.losses.projection import OutputLayer, projected_loss


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("k", [1, 4, 13])
@pytest.mark.parametrize("temperature", [1.0, 0.5, 10.0])
def test_every_objective_equals_its_dense_formula(name: str, k: int, temperature: float) -> None:
    """Values and gradients are those of whole-vocabulary formulas, also at k = 1 and k = vocabulary."""
    used = temperature if name in TEMPERED else 1.0
    for seed, (alpha, smoothing) in enumerate(((0.3, 0.1), (0.0, 0.0), (1.0, 0.1)), 1):
        compare(make_case(seed, k=k), config_of(name, used, alpha=alpha, label_smoothing=smoothing), used)


@pytest.mark.parametrize("name", ["chen2020", "bucket", "hinton"])
@pytest.mark.parametrize("gate", ["confident", "known"])
def test_gates_leave_the_hard_term_alone_elsewhere(name: str, gate: str) -> None:
    """Where the gate is shut, the position has the plain hard loss; where it is open, the mixture."""
    case = make_case(3, n=40)
    config = config_of(name, 2.0 if name == "hinton" else 1.0, gate=gate, gate_threshold=0.6)
    compare(case, config, 2.0 if name == "hinton" else 1.0)
    values = {case.ours(one).item() for one in (config, replace(config, gate="none"), replace(config, alpha=1.0))}
    assert len(values) == 3


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**31),
    n=st.integers(1, 7),
    vocabulary=st.integers(2, 12),
    share=st.floats(0, 1),
    name=st.sampled_from(sorted(OBJECTIVES)),
    gate=st.sampled_from(["none", "confident", "known"]),
    positions=st.integers(1, 4),
    temperature=st.sampled_from([1.0, 2.5]),
)
def test_chunks_change_nothing(
    seed: int, n: int, vocabulary: int, share: float, name: str, gate: str, positions: int, temperature: float
) -> None:
    """However the positions are cut into chunks, value and gradients are those of the dense form."""
    used = temperature if name in TEMPERED else 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK_POSITIONS", positions)
        patch.setattr(module, "_CHUNK_LOGITS", 1)
        case = make_case(seed, n, vocabulary, k=max(1, round(share * vocabulary)))
        compare(case, config_of(name, used, gate=gate), used, tolerance=1e-7)


def test_no_more_logits_than_a_chunk_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest tensor that the loss makes has the size of a chunk of logits, not of all."""
    monkeypatch.setattr(module, "_CHUNK_POSITIONS", 8)
    monkeypatch.setattr(module, "_CHUNK_LOGITS", 1)
    case = make_case(4, n=100, vocabulary=50)
    case.leaves()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            for one in out if isinstance(out, tuple) else (out,):
                largest = max(largest, one.numel() if isinstance(one, Tensor) else 0)
            return out

    with Watch():
        case.ours(config_of("bucket", 1.0)).backward()
    assert 8 * 50 <= largest < 100 * 50 / 5


@pytest.mark.parametrize("name", OBJECTIVES)
def test_extreme_logits_stay_finite(name: str) -> None:
    """A student that is sure, rightly or wrongly, a teacher that is sure, and equal logits give finite gradients."""
    case = make_case(5, n=4, vocabulary=9, k=3, spread=60.0)
    with torch.no_grad():
        case.hidden[0] *= 200
        case.hidden[1] *= -200
        case.hidden[2] = 0
        case.bias.zero_()
    case.hidden, case.weight, case.bias = (one.float() for one in (case.hidden, case.weight, case.bias))
    case.teacher = case.teacher.half()
    leaves = case.leaves()
    total = case.ours(config_of(name, 1.0))
    assert math.isfinite(total.item())
    assert all(bool(torch.isfinite(one).all()) for one in torch.autograd.grad(total, leaves))


def test_words_without_probability_do_not_count() -> None:
    """A log-probability of -inf is a word that the teacher rules out, and 0 · -inf is 0."""
    teacher = torch.tensor([[math.log(0.75), math.log(0.25), -torch.inf]], dtype=torch.float64)
    student = torch.tensor([[0.5, 0.5, 0.0]], dtype=torch.float64).log()
    assert float(cross_entropy(student, teacher)) == pytest.approx(math.log(2))
    # 0.5 · ln(0.5/0.75) + 0.5 · ln(0.5/0.25)
    assert float(reverse_kl(student, teacher)) == pytest.approx(0.143841036)
    # With m = (0.625, 0.375): ½ (0.75 ln(0.75/0.625) + 0.25 ln(0.25/0.375)) + ½ (0.5 ln(0.8) + 0.5 ln(0.5/0.375))
    assert float(jensen_shannon(student, teacher)) == pytest.approx(0.033822076, rel=1e-6)


def test_the_bucket_by_hand() -> None:
    """K = 1 of a vocabulary of four: the tail's mass is compared with the three other words' together."""
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    soft = SoftLabels(torch.tensor([[0]]), torch.tensor([[0.7]], dtype=torch.float64).log())
    layer = OutputLayer(torch.eye(4, dtype=torch.float64), None)

    def loss(name: str) -> float:
        config = ObjectiveConfig(alpha=0.0, name=name)
        return float(projected_loss(logits, layer, torch.tensor([2]), soft, config).total)

    # -0.7 · ln 0.4 - 0.3 · ln 0.6
    assert loss("bucket") == pytest.approx(0.794651199)
    # less the teacher's entropy, -0.7 · ln 0.7 - 0.3 · ln 0.3
    assert loss("forward-kl") == pytest.approx(0.794651199 - 0.610864302)
    # Alone, the k words draw all mass to themselves: -ln 0.4.
    assert loss("chen2020") == pytest.approx(0.916290732)


def test_bfloat16_products_come_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under autocast value and gradients are those of float32 up to the rounding of the products."""
    monkeypatch.setattr(module, "_CHUNK_POSITIONS", 7)
    monkeypatch.setattr(module, "_CHUNK_LOGITS", 1)
    case = make_case(6, n=30, vocabulary=40, k=8, width=16)
    case.hidden, case.weight, case.bias = (one.float() / 4 for one in (case.hidden, case.weight, case.bias))
    case.teacher = case.teacher.float()
    leaves = case.leaves()
    config = config_of("chen2020", 1.0)
    exact = torch.autograd.grad(case.ours(config), leaves)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total = case.ours(config)
    rounded = torch.autograd.grad(total, leaves)
    assert total.dtype == torch.float32
    for one, other in zip(rounded, exact, strict=True):
        assert one.dtype == torch.float32
        assert float((one - other).norm() / other.norm()) < 0.02
    assert not torch.equal(rounded[1], exact[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_gpu_gives_the_same(name: str) -> None:
    """Value and gradients on a GPU equal those on the CPU in float64."""
    case = make_case(7)
    config = config_of(name, 1.0)
    leaves = case.leaves()
    expected = torch.autograd.grad(case.ours(config), leaves)
    moved = Case(*(getattr(case, field).detach().cuda() for field in Case.__dataclass_fields__))
    for one, other in zip(torch.autograd.grad(moved.ours(config), moved.leaves()), expected, strict=True):
        torch.testing.assert_close(one.cpu(), other)


def test_ramps_by_hand() -> None:
    """A ramp is at its start in step 1, halfway at half its steps, and stays at its end."""
    ramp = Ramp(1.0, 0.5, 100)
    assert [ramp.at(step) for step in (1, 51, 101, 5_000)] == [1.0, 0.75, 0.5, 0.5]
    config = ObjectiveConfig(alpha=ramp, temperature=Ramp(1.0, 3.0, 2), name="chen2020")
    assert config.at(2) == (0.995, 2.0)
    assert config.needs_soft_labels
    assert not ObjectiveConfig(alpha=1.0).needs_soft_labels
    assert parse_ramp("0.5", "--alpha") == 0.5
    assert parse_ramp("1:0.5:100", "--alpha") == ramp
    for bad in ("", "x", "1:2", "1:2:0", "1:2:3:4", "1:2:1.5"):
        with pytest.raises(UsageError, match="--alpha takes a number"):
            parse_ramp(bad, "--alpha")


def test_a_ramp_is_followed_step_by_step() -> None:
    """The loss of a step is that of the constant value that the ramp has there."""
    case = make_case(8)
    layer, soft = OutputLayer(case.weight, case.bias), case.soft("hinton", 1.0)
    config = ObjectiveConfig(alpha=Ramp(0.9, 0.1, 10), temperature=Ramp(1.0, 4.0, 10), name="hinton")
    for step in (1, 4, 20):
        alpha, temperature = config.at(step)
        constant = ObjectiveConfig(alpha=alpha, temperature=temperature, name="hinton")
        one, other = (projected_loss(case.hidden, layer, case.labels, soft, c, step).total for c in (config, constant))
        assert float(one) == float(other)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"name": "kd"}, "--objective must be one of chen2020"),
        ({"name": "bucket", "temperature": Ramp(1.0, 2.0, 5)}, "known at single temperatures only"),
        ({"name": "sampled", "temperature": 2.0}, "takes the drawn words as they are"),
        ({"name": "sampled", "topk": 3}, "takes the drawn words as they are"),
        ({"alpha": -0.1}, "--alpha must be between 0 and 1"),
        ({"alpha": 1.1}, "--alpha must be between 0 and 1"),
        ({"temperature": 0.0}, "--temperature must be a finite number above 0"),
        ({"temperature": math.nan}, "--temperature must be a finite number above 0"),
        ({"label_smoothing": 1.0}, "--label-smoothing must be at least 0 and below 1"),
        ({"label_smoothing": -0.1}, "--label-smoothing must be at least 0 and below 1"),
        ({"alpha": Ramp(1.0, -0.1, 5)}, "--alpha must be between 0 and 1, not 1.0:-0.1:5"),
        ({"temperature": Ramp(1.0, 0.0, 5)}, "--temperature must be a finite number above 0"),
        ({"temperature": math.inf}, "--temperature must be a finite number above 0"),
        ({"gate": "open"}, "--gate must be one of"),
        ({"gate_threshold": 1.5}, "--gate-threshold"),
    ],
)
def test_settings_are_checked(given: dict[str, object], words: str) -> None:
    """A name or value outside its range is refused with the option's name."""
    with pytest.raises(UsageError, match=words):
        ObjectiveConfig(**given).check()  # type: ignore[arg-type]


def test_the_tail_at_another_temperature_needs_a_normalizer() -> None:
    """The k words give the tail at T = 1 alone; elsewhere an objective that counts it is refused without normalizer."""
    case = make_case(9)
    for name in BUCKETED:
        config = config_of(name, 2.0)
        config.check()
        soft = replace(case.soft(name, 2.0), log_normalizers=None)
        layer = OutputLayer(case.weight, case.bias)
        with pytest.raises(UsageError, match=f"--temperature 2 with --objective {name} needs normalizers"):
            projected_loss(case.hidden, layer, case.labels, soft, config)
        projected_loss(case.hidden, layer, case.labels, soft, config_of(name, 1.0))


@pytest.mark.parametrize("gate", ["none", "known", "confident"])
def test_columns_without_a_drawn_word_change_nothing(gate: str) -> None:
    """Ids that fill unused columns at -inf, the written word among them, alter neither value nor gradient."""
    case = make_case(11, n=12, vocabulary=17, k=3)
    drawn = torch.log_softmax(case.teacher.gather(1, case.ids), dim=1)
    fillers = torch.stack(
        [torch.tensor([word for word in range(17) if word not in row][:6]) for row in case.ids.tolist()]
    )
    case.labels = fillers[:, 0].clone()
    empty = torch.full(fillers.shape, -torch.inf, dtype=torch.float64)
    padded = SoftLabels(torch.cat([case.ids, fillers], dim=1), torch.cat([drawn, empty], dim=1))
    config = config_of("sampled", 1.0, gate=gate, gate_threshold=0.5)
    found = []
    for soft in (SoftLabels(case.ids, drawn), padded):
        leaves = case.leaves()
        total = projected_loss(case.hidden, OutputLayer(case.weight, case.bias), case.labels, soft, config).total
        found.append((total, *torch.autograd.grad(total, leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)
