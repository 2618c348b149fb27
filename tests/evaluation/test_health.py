import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk.evaluation import embedding_health

laws = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def sample(seed, shape=(30, 5)):
    return np.random.default_rng(seed).normal(size=shape)


def test_alignment_of_known_views():
    Z = sample(0)
    assert embedding_health(Z).alignment is None
    assert embedding_health(Z, Z).alignment == 0
    assert embedding_health(Z, -Z).alignment == pytest.approx(4)
    assert embedding_health(np.eye(4), np.roll(np.eye(4), 1, 0)).alignment == pytest.approx(2)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_uniformity_of_the_corners_of_a_simplex(n):
    """All pairs of the n corners have the squared distance 2 n / (n - 1)."""
    corners = np.eye(n) - 1 / n
    assert embedding_health(corners).uniformity == pytest.approx(-4 * n / (n - 1))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_measure_shows_that_an_embedding_has_collapsed(dtype):
    Z = np.tile(sample(0, (1, 64)), (500, 1)).astype(dtype)
    health = embedding_health(Z, Z)
    assert health.spread == health.effective_rank == health.alignment == 0
    assert health.uniformity == pytest.approx(0, abs=1e-12)


def test_uniformity_of_evenly_spaced_directions_is_that_of_the_circle():
    """Squared distance 2 - 2 cos a, so E exp(-4 + 4 cos a) = exp(-4) I_0(4)."""
    angle = np.arange(2000) * 2 * np.pi / 2000
    found = embedding_health(np.stack([np.cos(angle), np.sin(angle)], 1)).uniformity
    assert found == pytest.approx(-4 + math.log(np.i0(4)), abs=1e-2)


@laws
@given(seed=seeds, n=st.integers(2, 40))
def test_alignment_and_uniformity_follow_the_formulas_of_the_paper(seed, n):
    Z, view = sample(seed, (n, 5)), sample(seed + 1, (n, 5))
    u, v = (torch.nn.functional.normalize(torch.tensor(z)) for z in (Z, view))
    found = embedding_health(Z, view)
    assert found.alignment == pytest.approx((u - v).norm(dim=1).pow(2).mean().item())
    expected = torch.pdist(u).pow(2).mul(-2).exp().mean().log().item()
    assert found.uniformity == pytest.approx(expected)
    assert -8 <= found.uniformity <= 0


@laws
@given(seed=seeds)
def test_rotation_scale_and_order_do_not_matter(seed):
    random = np.random.default_rng(seed)
    order, rotation = random.permutation(30), np.linalg.qr(random.normal(size=(5, 5)))[0]
    Z, view = sample(seed), sample(seed + 1)
    moved = embedding_health(*(3 * z[order] @ rotation for z in (Z, view)))
    for name, value in embedding_health(Z, view).items():
        assert moved[name] == pytest.approx(value, rel=1e-5)


def test_limiting_memory_does_not_change_the_result(monkeypatch):
    Z = sample(0, (500, 3))
    at_once = embedding_health(Z).uniformity
    monkeypatch.setattr("otcxr_sk.evaluation._health._WORKING_MEMORY", 0.01)
    assert embedding_health(Z).uniformity == pytest.approx(at_once)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ((np.ones((1, 3)),), "Z has 1 row, and at least 2 images are needed"),
        (
            (np.full((3, 3), np.inf),),
            r"Z: row 0 .and 2 more. has NaN or infinity, .*: Z\[np.isfinite",
        ),
        ((np.ones((3, 3)), np.ones((3, 2))), r"Z_view has shape \(3, 2\), Z has \(3, 3\)"),
        (
            (np.ones((3, 3)), np.full((3, 3), np.nan)),
            "Z_view: row 0 .and 2 more. has NaN or infinity",
        ),
    ],
)
def test_the_message_names_what_is_wrong(arrays, message):
    with pytest.raises(ValueError, match=message):
        embedding_health(*arrays)
