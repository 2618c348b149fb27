import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk.method._geometry import neighbors
from otcxr_sk.method._statistics import effective_rank, matching_accuracy, spectrum, spread
from otcxr_sk.method._views import Views

laws = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
GRID = (3, 4)


def two_views(seed, n=3):
    views = Views(crop_scale=(0.5, 1), horizontal_flip=0.5)
    return views(torch.zeros(n, 1, 2, 2), torch.Generator().manual_seed(seed))[1]


def sample(seed, shape=(50, 6)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@laws
@given(seed=seeds)
def test_a_perfect_plan_has_accuracy_one_and_its_complement_zero(seed):
    affine = two_views(seed)
    near = neighbors(affine, GRID)[0].float()
    assert matching_accuracy(near + 1e-30, affine, GRID)[0].item() == pytest.approx(1)
    assert matching_accuracy(1 - near + 1e-30, affine, GRID)[0].item() == pytest.approx(0)


@laws
@given(seed=seeds)
def test_a_uniform_plan_does_as_well_as_chance(seed):
    accuracy, chance = matching_accuracy(torch.full((3, 12, 12), 1 / 144), two_views(seed), GRID)
    assert accuracy.item() == pytest.approx(chance.item())
    assert 0 < chance < 1


@laws
@given(seed=seeds)
def test_accuracy_is_the_mean_over_tokens_whose_center_the_other_view_shows(seed):
    affine = two_views(seed)
    near, counts = neighbors(affine, GRID)
    plan = sample(seed, (3, 12, 12)).exp()
    shares = [
        (plan[b, i][near[b, i]].sum() / plan[b, i].sum()).item()
        for b, i in torch.nonzero(counts).tolist()
    ]
    accuracy, _ = matching_accuracy(plan, affine, GRID)
    assert accuracy.item() == pytest.approx(sum(shares) / len(shares), abs=1e-5)


def test_how_much_mass_a_token_has_does_not_matter():
    affine, plan = two_views(0), sample(0, (3, 12, 12)).exp()
    weights = torch.rand(3, 12, 1, generator=torch.Generator().manual_seed(1)) + 0.1
    torch.testing.assert_close(
        matching_accuracy(weights * plan, affine, GRID), matching_accuracy(plan, affine, GRID)
    )


def test_views_with_nothing_in_common_have_no_accuracy():
    affine = torch.tensor(
        [[[0.4, 0, -0.5], [0, 1, 0]], [[0.4, 0, 0.5], [0, 1, 0]]], dtype=torch.float32
    )
    accuracy, chance = matching_accuracy(torch.full((1, 12, 12), 1 / 144), affine, GRID)
    assert accuracy.isnan()
    assert chance.isnan()


def test_spread_of_known_clouds():
    assert spread(torch.full((10, 3), 2.0)) == pytest.approx(0, abs=1e-6)
    assert spread(torch.zeros(10, 3)) == 0
    assert spread(torch.tensor([[1.0, 2.0], [-1.0, -2.0]])) == pytest.approx(1)
    # Half a unit to either side of a mean of length one.
    assert spread(torch.tensor([[1.5, 0.0], [0.5, 0.0]])) == pytest.approx(0.5 / math.sqrt(1.25))


@laws
@given(seed=seeds, scale=st.floats(1e-3, 1e3))
def test_spread_lies_between_zero_and_one_and_ignores_scale(seed, scale):
    cloud = sample(seed) + 1
    assert 0 <= spread(cloud) <= 1
    assert spread(scale * cloud) == pytest.approx(spread(cloud), rel=1e-4)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_effective_rank_of_equal_singular_values_is_their_number(rank):
    directions = torch.eye(8)[:rank]
    assert effective_rank(spectrum(torch.cat([directions, -directions]))) == pytest.approx(rank)


def test_effective_rank_of_unequal_singular_values_is_the_exponential_of_their_entropy():
    cloud = torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]])
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert effective_rank(spectrum(cloud)) == pytest.approx(expected)


def test_the_spectrum_holds_the_shares_of_the_singular_values_in_order():
    cloud = torch.tensor([[0, 1.0], [0, -1], [3, 0], [-3, 0]])
    assert spectrum(cloud).tolist() == pytest.approx([0.75, 0.25])


@laws
@given(seed=seeds, n=st.integers(2, 9), width=st.integers(1, 9), scale=st.floats(1e-3, 1e3))
def test_effective_rank_ignores_scale_shift_and_rotation_and_keeps_its_bounds(
    seed, n, width, scale
):
    cloud = sample(seed, (n, width)).double()
    rotation = torch.linalg.qr(sample(seed + 1, (width, width)).double()).Q
    rank = effective_rank(spectrum(cloud))
    assert 1 - 1e-9 <= rank <= min(n - 1, width) + 1e-9
    assert effective_rank(spectrum(scale * cloud @ rotation + 5)) == pytest.approx(rank, rel=1e-6)


@laws
@given(seed=seeds, n=st.integers(2, 500))
def test_equal_embeddings_have_rank_zero(seed, n):
    vector = sample(seed, (1, 64))
    for same in (vector, vector.double()):
        assert effective_rank(spectrum(same.expand(n, -1))) == 0


@pytest.mark.parametrize("scale", [1e-200, 1e200])
def test_the_spectrum_of_very_small_and_large_numbers_is_that_of_usual_ones(scale):
    cloud = sample(0).double()
    torch.testing.assert_close(spectrum(scale * cloud), spectrum(cloud))


def test_no_embeddings_have_no_spectrum():
    assert not len(spectrum(torch.zeros(0, 3)))
