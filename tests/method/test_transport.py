import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk.method._transport import cosine_cost, divergence_from_truth, transport_plan

laws = settings(max_examples=20, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
CONVERGED = {"max_iter": 5000, "tol": 1e-10}


def problems(seed, n=3, tokens=7):
    """Costs between random tokens, and random marginals, of n problems in float64."""
    generator = torch.Generator().manual_seed(seed)
    s, t = torch.randn(2, n, tokens, 5, generator=generator, dtype=torch.float64).unbind()
    a, b = torch.randn(2, n, tokens, generator=generator, dtype=torch.float64).softmax(-1).unbind()
    return cosine_cost(s, t), a, b


def uniform(n, tokens):
    return torch.full((n, tokens), 1 / tokens, dtype=torch.float64)


@laws
@given(seed=seeds)
def test_cost_is_one_minus_the_cosine(seed):
    s, t = torch.randn(2, 2, 6, 4, generator=torch.Generator().manual_seed(seed)).unbind()
    cost = cosine_cost(s, t)
    for b, i, j in np.ndindex(2, 6, 6):
        cosine = s[b, i] @ t[b, j] / (s[b, i].norm() * t[b, j].norm())
        assert cost[b, i, j].item() == pytest.approx(1 - cosine.item(), abs=1e-5)
    torch.testing.assert_close(cosine_cost(3 * s, 0.1 * t), cost, atol=1e-5, rtol=0)
    torch.testing.assert_close(cosine_cost(s, s).diagonal(dim1=1, dim2=2), torch.zeros(2, 6))
    torch.testing.assert_close(cosine_cost(s, -s).diagonal(dim1=1, dim2=2), torch.full((2, 6), 2.0))


def test_a_token_of_zeros_costs_one_and_has_a_finite_gradient():
    s, t = torch.zeros(1, 2, 3, requires_grad=True), torch.ones(1, 2, 3)
    cost = cosine_cost(s, t)
    cost.sum().backward()
    assert (cost == 1).all()
    assert s.grad.isfinite().all()


@laws
@given(seed=seeds, epsilon=st.floats(0.05, 1))
def test_plans_are_those_of_pot_problem_by_problem(seed, epsilon):
    cost, a, b = problems(seed)
    plan, _ = transport_plan(cost, a, b, epsilon=epsilon, **CONVERGED)
    for P, M, p, q in zip(plan.numpy(), cost.numpy(), a.numpy(), b.numpy(), strict=True):
        by_solve = ot.solve(M, p, q, reg=epsilon, reg_type="entropy", max_iter=20_000, tol=1e-12)
        by_sinkhorn = ot.sinkhorn(p, q, M, epsilon, numItermax=20_000, stopThr=1e-12)
        np.testing.assert_allclose(P, by_solve.plan, atol=1e-7)
        np.testing.assert_allclose(P, by_sinkhorn, atol=1e-7)


@laws
@given(seed=seeds, epsilon=st.floats(0.05, 0.2), max_iter=st.integers(1, 60))
def test_float32_plan_is_that_of_the_log_domain_after_as_many_iterations(seed, epsilon, max_iter):
    cost, a, b = (x.float() for x in problems(seed, tokens=25))
    for scale in (1, 5):  # By scaling, and in the log domain.
        plan, _ = transport_plan(scale * cost, a, b, epsilon=epsilon, max_iter=max_iter)
        expected = ot.batch.solve_batch(
            scale * cost,
            epsilon,
            a=a,
            b=b,
            max_iter=max_iter,
            tol=1e-3,
            method="log_sinkhorn",
        ).plan
        torch.testing.assert_close(plan, expected, atol=1e-5, rtol=1e-3)


@laws
@given(seed=seeds, epsilon=st.floats(0.002, 0.02), max_iter=st.sampled_from([11, 51, 201]))
def test_plans_of_a_small_epsilon_are_those_of_pot_in_the_log_domain(seed, epsilon, max_iter):
    cost, a, b = problems(seed)
    plan, _ = transport_plan(cost, a, b, epsilon=epsilon, max_iter=max_iter, tol=0)
    for P, M, p, q in zip(plan.numpy(), cost.numpy(), a.numpy(), b.numpy(), strict=True):
        # POT begins with the other marginal.
        expected = ot.bregman.sinkhorn_log(
            q, p, M.T, epsilon, numItermax=max_iter, stopThr=0, warn=False
        )
        np.testing.assert_allclose(P, expected.T, atol=1e-9)


@laws
@given(seed=seeds, sign=st.sampled_from([-1, 1]), extreme=st.booleans(), n=st.sampled_from([7, 60]))
def test_float32_suffices_for_the_largest_costs_and_the_smallest_marginals(seed, sign, extreme, n):
    generator = torch.Generator().manual_seed(seed)
    cost = sign * 3 * (2 * torch.rand(3, n, n, generator=generator) - 1)
    if extreme:
        cost = 3 * cost.sign()
    a, b = torch.rand(2, 3, n, generator=generator).pow(8).add(1e-9).unbind()
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    for max_iter in (1, 50):
        limits = {"max_iter": max_iter, "tol": 0}
        plan, _ = transport_plan(cost, a, b, epsilon=0.1, **limits)
        exact = ot.batch.solve_batch(
            cost.double(), 0.1, a=a.double(), b=b.double(), method="log_sinkhorn", **limits
        ).plan
        assert (plan - exact).abs().sum((1, 2)).max() < 1e-5


@pytest.mark.parametrize("scale", [1, 100])
def test_a_cost_that_is_not_finite_gives_a_plan_that_is_not(scale):
    cost, a, b = problems(0)
    cost[1, 2, 3] = torch.nan
    plan, error = transport_plan(scale * cost, a, b, epsilon=0.1)
    assert plan[1].isnan().any()
    assert error[1].isnan()


@laws
@given(seed=seeds)
def test_plan_tends_to_the_exact_one_as_epsilon_falls(seed):
    cost, a, b = problems(seed)
    exact = np.array([ot.emd2(*x) for x in zip(a.numpy(), b.numpy(), cost.numpy(), strict=True)])
    gaps = []
    for epsilon in (0.5, 0.1, 0.02):
        plan, _ = transport_plan(cost, a, b, epsilon=epsilon, max_iter=20_000, tol=1e-9)
        gaps.append((plan * cost).sum((1, 2)).numpy() - exact)
        # Entropies of plans of N x N entries differ by at most log N^2.
        assert (gaps[-1] <= epsilon * np.log(7**2) + 1e-6).all()
        assert (gaps[-1] >= -1e-6).all()
    assert (gaps[0] >= gaps[1] - 1e-6).all()
    assert (gaps[1] >= gaps[2] - 1e-6).all()


def test_plan_at_small_epsilon_is_that_of_the_exact_solver():
    cost, _, _ = problems(0)
    a = uniform(3, 7)
    plan, _ = transport_plan(cost, a, a, epsilon=1e-3, max_iter=20_000, tol=1e-7)
    exact = np.stack([ot.emd(p, p, M) for p, M in zip(a.numpy(), cost.numpy(), strict=True)])
    np.testing.assert_allclose(plan.numpy(), exact, atol=5e-3)


@laws
@given(seed=seeds, max_iter=st.integers(1, 60))
def test_the_error_is_that_of_the_first_marginal_and_the_second_has_none(seed, max_iter):
    cost, a, b = problems(seed)
    plan, error = transport_plan(cost, a, b, epsilon=0.05, max_iter=max_iter, tol=0)
    torch.testing.assert_close(error, (plan.sum(2) - a).abs().sum(1))
    torch.testing.assert_close(plan.sum(1), b)
    assert (plan >= 0).all()


def test_too_few_iterations_show_in_the_error_and_enough_make_it_vanish():
    cost, a, b = problems(0)
    errors = [
        transport_plan(cost, a, b, epsilon=0.01, max_iter=n, tol=1e-12)[1].max()
        for n in (1, 100, 20_000)
    ]
    assert errors[0] > 0.1
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-9


def test_the_default_settings_keep_float32_marginals_of_real_size_within_a_percent():
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 8, 196, 64, generator=generator).unbind()
    a, b = torch.rand(2, 8, 196, generator=generator).add(1e-3).unbind()
    a, b = a / a.sum(1, keepdim=True), b / b.sum(1, keepdim=True)
    plan, error = transport_plan(cosine_cost(s, t), a, b, epsilon=0.1)
    assert plan.dtype == torch.float32
    assert error.max() < 0.01


@laws
@given(seed=seeds)
def test_swapping_the_views_transposes_the_plan(seed):
    cost, a, b = problems(seed)
    plan, _ = transport_plan(cost, a, b, epsilon=0.1, **CONVERGED)
    swapped, _ = transport_plan(cost.transpose(1, 2), b, a, epsilon=0.1, **CONVERGED)
    torch.testing.assert_close(swapped, plan.transpose(1, 2), atol=1e-8, rtol=0)


@laws
@given(seed=seeds, rows=st.permutations(range(7)), columns=st.permutations(range(7)))
def test_permuting_tokens_permutes_the_plan(seed, rows, columns):
    cost, a, b = problems(seed)
    plan, _ = transport_plan(cost, a, b, epsilon=0.1)
    moved, _ = transport_plan(cost[:, rows][:, :, columns], a[:, rows], b[:, columns], epsilon=0.1)
    torch.testing.assert_close(moved, plan[:, rows][:, :, columns])


@laws
@given(seed=seeds)
def test_a_problem_in_a_batch_is_solved_as_if_it_were_alone(seed):
    cost, a, b = problems(seed)
    together, _ = transport_plan(cost, a, b, epsilon=0.1, **CONVERGED)
    alone, _ = transport_plan(cost[1:2], a[1:2], b[1:2], epsilon=0.1, **CONVERGED)
    torch.testing.assert_close(together[1:2], alone, atol=1e-8, rtol=0)


def test_identical_views_are_matched_token_by_token():
    tokens = torch.randn(3, 7, 16, generator=torch.Generator().manual_seed(0)).double()
    a = uniform(3, 7)
    plan, _ = transport_plan(cosine_cost(tokens, tokens), a, a, epsilon=0.02)
    torch.testing.assert_close(7 * plan, torch.eye(7).double().expand(3, 7, 7), atol=1e-3, rtol=0)


def test_without_differences_in_cost_the_plan_is_the_product_of_the_marginals():
    _, a, b = problems(0)
    plan, _ = transport_plan(torch.ones(3, 7, 7).double(), a, b, epsilon=0.1)
    torch.testing.assert_close(plan, a[:, :, None] * b[:, None, :])


def test_a_constant_added_to_the_cost_changes_nothing():
    cost, a, b = problems(0)
    plan, _ = transport_plan(cost, a, b, epsilon=0.1)
    shifted, _ = transport_plan(cost + 0.7, a, b, epsilon=0.1)
    torch.testing.assert_close(shifted, plan)


def test_the_plan_carries_no_gradient_so_the_gradient_of_the_loss_in_the_cost_is_the_plan():
    cost, a, b = problems(0)
    cost.requires_grad_()
    plan, error = transport_plan(cost, a, b, epsilon=0.1)
    assert not plan.requires_grad
    assert not error.requires_grad
    (plan * cost).sum().backward()
    assert cost.grad.equal(plan)


def test_the_derivative_of_the_optimal_value_is_the_plan():
    cost, a, b = problems(0, tokens=4)
    epsilon, step = 0.1, 1e-4

    def value(M):
        P, _ = transport_plan(M, a, b, epsilon=epsilon, max_iter=20_000, tol=1e-13)
        return (P * M).sum((1, 2)) + epsilon * torch.xlogy(P, P).sum((1, 2))

    plan, _ = transport_plan(cost, a, b, epsilon=epsilon, max_iter=20_000, tol=1e-13)
    for i, j in np.ndindex(4, 4):
        nudge = torch.zeros(4, 4, dtype=torch.float64)
        nudge[i, j] = step
        slope = (value(cost + nudge) - value(cost - nudge)) / (2 * step)
        torch.testing.assert_close(slope, plan[:, i, j], atol=1e-6, rtol=0)


def test_the_loss_has_the_gradient_of_finite_differences_with_the_plan_held_fixed():
    generator = torch.Generator().manual_seed(0)
    s, t = torch.randn(2, 2, 4, 3, generator=generator, dtype=torch.float64).unbind()
    s.requires_grad_()
    t.requires_grad_()
    a = uniform(2, 4)
    plan, _ = transport_plan(cosine_cost(s, t), a, a, epsilon=0.1)
    assert torch.autograd.gradcheck(lambda s, t: (plan * cosine_cost(s, t)).sum((1, 2)), (s, t))


def truths(a, b, seed=1):
    """Return plans with marginals a and b, far from the product of the two."""
    n = a.shape[1]
    cost = torch.randn(len(a), n, n, generator=torch.Generator().manual_seed(seed)).double()
    return transport_plan(cost, a, b, epsilon=0.5, **CONVERGED)[0]


@laws
@given(seed=seeds, epsilon=st.floats(0.05, 1))
def test_divergence_is_the_kullback_leibler_divergence_of_truth_and_plan(seed, epsilon):
    cost, a, b = problems(seed)
    truth = truths(a, b)
    plan, _ = transport_plan(cost, a, b, epsilon=epsilon, max_iter=20_000, tol=1e-12)
    divergence = divergence_from_truth(cost, plan, truth, epsilon=epsilon)
    expected = torch.xlogy(truth, truth / plan).sum((1, 2))
    torch.testing.assert_close(divergence, expected, atol=1e-6, rtol=1e-6)
    assert (divergence > 0).all()


@laws
@given(seed=seeds, epsilon=st.floats(0.05, 1))
def test_divergence_is_zero_under_a_cost_that_makes_the_truth_optimal(seed, epsilon):
    _, a, b = problems(seed)
    truth = truths(a, b)
    u, v = torch.randn(2, 3, 7, generator=torch.Generator().manual_seed(seed)).double().unbind()
    cost = u[:, :, None] + v[:, None] - epsilon * truth.log()
    plan, _ = transport_plan(cost, a, b, epsilon=epsilon, max_iter=20_000, tol=1e-12)
    torch.testing.assert_close(plan, truth, atol=1e-8, rtol=0)
    divergence = divergence_from_truth(cost, plan, truth, epsilon=epsilon)
    torch.testing.assert_close(divergence, torch.zeros(3).double(), atol=1e-6, rtol=0)


def test_gradient_of_the_divergence_is_that_of_finite_differences_of_cost_and_plan():
    cost, a, b = problems(0, tokens=4)
    truth, epsilon, step = truths(a, b), 0.2, 1e-4

    def divergence(M):
        plan, _ = transport_plan(M, a, b, epsilon=epsilon, max_iter=20_000, tol=1e-13)
        return divergence_from_truth(M, plan, truth, epsilon=epsilon)

    cost.requires_grad_()
    (slope,) = torch.autograd.grad(divergence(cost).sum(), cost)
    for i, j in np.ndindex(4, 4):
        nudge = torch.zeros(4, 4, dtype=torch.float64)
        nudge[i, j] = step
        difference = (divergence(cost + nudge) - divergence(cost - nudge)) / (2 * step)
        torch.testing.assert_close(difference.detach(), slope[:, i, j], atol=1e-5, rtol=0)


@laws
@given(seed=seeds, weight=st.floats(0.01, 0.99))
def test_divergence_is_convex_in_the_cost(seed, weight):
    (one, a, b), (two, _, _) = problems(seed), problems(seed + 1)
    truth = truths(a, b)

    def divergence(M):
        plan, _ = transport_plan(M, a, b, epsilon=0.1, max_iter=20_000, tol=1e-12)
        return divergence_from_truth(M, plan, truth, epsilon=0.1)

    between = divergence(weight * one + (1 - weight) * two)
    assert (between <= weight * divergence(one) + (1 - weight) * divergence(two) + 1e-6).all()


@laws
@given(seed=seeds, epsilon=st.floats(0.02, 0.5), shift=st.floats(-5, 5))
def test_known_limits_of_the_cost_spare_a_look_and_change_no_plan(seed, epsilon, shift):
    cost, a, b = problems(seed)
    settings = {"epsilon": epsilon, "max_iter": 200, "tol": 0}
    expected, _ = transport_plan(cost, a, b, **settings)
    plan, _ = transport_plan(cost + shift, a, b, between=(shift, shift + 2), **settings)
    torch.testing.assert_close(plan, expected, atol=1e-8, rtol=1e-6)
