import pytest
import torch

from otcxr_sk.method._cv_sim import CVSIM


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CVSIM(16, depth=2, heads=4).double()


@pytest.fixture
def views():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 3, 6, 16, generator=generator, dtype=torch.float64)


def test_depth_zero_is_the_identity(views):
    assert CVSIM(16, depth=0)(views) is views


def test_swapping_the_views_swaps_the_outputs(module, views):
    torch.testing.assert_close(module(views.flip(0)), module(views).flip(0))


def test_permuting_the_tokens_of_a_view_permutes_its_outputs_only(module, views):
    s, t = views
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    q_s, q_t = module(views)
    torch.testing.assert_close(
        module(torch.stack([s[:, order], t])), torch.stack([q_s[:, order], q_t])
    )


def test_each_view_takes_in_the_other_view_but_no_other_image(module, views):
    changed = views.clone()
    changed[1, 0, 0] *= -1
    difference = (module(changed)[0] - module(views)[0]).abs().amax((1, 2))
    assert difference[0] > 1e-3
    assert not difference[1:].any()


def test_every_weight_gets_a_gradient(module, views):
    module(views).square().sum().backward()
    assert all(p.grad.any() for p in module.parameters())
