import pytest
import torch
from torch import nn

from otcxr_sk.method._encoders import build_encoder
from otcxr_sk.method._geometry import FLOOR, true_plan
from otcxr_sk.method._model import OTCXRModel
from otcxr_sk.method._objective import Objective
from otcxr_sk.method._statistics import effective_rank, spectrum
from otcxr_sk.method._views import Views

GRID, DIM = (4, 4), 16
TERMS = {
    "transport",
    "variance",
    "covariance",
    "global_invariance",
    "global_variance",
    "global_covariance",
}
WATCHED = {"marginal_error", "matching_accuracy", "matching_chance", "token_spread"}


def make_model(**options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = nn.Sequential(nn.Conv2d(1, 16, 8, stride=8), nn.ReLU())
        encoder = build_encoder(backbone, size=32, match_stride=8)
        return OTCXRModel(encoder, Objective(**options), head_dim=DIM, projection_dim=16)


def smooth_images(n=32):
    coarse = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, (32, 32), mode="bicubic")


def pairs(n=8, seed=0, **options):
    return Views(**options)(smooth_images(n), torch.Generator().manual_seed(seed))


def token_pairs(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, n, 16, DIM, generator=generator, dtype=torch.float64)


def halves():
    """Return the maps of one pair of views: the whole image and its right half."""
    whole, right = [[1.0, 0, 0], [0, 1, 0]], [[0.5, 0, 0.5], [0, 1, 0]]
    return torch.tensor([whole, right], dtype=torch.float64)


@pytest.mark.parametrize("transport", ["inverse", "direct"])
@pytest.mark.parametrize("depth", [0, 1])
def test_terms_are_finite_scalars_and_the_embedding_is_the_pooled_map(transport, depth):
    model = make_model(transport=transport, cv_sim_depth=depth)
    views, affine = pairs()
    terms, embedding = model(views, affine)
    assert terms.keys() == TERMS | {"read_out"} | WATCHED
    assert all(value.shape == () and value.isfinite() for value in terms.values())
    assert {name for name, value in terms.items() if value.requires_grad} == TERMS | {"read_out"}
    assert not embedding.requires_grad
    torch.testing.assert_close(embedding, model.encoder(views)[1].mean((2, 3)))
    assert 0 <= terms["transport"] <= (2 if transport == "direct" else 16)
    assert terms["marginal_error"] < 0.01


def test_timm_encoders_match_a_finer_stage_than_they_pool():
    encoder = build_encoder("resnet10t", size=32, match_stride=8)
    model = OTCXRModel(encoder, Objective(), head_dim=DIM, projection_dim=8)
    terms, embedding = model(*pairs())
    assert model.grid == (4, 4)
    assert embedding.shape == (16, 512)
    assert all(value.isfinite() for value in terms.values())


def test_swapping_the_views_changes_no_term_but_what_is_read():
    model = make_model(cv_sim_depth=1)
    views, affine = pairs()
    terms, _ = model(views, affine)
    swapped, _ = model(views.roll(8, 0), affine.roll(8, 0))
    for name in TERMS:
        torch.testing.assert_close(swapped[name], terms[name], atol=1e-3, rtol=1e-3)


def test_a_direction_shared_by_all_tokens_of_an_image_is_not_compared():
    model = make_model().double()
    z = token_pairs().flatten(0, 1)
    shared = torch.randn(6, 1, DIM, generator=torch.Generator().manual_seed(1)).double()
    torch.testing.assert_close(model.infuse(z + shared), model.infuse(z))


def test_bfloat16_stays_inside_the_encoder():
    model = make_model()
    seen = []
    model.encoder.register_forward_hook(lambda *args: seen.append(args[2][0].dtype))
    with torch.autocast("cpu", torch.bfloat16):
        terms, embedding = model(*pairs())
    assert seen == [torch.bfloat16]
    assert {value.dtype for value in terms.values()} == {torch.float32}
    assert embedding.dtype == torch.float32


@pytest.mark.parametrize("depth", [0, 1])
def test_gradients_reach_every_parameter_that_the_loss_uses(depth):
    model = make_model(cv_sim_depth=depth)
    terms, _ = model(*pairs())
    Objective(alpha=1, beta=1, eta=1, global_weight=1).total(terms).backward()
    idle = {name for name, p in model.named_parameters() if not p.grad.abs().max() > 1e-7}
    # No term can see a shift of all tokens or of all projections.
    assert idle <= {"dense_head.2.bias", "projector.0.bias", "projector.3.bias"}


def test_without_its_weight_the_image_level_term_teaches_nothing():
    model = make_model()
    terms, _ = model(*pairs())
    Objective(alpha=1, beta=1, eta=1, global_weight=0).total(terms).backward()
    assert all(p.grad is None for p in model.projector.parameters())
    assert all(p.grad is not None for p in model.encoder.parameters())


def test_a_token_weighs_as_much_as_the_other_view_shows_of_it():
    matching = make_model().double().match(token_pairs(1), halves())
    rows = matching.plan.sum(2)[0].view(GRID)
    assert rows[:, :2].sum() < 2 * FLOOR
    torch.testing.assert_close(rows[:, 2:], torch.full((4, 2), 1 / 8).double(), atol=1e-3, rtol=0)
    columns = matching.plan.sum(1)
    torch.testing.assert_close(columns, torch.full((1, 16), 1 / 16).double(), atol=1e-3, rtol=0)


def test_what_the_other_view_does_not_show_costs_nothing():
    model = make_model(transport="direct").double()
    q = token_pairs(1)
    changed = q.clone()
    changed[0, :, torch.arange(16) % 4 < 2] *= -1
    losses = [model.match(tokens, halves()).loss.item() for tokens in (q, changed)]
    assert losses[0] == pytest.approx(losses[1], abs=0.01)


def test_tokens_that_know_their_place_have_no_loss_and_equal_tokens_have_that_of_the_product_plan():
    affine = torch.cat([halves()[:1]] * 2)
    truth = true_plan(affine, GRID)
    placed = torch.eye(16, DIM).double()[None]
    equal = torch.ones(1, 16, DIM).double()
    learned, ignorant = (
        make_model(epsilon=0.1).double().match(torch.stack([q, q]), affine).loss.item()
        for q in (placed, equal)
    )
    assert learned < 0.02
    # All plans cost the same, so the entropic plan is the product of the marginals.
    product = truth.sum(2)[:, :, None] * truth.sum(1)[:, None]
    assert ignorant == pytest.approx((truth * (truth / product).log()).sum().item(), abs=1e-3)


def test_the_direct_loss_is_the_cost_of_the_plan():
    q = token_pairs(2)
    matching = make_model(transport="direct").double().match(q, torch.cat([halves()] * 2))
    cosine = nn.functional.cosine_similarity(q[0, :, :, None], q[1, :, None], dim=-1)
    torch.testing.assert_close(matching.loss, (matching.plan * (1 - cosine)).sum((1, 2)))


def train(loss, steps=60, **options):
    """Return effective rank of tokens and deviation of projections after a short training."""
    model = make_model(**options)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(steps):
        views, affine = pairs(32, seed=step)
        optimizer.zero_grad()
        loss(model(views, affine)[0]).backward()
        optimizer.step()
    with torch.no_grad():
        rank = effective_rank(spectrum(model.infuse(model.dense_tokens(views)).flatten(0, 2)))
        projections = model.projector(model.encoder(views)[1].mean((2, 3)))
        return rank, projections.std(0).mean().item()


def invariance(terms):
    return terms["transport"] + 4 * terms["global_invariance"]


@pytest.mark.slow
def test_invariance_alone_collapses_and_variance_and_covariance_prevent_that():
    rank, deviation = train(invariance, transport="direct")
    kept_rank, kept_deviation = train(Objective(1, 1, 0.04, 4).total, transport="direct")
    assert rank < 2
    assert deviation < 0.05
    assert kept_rank > 1.5 * rank
    assert kept_deviation > 0.2


def test_tokens_that_are_taught_their_place_do_not_collapse():
    assert train(invariance, transport="inverse")[0] > DIM / 2
