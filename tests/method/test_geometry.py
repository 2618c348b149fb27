import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import affine_grid, avg_pool2d

from otcxr_sk.method._geometry import (
    FLOOR,
    axis_centers,
    neighbors,
    token_centers,
    true_plan,
)
from otcxr_sk.method._views import Views

laws = settings(max_examples=25, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 5), st.integers(1, 5))


def two_views(seed, n=3):
    """Maps of n pairs of random crops, some of them flipped."""
    views = Views(crop_scale=(0.05, 1), aspect=2, horizontal_flip=0.5)
    _, affine = views(torch.zeros(n, 1, 2, 2), torch.Generator().manual_seed(seed))
    return affine.double().chunk(2)


def box(x0, x1, y0, y1):
    """Map of the view that shows [x0, x1] x [y0, y1]."""
    return torch.tensor(
        [[[(x1 - x0) / 2, 0, (x0 + x1) / 2], [0, (y1 - y0) / 2, (y0 + y1) / 2]]],
        dtype=torch.float64,
    )


def test_axis_centers_are_the_middles_of_equal_cells():
    assert axis_centers(4, torch.empty(0)).tolist() == [-0.75, -0.25, 0.25, 0.75]


@laws
@given(seed=seeds, grid=grids)
def test_token_centers_are_those_of_torch_in_row_major_order(seed, grid):
    s, _ = two_views(seed)
    expected = affine_grid(s, (3, 1, *grid), align_corners=False).flatten(1, 2)
    torch.testing.assert_close(token_centers(s, grid), expected)


def plan_between(s, t, grid):
    return true_plan(torch.cat([s, t]), grid)


@laws
@given(seed=seeds, grid=grids)
def test_between_a_view_and_its_mirror_image_every_token_goes_to_its_own_place(seed, grid):
    s, _ = two_views(seed)
    n = grid[0] * grid[1]
    expected = (torch.eye(n).double() + FLOOR / n) / (n + n * FLOOR)
    torch.testing.assert_close(plan_between(s, s, grid), expected.expand(3, n, n))
    mirrored = s * torch.tensor([[-1.0], [1.0]], dtype=s.dtype)
    mirrored[:, :, 2] = s[:, :, 2]
    places = torch.arange(n).view(grid).flip(1).flatten()
    torch.testing.assert_close(plan_between(s, mirrored, grid), expected[places].expand(3, n, n))


def test_views_with_nothing_in_common_have_a_uniform_plan():
    left, right = box(-1, -0.2, -1, 1), box(0.1, 1, -1, 1)
    torch.testing.assert_close(
        plan_between(left, right, (3, 4)), torch.full((1, 12, 12), 1 / 144).double()
    )
    assert not neighbors(torch.cat([left, right]), (3, 4))[1].any()


def test_true_plan_of_known_boxes():
    # The whole has columns of width 1/2; the other view shows [-1/4, 1/2] in columns of 3/16.
    plan = plan_between(box(-1, 1, -1, 1), box(-0.25, 0.5, 0, 1), (1, 4))[0]
    shared = torch.tensor(
        [[0, 0, 0, 0], [3 / 16, 1 / 16, 0, 0], [0, 2 / 16, 3 / 16, 3 / 16], [0, 0, 0, 0]]
    ).double()
    torch.testing.assert_close(plan, shared / shared.sum(), atol=FLOOR, rtol=0)


@laws
@given(seed=seeds, grid=grids)
def test_swapping_the_views_transposes_the_true_plan(seed, grid):
    s, t = two_views(seed)
    torch.testing.assert_close(plan_between(t, s, grid), plan_between(s, t, grid).mT)
    assert (plan_between(s, t, grid) > 0).all()


@laws
@given(seed=seeds, grid=grids)
def test_true_plan_counts_the_points_of_a_token_that_lie_in_each_token_of_the_other(seed, grid):
    s, t = two_views(seed)
    (h, w), fine = grid, 32
    points = affine_grid(s, (3, 1, h * fine, w * fine), align_corners=False)
    in_t = (points - t[:, None, None, :, 2]) / t.diagonal(dim1=1, dim2=2)[:, None, None]
    column, row = (
        ((in_t[..., i] + 1) / 2 * size).floor().clamp(-1, size) for i, size in ((0, w), (1, h))
    )
    hits = torch.stack([(row == y) & (column == x) for y in range(h) for x in range(w)], 1)
    shares = avg_pool2d(hits.double(), fine).flatten(2).mT
    area_s, area_t = (a.diagonal(dim1=1, dim2=2).prod(1).abs()[:, None, None] for a in (s, t))
    expected = shares * (area_s / area_t).sqrt() + FLOOR / (h * w)
    expected = expected / expected.sum((1, 2), keepdim=True)
    torch.testing.assert_close(plan_between(s, t, grid), expected, atol=2 / fine, rtol=0)


@laws
@given(seed=seeds, grid=grids)
def test_neighbors_and_inside_agree_with_a_loop_over_tokens(seed, grid):
    s, t = two_views(seed)
    near, within = neighbors(torch.cat([s, t]), grid)
    for b in range(3):
        places_s, places_t = (token_centers(a, grid)[b].numpy() for a in (s, t))
        width, height = t[b].diagonal().abs().tolist()
        x, y = t[b, :, 2].tolist()
        for i, place in enumerate(places_s):
            assert within[b, i] == (abs(place[0] - x) <= width and abs(place[1] - y) <= height)
            for j, other in enumerate(places_t):
                steps = (place - other) / [2 * width / grid[1], 2 * height / grid[0]]
                assert near[b, i, j] == (np.hypot(*steps) < 1)


@laws
@given(seed=seeds, grid=grids)
def test_a_token_inside_the_other_view_has_a_neighbor_there(seed, grid):
    near, inside = neighbors(torch.cat(two_views(seed)), grid)
    assert near.any(2)[inside].all()
