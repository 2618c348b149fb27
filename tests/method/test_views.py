import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import affine_grid, grid_sample

from otcxr_sk.method._geometry import axis_centers, token_centers
from otcxr_sk.method._views import NUMBERS_PER_VIEW, Views

PLAIN = {"contrast": 0.0, "brightness": 0.0, "blur": 1.0, "erase": 0.0}
laws = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def images(n=4, height=12, width=16):
    return torch.randn(n, 1, height, width, generator=torch.Generator().manual_seed(0))


def draw(views, x, seed=0):
    return views(x, torch.Generator().manual_seed(seed))


def test_settings_that_change_nothing_return_the_images():
    x = images()
    views, affine = draw(Views(crop_scale=(1, 1), aspect=1, **PLAIN), x)
    torch.testing.assert_close(views, torch.cat([x, x]), atol=1e-5, rtol=0)
    identity = torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    torch.testing.assert_close(affine, identity.expand(8, 2, 3))


@laws
@given(seed=seeds)
def test_a_sharp_view_is_what_grid_sample_samples_by_its_map(seed):
    x = images()
    views, affine = draw(Views(crop_scale=(0.1, 1), horizontal_flip=0.5, **PLAIN), x, seed)
    expected = grid_sample(
        torch.cat([x, x]),
        affine_grid(affine, views.shape, align_corners=False),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    torch.testing.assert_close(views, expected, atol=1e-4, rtol=0)


@laws
@given(seed=seeds)
def test_a_view_of_coordinates_shows_where_its_pixels_lie(seed):
    height, width = 12, 16
    x = axis_centers(width, torch.empty(0)).expand(1, 1, height, width)
    y = axis_centers(height, torch.empty(0))[:, None].expand(1, 1, height, width)
    plain = Views(crop_scale=(0.1, 1), horizontal_flip=0.5, **PLAIN)
    for axis, ramp in enumerate((x, y)):
        views, affine = draw(plain, ramp, seed)
        places = token_centers(affine, (height, width))[..., axis].view_as(views)
        border = ramp.max()
        torch.testing.assert_close(views, places.clamp(-border, border), atol=1e-5, rtol=0)


@laws
@given(seed=seeds, low=st.floats(0.05, 1), high=st.floats(0.05, 1), aspect=st.floats(1, 3))
def test_crops_lie_inside_the_image_and_keep_the_promised_area(seed, low, high, aspect):
    low, high = sorted((low, high))
    _, affine = draw(Views(crop_scale=(low, high), aspect=aspect), images(32), seed)
    scale, shift = affine.diagonal(dim1=1, dim2=2).abs(), affine[:, :, 2]
    assert (shift.abs() + scale <= 1 + 1e-6).all()
    area = scale.prod(1)
    assert (area >= low - 1e-6).all()
    assert (area <= high + 1e-6).all()
    ratio = scale[:, 0] / scale[:, 1]
    assert (ratio <= aspect + 1e-5).all()
    assert (ratio >= 1 / aspect - 1e-5).all()
    assert not affine[:, [0, 1], [1, 0]].any()


def test_a_flip_mirrors_the_view_and_its_map_together():
    kept, affine = draw(Views(horizontal_flip=0.0, erase=0), images())
    mirrored, mirrored_affine = draw(Views(horizontal_flip=1.0, erase=0), images())
    torch.testing.assert_close(mirrored, kept.flip(-1), atol=1e-5, rtol=0)
    torch.testing.assert_close(mirrored_affine[:, 0, 0], -affine[:, 0, 0])
    affine[:, 0, 0] *= -1
    torch.testing.assert_close(mirrored_affine, affine)


def test_half_of_the_views_stay_sharp_and_none_gains_contrast_by_blur():
    x = images(200)
    sharp, _ = draw(Views(contrast=0, brightness=0, blur=1, erase=0), x)
    blurred, _ = draw(Views(contrast=0, brightness=0, blur=3, erase=0), x)
    untouched = torch.isclose(sharp, blurred, atol=1e-5).flatten(1).all(1)
    assert untouched.float().mean().item() == pytest.approx(0.5, abs=0.1)
    assert (blurred.std((1, 2, 3)) <= sharp.std((1, 2, 3)) + 1e-4).all()
    assert blurred[~untouched].std() < 0.9 * sharp[~untouched].std()


def test_contrast_and_brightness_are_one_factor_and_one_shift_per_view_within_their_ranges():
    x = images(100)
    plain, _ = draw(Views(contrast=0, brightness=0, erase=0), x)
    toned, _ = draw(Views(contrast=0.3, brightness=0.2, erase=0), x)
    flat, change = plain.flatten(1), toned.flatten(1)
    factor = change.std(1) / flat.std(1)
    shift = change.mean(1) - factor * flat.mean(1)
    expected = factor[:, None] * flat + shift[:, None]
    torch.testing.assert_close(change, expected, atol=1e-4, rtol=0)
    assert 0.7 - 1e-4 <= factor.min() < 0.75
    assert 1.25 < factor.max() <= 1.3 + 1e-4
    assert 0.15 < shift.abs().max() <= 0.2 + 1e-4


def hidden(erase, x, seed=0):
    """Return views with holes, the same views without, and which pixels lie in a hole."""
    with_holes, whole = (draw(Views(erase=share), x, seed) for share in (erase, 0))
    assert with_holes[1].equal(whole[1])
    return with_holes[0], whole[0], with_holes[0] != whole[0]


@laws
@given(seed=seeds, erase=st.floats(0.01, 1))
def test_holes_show_the_mean_of_their_view_and_leave_the_rest_unchanged(seed, erase):
    views, whole, holes = hidden(erase, images(8), seed)
    mean = whole.mean((2, 3), keepdim=True).expand_as(views)
    torch.testing.assert_close(views[holes], mean[holes])


@pytest.mark.parametrize("erase", [0.3, 0.8])
def test_holes_hide_a_share_of_the_first_view_from_nothing_up_to_erase(erase):
    share = hidden(erase, images(400, 64, 64))[2].float().mean((1, 2, 3))[:400]
    # Holes are rounded to whole pixels, so they may cover a little more than their area.
    assert 0.7 * erase < share.max() < 1.05 * erase
    assert share.min() < 0.05 * erase
    # Holes overlap and reach beyond the view: less than half of `erase` on average.
    assert 0.3 * erase < share.mean() < 0.5 * erase


@laws
@given(seed=seeds, erase=st.floats(0, 1))
def test_nothing_of_the_second_view_is_hidden(seed, erase):
    assert not hidden(erase, images(8), seed)[2][8:].any()


def test_a_constant_image_stays_constant_without_tone():
    views, _ = draw(Views(contrast=0, brightness=0, blur=4, erase=0), torch.full((8, 1, 9, 9), 2.5))
    torch.testing.assert_close(views, torch.full_like(views, 2.5))


def test_the_generator_is_the_only_source_of_randomness():
    before = torch.get_rng_state()
    first, again, other = (draw(Views(horizontal_flip=0.5), images(), seed) for seed in (1, 1, 2))
    assert all(a.equal(b) for a, b in zip(first, again, strict=True))
    assert not first[0].equal(other[0])
    assert torch.get_rng_state().equal(before)


def test_the_two_views_of_an_image_differ_and_the_images_do_not_change():
    x = images()
    kept = x.clone()
    views, affine = draw(Views(), x)
    assert views.shape == (8, 1, 12, 16)
    assert (affine[:4] != affine[4:]).flatten(1).any(1).all()
    assert x.equal(kept)


def test_numbers_drawn_beforehand_give_the_views_of_their_generator():
    x = images(5)
    numbers = torch.rand(NUMBERS_PER_VIEW, 10, generator=torch.Generator().manual_seed(3))
    given_numbers = Views()(x, numbers.view(NUMBERS_PER_VIEW, 2, 5).permute(2, 1, 0))
    for drawn, expected in zip(given_numbers, draw(Views(), x, 3), strict=True):
        assert drawn.equal(expected)
