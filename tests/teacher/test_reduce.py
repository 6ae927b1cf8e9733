"""Distributions reduced to draws and normalizers, against exact moments, slow loops and dense formulas."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from kdcache.labels import counter_random
from kdcache.labels.soft_labels import SoftLabels, from_counts, to_counts
from kdcache.losses.objective_config import ObjectiveConfig
from kdcache.losses.projection import OutputLayer, projected_loss
from kdcache.teacher import reduction as module
from kdcache.teacher.reduction import Reduction


def make_rows(seed: int, n: int, vocabulary: int, spread: float = 2.0) -> Tensor:
    logits = spread * torch.randn((n, vocabulary), generator=torch.Generator().manual_seed(seed))
    return torch.log_softmax(logits, dim=1)


def draw(log_probs: Tensor, keys: counter_random.UInt64s, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and counts of `count` draws from each row."""
    n, vocabulary = log_probs.shape
    reduction = Reduction(min(count, vocabulary), draws=count, keys=keys)
    found = reduction(log_probs, np.zeros(n, dtype=np.int64), np.arange(n))
    return found.ids, found.values


def dense(ids: np.ndarray, counts: np.ndarray, vocabulary: int) -> np.ndarray:
    """Counts of every word, int64 [n, vocabulary]."""
    found = np.zeros((len(ids), vocabulary), dtype=np.int64)
    np.add.at(found, (np.arange(len(ids))[:, None], ids), counts)
    return found


def test_the_stream_is_splitmix64() -> None:
    """From the state 1234567 come the numbers that are published for it, and equal keys are equal streams."""
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    found = counter_random.uniforms(np.array([1234567], dtype=np.uint64), 4)
    assert found.tolist() == [[(one >> 11) / 2**53 for one in published]]
    assert counter_random.keys(1, np.array([5, 6]), 7).tolist() == [
        *counter_random.keys(1, 5, 7),
        *counter_random.keys(1, 6, 7),
    ]
    parts = [(1, 2, 3), (2, 1, 3), (1, 3, 2), (0, 0, 0), (0, 0), (0,), (1, 2, 4)]
    assert len({int(counter_random.keys(*one)[0]) for one in parts}) == len(parts)


def test_uniforms_are_uniform() -> None:
    """Ten thousand streams of neighbouring keys: moments within their sampling error, streams uncorrelated."""
    found = counter_random.uniforms(counter_random.keys(3, np.arange(10_000)), 8)
    n = found.size
    assert abs(found.mean() - 0.5) < 4 * math.sqrt(1 / 12 / n)
    assert abs((found**2).mean() - 1 / 3) < 4 * math.sqrt(4 / 45 / n)
    for one, other in ((found[:, 0], found[:, 1]), (found[:-1, 0], found[1:, 0])):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / math.sqrt(len(one))
    bins = np.bincount((found * 64).astype(int).ravel(), minlength=64)
    assert abs(((bins - n / 64) ** 2).sum() / (n / 64) - 63) < 4 * math.sqrt(2 * 63)


@pytest.mark.parametrize(("count", "spread"), [(1, 1.0), (50, 1.0), (50, 3.0), (300, 0.0)])
def test_the_mean_of_many_draws_is_the_distribution(count: int, spread: float) -> None:
    """Over 4,000 positions with one distribution the counts pass a chi-square test: no word is favoured."""
    n, vocabulary = 4_000, 60
    row = make_rows(1, 1, vocabulary, spread)
    ids, counts = draw(row.expand(n, -1).contiguous(), counter_random.keys(7, np.arange(n)), count)
    found, expected = dense(ids, counts, vocabulary), n * count * row[0].double().exp().numpy()
    # Words that are too rare for the test's distribution are taken together.
    rare = expected < 5
    total, wanted = found.sum(axis=0), np.append(expected[~rare], expected[rare].sum())
    seen = np.append(total[~rare], total[rare].sum())
    wanted, seen = wanted[wanted > 0], seen[wanted > 0]
    statistic, freedom = ((seen - wanted) ** 2 / wanted).sum(), len(wanted) - 1
    assert abs(statistic - freedom) < 4 * math.sqrt(2 * freedom)
    # And the draws at one position are independent: the variance of a count is that of a binomial.
    p = row[0].double().exp().numpy()
    likely = count * p > 0.5 if (count * p > 0.5).any() else p > 0.02
    variance = found[:, likely].var(axis=0) / (count * p * (1 - p))[likely]
    np.testing.assert_allclose(variance, 1, atol=0.25)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.integers(1, 9), st.integers(1, 12), st.integers(1, 30), st.integers(1, 3))
def test_draws_equal_a_slow_loop(seed: int, n: int, vocabulary: int, count: int, chunk: int) -> None:
    """Each row holds the words of a loop over its draws, the most frequent first, then by id, whatever is chunked."""
    log_probs, keys = make_rows(seed, n, vocabulary), counter_random.keys(seed, np.arange(n))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_CHUNK", chunk * max(vocabulary, count))
        ids, counts = draw(log_probs, keys, count)
    assert ids.shape == counts.shape == (n, min(count, vocabulary))
    for row in range(n):
        sums = np.cumsum(log_probs[row].exp().double().numpy())
        points = counter_random.uniforms(keys[row : row + 1], count)[0] * sums[-1]
        words = Counter(next(w for w in range(vocabulary) if point < sums[w]) for point in points)
        expected = sorted(words.items(), key=lambda item: (-item[1], item[0]))
        found = [(i, c) for i, c in zip(ids[row].tolist(), counts[row].tolist(), strict=True) if c]
        assert found == expected
        assert (ids[row, len(found) :] == 0).all()
        assert (counts[row, len(found) :] == 0).all()


def test_a_draw_depends_on_its_own_row_and_key_alone() -> None:
    """Rows in another order and company give the same draws; other keys give others."""
    log_probs, keys = make_rows(4, 40, 30), counter_random.keys(9, np.arange(40))
    ids, counts = draw(log_probs, keys, 20)
    order = np.random.default_rng(1).permutation(40)[:11]
    some = draw(log_probs[torch.from_numpy(order)], keys[order], 20)
    np.testing.assert_array_equal(some[0], ids[order])
    np.testing.assert_array_equal(some[1], counts[order])
    assert (draw(log_probs, counter_random.keys(8, np.arange(40)), 20)[1] != counts).any(axis=1).mean() > 0.9


def test_words_without_probability_are_never_drawn() -> None:
    """A distribution on the first, a middle and the last word draws these alone."""
    logits = torch.full((200, 9), -torch.inf)
    logits[:, [0, 4, 8]] = torch.tensor([0.2, 0.3, 0.5]).log()
    ids, counts = draw(logits, counter_random.keys(np.arange(200)), 30)
    assert set(ids[counts > 0].tolist()) == {0, 4, 8}


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 1 << 30), st.integers(1, 9), st.integers(1, 12), st.integers(1, 300))
def test_counts_come_back_and_no_id_stands_twice(seed: int, n: int, vocabulary: int, count: int) -> None:
    """As soft labels, shares are logarithms of count/N, and columns without a word hold the smallest free ids."""
    ids, counts = draw(make_rows(seed, n, vocabulary), counter_random.keys(seed, np.arange(n)), count)
    labels = from_counts(ids, counts, count)
    np.testing.assert_array_equal(to_counts(labels.log_probs, count), counts)
    assert labels.log_probs.dtype == np.float32
    for row in range(n):
        used = [int(i) for i, c in zip(ids[row], counts[row], strict=True) if c]
        free = [word for word in range(vocabulary) if word not in used]
        assert labels.token_ids[row].tolist() == used + free[: ids.shape[1] - len(used)]
    np.testing.assert_allclose(labels.mass(), 1, rtol=1e-6)
    # What fills a column is not among the words.
    assert (labels.rank_of(labels.token_ids[:, -1]) == labels.k)[counts[:, -1] == 0].all()


def test_the_expected_gradient_is_that_of_the_whole_distribution() -> None:
    """Over 600 seeds the gradients' mean lies within 4.5 standard errors of the full distribution's, everywhere."""
    n, vocabulary, width, count, seeds = 5, 12, 4, 6, 600
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn((n, width), generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn((vocabulary, width), generator=generator, dtype=torch.float64).requires_grad_()
    log_probs, labels = make_rows(3, n, vocabulary), torch.zeros(n, dtype=torch.long)

    def gradient(soft: SoftLabels[Tensor], name: str) -> Tensor:
        config = ObjectiveConfig(alpha=0.0, label_smoothing=0.0, name=name)
        total = projected_loss(hidden, OutputLayer(weight, None), labels, soft, config).total
        return torch.cat([one.ravel() for one in torch.autograd.grad(total, (hidden, weight))])

    every = torch.arange(vocabulary).expand(n, -1)
    expected = gradient(SoftLabels(every, log_probs.double()), "bucket")
    found = []
    for seed in range(seeds):
        drawn = from_counts(*draw(log_probs, counter_random.keys(seed, np.arange(n)), count), count)
        soft = SoftLabels(torch.from_numpy(drawn.token_ids).long(), torch.from_numpy(drawn.log_probs).double())
        found.append(gradient(soft, "sampled"))
    errors = torch.stack(found).std(dim=0) / math.sqrt(seeds)
    assert (errors > 0).all()
    assert ((torch.stack(found).mean(dim=0) - expected).abs() < 4.5 * errors).all()


@pytest.mark.parametrize("chunk", [1, 1 << 22])
def test_normalizers_equal_the_dense_formula(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Log Σ p^(1/T) in float32 is that of float64 over the whole vocabulary, also below T = 1 and for sure teachers."""
    monkeypatch.setattr(module, "_CHUNK", chunk)
    temperatures = (0.5, 2.0, 5.0, 10.0)
    for spread in (0.1, 3.0, 30.0):
        log_probs = make_rows(5, 7, 400, spread)
        found = Reduction(3, temperatures)(log_probs, np.zeros(7, dtype=np.int64), np.arange(7)).log_normalizers
        assert found is not None
        assert found.dtype == np.float32
        expected = [(log_probs.double() / t).exp().sum(dim=1).log() for t in temperatures]
        np.testing.assert_allclose(found, torch.stack(expected, dim=1).numpy(), atol=2e-6)
