import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import affine_grid, avg_pool2d

from otcxr_sk.method.geometry import axis_centres, inside, neighbours, overlap, token_centres
from otcxr_sk.method.views import ViewSampler

laws = settings(max_examples=25, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
grids = st.tuples(st.integers(1, 5), st.integers(1, 5))


def two_views(seed, n=3):
    """Maps of n pairs of random crops, some of them flipped."""
    sampler = ViewSampler(crop_scale=(0.05, 1), aspect=2, flip=0.5)
    _, affine = sampler(torch.zeros(n, 1, 2, 2), torch.Generator().manual_seed(seed))
    return affine.double().chunk(2)


def box(x0, x1, y0, y1):
    """Map of the view that shows [x0, x1] x [y0, y1]."""
    return torch.tensor(
        [[[(x1 - x0) / 2, 0, (x0 + x1) / 2], [0, (y1 - y0) / 2, (y0 + y1) / 2]]],
        dtype=torch.float64,
    )


def test_axis_centres_are_the_middles_of_equal_cells():
    assert axis_centres(4, torch.empty(0)).tolist() == [-0.75, -0.25, 0.25, 0.75]


@laws
@given(seed=seeds, grid=grids)
def test_token_centres_are_those_of_torch_in_row_major_order(seed, grid):
    s, _ = two_views(seed)
    expected = affine_grid(s, (3, 1, *grid), align_corners=False).flatten(1, 2)
    torch.testing.assert_close(token_centres(s, grid), expected)


@laws
@given(seed=seeds, grid=grids)
def test_a_view_shows_all_of_itself_however_it_is_flipped(seed, grid):
    s, _ = two_views(seed)
    mirrored = s * torch.tensor([[-1.0], [1.0]], dtype=s.dtype)
    mirrored[:, :, 2] = s[:, :, 2]
    torch.testing.assert_close(overlap(s, s, grid), torch.ones(3, grid[0] * grid[1]).double())
    torch.testing.assert_close(overlap(s, mirrored, grid), overlap(s, s, grid))


def test_disjoint_views_show_nothing_of_each_other():
    left, right = box(-1, -0.2, -1, 1), box(0.1, 1, -1, 1)
    assert not overlap(left, right, (3, 4)).any()
    assert not inside(left, right, (3, 4)).any()
    assert not overlap(box(-1, 1, -1, 0), box(-1, 1, 0.5, 1), (3, 4)).any()


def test_overlap_of_known_boxes():
    # The other view shows the right half of the second column and of the third, lower row only.
    share = overlap(box(-1, 1, -1, 1), box(-0.25, 1, 0, 1), (2, 4))
    assert share.tolist() == [[0, 0, 0, 0, 0, 0.5, 1, 1]]


@laws
@given(seed=seeds, grid=grids)
def test_overlap_is_the_share_of_a_dense_grid_of_points_that_the_other_view_shows(seed, grid):
    s, t = two_views(seed)
    fine = 64
    points = affine_grid(s, (3, 1, grid[0] * fine, grid[1] * fine), align_corners=False)
    in_t = (points - t[:, None, None, :, 2]) / t.diagonal(dim1=1, dim2=2)[:, None, None]
    seen = (in_t.abs() <= 1).all(-1).double()
    expected = avg_pool2d(seen[:, None], fine).flatten(1)
    torch.testing.assert_close(overlap(s, t, grid), expected, atol=2 / fine, rtol=0)


@laws
@given(seed=seeds, grid=grids)
def test_neighbours_and_inside_agree_with_a_loop_over_tokens(seed, grid):
    s, t = two_views(seed)
    near, within = neighbours(s, t, grid), inside(s, t, grid)
    for b in range(3):
        places_s, places_t = (token_centres(a, grid)[b].numpy() for a in (s, t))
        width, height = t[b].diagonal().abs().tolist()
        x, y = t[b, :, 2].tolist()
        for i, place in enumerate(places_s):
            assert within[b, i] == (abs(place[0] - x) <= width and abs(place[1] - y) <= height)
            for j, other in enumerate(places_t):
                steps = (place - other) / [2 * width / grid[1], 2 * height / grid[0]]
                assert near[b, i, j] == (np.hypot(*steps) < 1)


@laws
@given(seed=seeds, grid=grids)
def test_a_token_inside_the_other_view_has_a_neighbour_there(seed, grid):
    s, t = two_views(seed)
    assert neighbours(s, t, grid).any(2)[inside(s, t, grid)].all()
