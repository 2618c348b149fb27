import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk.method._objective import Objective, regularizers

laws = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
shapes = st.tuples(st.integers(2, 9), st.integers(1, 5))


def variance_loss(q):
    return regularizers(torch.stack([q, q]))[0] / 2


def covariance_loss(q):
    return regularizers(torch.stack([q, q]))[1] / 2


def samples(seed, shape=(8, 4)):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def test_variance_term_of_a_constant_is_one_minus_the_root_of_its_guard():
    assert variance_loss(torch.full((8, 4), 3.0)).item() == pytest.approx(0.99)


@laws
@given(seed=seeds, shape=shapes, scale=st.floats(0.1, 3))
def test_both_terms_agree_with_their_formulas_in_numpy(seed, shape, scale):
    q = scale * samples(seed, shape)
    array = q.numpy()
    variance = np.maximum(0, 1 - np.sqrt(array.var(0, ddof=1) + 1e-4)).mean()
    matrix = np.atleast_2d(np.cov(array, rowvar=False))
    off_diagonal = (matrix[~np.eye(shape[1], dtype=bool)] ** 2).sum() / shape[1]
    assert variance_loss(q).item() == pytest.approx(variance)
    assert covariance_loss(q).item() == pytest.approx(off_diagonal)


@laws
@given(seed=seeds)
def test_neither_term_depends_on_the_order_of_samples_their_mean_or_their_leading_axes(seed):
    q = samples(seed, (12, 3))
    for loss in (variance_loss, covariance_loss):
        torch.testing.assert_close(loss(q.flip(0)), loss(q))
        torch.testing.assert_close(loss(q + 7), loss(q))
        torch.testing.assert_close(loss(q.view(3, 4, 3)), loss(q))
    torch.testing.assert_close(covariance_loss(2 * q), 16 * covariance_loss(q))
    assert 0 <= variance_loss(q) <= 1


@pytest.mark.parametrize("loss", [variance_loss, covariance_loss])
def test_gradients_are_those_of_finite_differences(loss):
    assert torch.autograd.gradcheck(loss, (0.5 * samples(0, (2, 4, 3)).requires_grad_(),))


def test_gradient_of_the_variance_term_of_a_constant_is_finite():
    q = torch.ones(8, 4, requires_grad=True)
    variance_loss(q).backward()
    assert q.grad.isfinite().all()


def test_regularizers_take_each_view_on_its_own():
    s, t = samples(0), 0.3 * samples(1)
    variance, covariance = regularizers(torch.stack([s, t]))
    torch.testing.assert_close(variance, variance_loss(s) + variance_loss(t))
    torch.testing.assert_close(covariance, covariance_loss(s) + covariance_loss(t))
    # Views that are constant, though far apart, have no variance.
    apart = torch.stack([torch.zeros(8, 4), torch.ones(8, 4)])
    assert regularizers(apart)[0].item() == pytest.approx(2 * 0.99)


TERMS = {
    name: torch.tensor(value)
    for name, value in {
        "transport": 0.5,
        "variance": 1.5,
        "covariance": 0.25,
        "global_invariance": 2.0,
        "global_variance": 0.75,
        "global_covariance": 5.0,
        "read_out": 1.25,
    }.items()
}


def test_total_is_the_sum_of_the_paper_the_weighted_image_level_loss_and_the_read_out():
    objective = Objective(alpha=2, beta=3, eta=4, global_weight=10, read_out=20)
    dense = 2 * 0.5 + 3 * 1.5 + 4 * 0.25
    image = 2.0 + 0.75 * 3 / 2 + 5.0 / 25
    assert objective.total(TERMS).item() == pytest.approx(dense + 10 * image + 20 * 1.25)
    as_printed = dataclasses.replace(objective, global_weight=0, read_out=0)
    assert as_printed.total(TERMS).item() == dense


@pytest.mark.parametrize(
    ("weight", "terms"),
    [
        ("alpha", ["transport"]),
        ("beta", ["variance"]),
        ("eta", ["covariance"]),
        ("global_weight", [name for name in TERMS if name.startswith("global_")]),
        ("read_out", ["read_out"]),
    ],
)
def test_a_term_whose_weight_is_zero_cannot_spoil_the_total(weight, terms):
    objective = Objective(alpha=1, beta=1, eta=1, global_weight=1, read_out=1)
    spoiled = TERMS | dict.fromkeys(terms, torch.tensor(math.nan))
    assert objective.total(spoiled).isnan()
    assert dataclasses.replace(objective, **{weight: 0}).total(spoiled).isfinite()
