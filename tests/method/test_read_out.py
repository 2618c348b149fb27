import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from otcxr_sk.method import Objective, OTCXRModel, build_encoder, token_centers, without_read_out
from otcxr_sk.method._read_out import (
    ReadOut,
    asked_places,
    own_places,
    reading_error,
    token_spread,
    waves,
)
from otcxr_sk.method._views import Views

laws = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 5), st.integers(1, 5))


def normal(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


def two_views(seed, n=3, **options):
    views = Views(**{"crop_scale": (0.2, 1), "aspect": 2, "horizontal_flip": 0.5, **options})
    _, affine = views(torch.zeros(n, 1, 2, 2), torch.Generator().manual_seed(seed))
    return affine.double()


@pytest.fixture
def read_out():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ReadOut(6, 4, width=16, depth=2, heads=4).double()


@laws
@given(seed=seeds, grid=grids)
def test_an_asked_place_of_one_view_is_the_token_of_the_other_in_the_image(seed, grid):
    affine = two_views(seed)
    s, t = affine.chunk(2)
    asked, sizes = asked_places(affine, grid)
    in_image = asked @ s[:, :, :2].mT + s[:, None, :, 2]
    near = (asked.abs() < 3).all(2)
    torch.testing.assert_close(in_image[near], token_centers(t, grid)[near])
    area_s, area_t = (view.diagonal(dim1=1, dim2=2).prod(1).abs() for view in (s, t))
    torch.testing.assert_close(
        sizes.sum(2).exp(), (area_t / area_s)[:, None].expand(asked.shape[:2])
    )


@laws
@given(grid=grids)
def test_between_whole_views_each_token_is_asked_for_at_its_own_place(grid):
    whole = torch.eye(2, 3).double().expand(4, 2, 3)
    asked, sizes = asked_places(whole, grid)
    torch.testing.assert_close(asked, own_places(grid, whole).expand(2, -1, -1))
    assert not sizes.any()


@laws
@given(seed=seeds, grid=grids)
def test_in_a_mirrored_view_the_places_are_mirrored(seed, grid):
    affine = two_views(seed)
    mirrored = affine.clone()
    mirrored[:3, 0, 0] *= -1
    (asked, sizes), (there, as_large) = (asked_places(each, grid) for each in (affine, mirrored))
    torch.testing.assert_close(there, asked * torch.tensor([-1.0, 1.0]).double())
    torch.testing.assert_close(as_large, sizes)


def test_places_are_told_apart_to_less_than_a_token():
    x = torch.linspace(-3, 3, 601, dtype=torch.float64)
    described = waves(torch.stack([x, 0 * x], -1))
    assert described.shape == (601, 32)
    distances = torch.cdist(described, described)
    apart = (x[:, None] - x).abs() > 0.05
    assert distances[apart].min() > 10 * torch.finfo(torch.float32).eps * distances.max()
    assert distances[apart].min() > 0.5


@laws
@given(seed=seeds, order=st.permutations(range(5)))
def test_tokens_may_come_in_any_order_with_their_places(seed, order):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        read_out = ReadOut(6, 4, width=16, heads=4).double()
    values, places = normal(2, 5, 6, seed=seed), normal(2, 5, 2, seed=seed + 1)
    asked, sizes = normal(2, 7, 2, seed=seed + 2), normal(2, 7, 2, seed=seed + 3)
    told = read_out(values, places, asked, sizes)
    again = read_out(values[:, order], places[:, order], asked, sizes)
    torch.testing.assert_close(again, told)
    torch.testing.assert_close(read_out(values, places, asked[:, :3], sizes[:, :3]), told[:, :3])
    assert not torch.allclose(read_out(values, places.flip(1), asked, sizes), told)


def test_each_image_is_read_by_itself(read_out):
    values, places, asked, sizes = (normal(2, 5, width) for width in (6, 2, 2, 2))
    changed = values.clone()
    changed[0] *= -1
    difference = read_out(changed, places, asked, sizes) - read_out(values, places, asked, sizes)
    assert difference[0].abs().max() > 1e-3
    assert not difference[1].any()


def test_the_error_is_twice_one_minus_the_correlation_and_teaches_only_who_tells():
    told, shown = normal(3, 5, 8).requires_grad_(), normal(3, 5, 8, seed=1).requires_grad_()
    error = reading_error(told, shown)
    error.sum().backward()
    assert shown.grad is None
    assert told.grad.abs().sum() > 0
    away = (shown - shown.mean(1, keepdim=True)).detach()
    pairs = torch.stack([told.detach(), away]).flatten(1, 2).transpose(0, 1)
    correlations = torch.stack([torch.corrcoef(pair)[0, 1] for pair in pairs]).view(3, 5)
    torch.testing.assert_close(error, 2 * (1 - correlations).mean(1), atol=1e-4, rtol=0)


def test_what_all_tokens_of_a_view_share_is_not_asked_for():
    told, shown = normal(3, 5, 8), normal(3, 5, 8, seed=1)
    torch.testing.assert_close(
        reading_error(told, shown + normal(3, 1, 8, seed=2)), reading_error(told, shown)
    )


@laws
@given(seed=seeds, scale=st.floats(0.1, 10))
def test_the_spread_of_tokens_is_that_around_the_mean_of_their_image(seed, scale):
    shown = normal(3, 5, 8, seed=seed)
    flat = shown.mean(1, keepdim=True).expand_as(shown)
    expected = ((shown - flat).square().sum((1, 2)) / shown.square().sum((1, 2))).sqrt()
    torch.testing.assert_close(token_spread(scale * shown), expected)
    torch.testing.assert_close(token_spread(flat), torch.zeros(3).double(), atol=1e-12, rtol=0)
    assert not token_spread(torch.zeros(3, 5, 8)).any()


def make_model(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = build_encoder("test_resnet", size=32, match_stride=8)
        objective = Objective(**{"read_out": 40.0, **options})
        return OTCXRModel(encoder, objective), objective


def pairs(n=6):
    images = torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    return Views()(images, torch.Generator().manual_seed(1))


def test_the_gradient_of_the_read_out_reaches_the_last_stage_and_no_head():
    model, _ = make_model()
    model(*pairs())[0]["read_out"].backward()
    last = [p for name, p in model.encoder.named_parameters() if "layer4" in name]
    assert any(p.grad.any() for p in last)
    for head in (model.dense_head, model.projector):
        assert all(p.grad is None for p in head.parameters())


def test_without_a_weight_there_is_no_read_out():
    model, objective = make_model()
    with torch.random.fork_rng():
        bare = OTCXRModel(model.encoder, without_read_out(objective))
    assert bare.read_out is None
    assert not any("read_out" in name for name in bare.state_dict())
    terms, _ = bare(*pairs())
    assert not {"read_out", "token_spread"} & {*terms}
    assert without_read_out(objective).total(terms).isfinite()
    assert make_model(read_out=0.0)[0].read_out is None


def test_a_read_out_learns_to_tell_what_is_shown():
    encoder = build_encoder(nn.Sequential(nn.Conv2d(1, 16, 8, stride=8)), size=32, match_stride=8)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = OTCXRModel(encoder, Objective(read_out=1.0))
    optimizer = torch.optim.Adam(model.read_out.parameters(), lr=3e-3)
    views, affine = pairs(32)
    errors = []
    for _ in range(30):
        error = model(views, affine)[0]["read_out"]
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        errors.append(error.item())
    assert errors[0] == pytest.approx(2, abs=0.3)
    assert errors[-1] < 0.9 * errors[0]
    assert math.isfinite(errors[-1])
