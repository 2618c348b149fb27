"""Steps of the trainer, compared with the same arithmetic written out."""

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import Images, make_model, make_trainer
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from otcxr_sk.method.objective import Objective
from otcxr_sk.training.checkpoint import Checkpoints
from otcxr_sk.training.optimiser import WarmupConstant, peak_rate
from otcxr_sk.training.plan import WarmupCosine
from otcxr_sk.training.trainer import NonFiniteLossError

MEANS = Objective(alpha=1, beta=0, eta=0, global_weight=0)  # means over images, nothing else


def trained(norm=True, **options):
    model = make_model(norm=norm)
    return model, make_trainer(**options).fit(model, Images())


@pytest.fixture
def watched():
    """Gradients that the optimiser is given at every step, and parameters after it."""
    gradients, weights = [], []

    def parameters(optimiser):
        return [p for group in optimiser.param_groups for p in group["params"]]

    def before(optimiser, args, kwargs):
        gradients.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten().clone()
                    for p in parameters(optimiser)
                ]
            )
        )

    def after(optimiser, args, kwargs):
        weights.append([p.detach().clone() for p in parameters(optimiser)])

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    yield gradients, weights
    for handle in handles:
        handle.remove()


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_sgd_with_momentum_and_a_step_as_long_as_the_weights(weight_decay):
    peak = 2.0
    model, history = trained(optimizer="lars", learning_rate=peak, weight_decay=weight_decay)
    expected = make_model().train().to(memory_format=torch.channels_last)
    trainer, source = make_trainer(), Images()
    velocity = {name: torch.zeros_like(p) for name, p in expected.named_parameters()}
    step = 0
    for epoch in range(2):
        order = np.random.default_rng([0, epoch]).permutation(24)
        for start in (0, 8, 16):
            batch = torch.from_numpy(source.images[order[start : start + 8]])
            terms, _ = expected(*trainer.draw(batch, epoch, start))
            loss = trainer.objective.total(terms)
            gradients = torch.autograd.grad(loss, list(expected.parameters()), allow_unused=True)
            rate = peak * WarmupCosine(6).factor(step)
            with torch.no_grad():
                for (name, p), g in zip(expected.named_parameters(), gradients, strict=True):
                    if p.ndim > 1:
                        trust = 0.001 * p.norm() / (g.norm() + weight_decay * p.norm())
                        g = trust * (g + weight_decay * p)
                    velocity[name] = 0.9 * velocity[name] + g
                    p -= rate * velocity[name]
            step += 1
    assert np.isfinite(history["loss"]).all()
    for name, value in expected.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), value, rtol=1e-3, atol=1e-5)
        assert not value.equal(make_model().get_parameter(name)) or value.ndim == 1


@given(st.integers(1, 10**6), st.integers(1, 64))
def test_the_automatic_rate_grows_with_the_root_of_the_images_of_a_step(n, times):
    for optimizer in ("adamw", "lars"):
        rate = peak_rate("auto", optimizer, n)
        assert peak_rate("auto", optimizer, n * times) == pytest.approx(rate * math.sqrt(times))
        assert peak_rate(0.1, optimizer, n) == 0.1


def test_the_automatic_rates_are_those_of_their_sources():
    assert peak_rate("auto", "adamw", 64) == 2e-3
    # SimCLR's rule of the root and its linear rule, 0.3 * n / 256, agree at 4096.
    assert peak_rate("auto", "lars", 4096) == pytest.approx(4.8)


def test_a_step_is_counted_with_all_that_is_accumulated():
    (_, small), (_, large) = (
        trained(learning_rate="auto", epochs=10, **cut)
        for cut in ({"batch_size": 4, "accumulate": 6}, {"batch_size": 24})
    )
    assert small["learning_rate"] == large["learning_rate"]
    assert max(large["learning_rate"]) == pytest.approx(2e-3 * math.sqrt(24 / 64))


@pytest.mark.parametrize("precision", ["float32", "fp16"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_long_gradient_is_cut_to_its_norm_and_keeps_its_direction(precision, accumulate, watched):
    options = {"precision": precision, "accumulate": accumulate}
    gradients, _ = watched
    trained(**options)
    free = list(gradients)
    limit = float(min(g.norm() for g in free)) / 2
    gradients.clear()
    trained(clip_norm=limit, **options)
    assert len(gradients) == len(free) > 0
    for gradient in gradients:
        assert gradient.norm().item() == pytest.approx(limit, rel=1e-4)
    # Only the first step starts from the same weights.
    torch.testing.assert_close(gradients[0] / limit, free[0] / free[0].norm(), rtol=1e-3, atol=1e-5)


def test_a_short_gradient_is_left_alone():
    (free, _), (clipped, _) = trained(), trained(clip_norm=1e6)
    for name, value in free.state_dict().items():
        torch.testing.assert_close(clipped.state_dict()[name], value)


def test_clipping_comes_after_accumulating(watched):
    options = {"objective": MEANS, "clip_norm": 1e-3, "epochs": 1, "norm": False}
    gradients, _ = watched
    trained(batch_size=24, **options)
    trained(batch_size=6, accumulate=4, **options)
    large, small = gradients
    assert large.norm().item() == pytest.approx(1e-3, rel=1e-3)
    # Iterations of the transport stop when all of a batch are good enough.
    torch.testing.assert_close(small, large, rtol=0, atol=3e-5)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_the_recursion_written_out(decay, watched):
    model, _ = trained(ema=decay, epochs=4)
    _, weights = watched
    average = weights[0]
    for step, now in enumerate(weights[1:], 2):
        keep = min(decay, 1 - step ** (-2 / 3))
        average = [keep * old + (1 - keep) * new for old, new in zip(average, now, strict=True)]
    # The optimiser has what is spared weight decay first.
    mine = sorted(model.parameters(), key=lambda p: p.ndim > 1)
    flat = [torch.cat([p.flatten() for p in part]) for part in (mine, average)]
    torch.testing.assert_close(*flat, rtol=1e-4, atol=1e-6)
    last = torch.cat([p.flatten() for p in weights[-1]])
    assert not flat[0].allclose(last, rtol=1e-4, atol=1e-6)


def test_statistics_of_batch_norm_are_averaged_too_and_training_is_not_changed():
    (plain, history), (averaged, same) = trained(epochs=4), trained(epochs=4, ema=0.9)
    assert history == same
    theirs, ours = plain.state_dict(), averaged.state_dict()
    for name, value in theirs.items():
        if value.is_floating_point():
            assert not ours[name].equal(value), name
        else:
            assert ours[name].equal(value), name


class Failing(Objective):
    """An infinite gradient of a finite loss, at the steps told."""

    def total(self, terms):
        loss = super().total(terms)
        self.__dict__["steps"] = self.__dict__.get("steps", 0) + 1
        if self.steps in self.__dict__["at"]:
            return loss + (loss - loss.detach()).sqrt()
        return loss


def failing(at):
    objective = Failing(alpha=1, beta=1, eta=0.1, global_weight=1)
    objective.__dict__["at"] = at
    return objective


@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_float16_leaves_out_a_step_that_overflows_and_goes_on(clip_norm, watched):
    options = {"precision": "fp16", "clip_norm": clip_norm}
    _, weights = watched
    trained(objective=failing(()), **options)
    usual = len(weights)
    weights.clear()
    model, history = trained(objective=failing({4}), **options)
    assert len(weights) == usual - 1
    assert np.isfinite(history["loss"]).all()
    assert all(p.isfinite().all() for p in model.parameters())


def test_float16_that_always_overflows_is_a_failure_and_not_a_wasted_run():
    model = make_model()
    with pytest.raises(NonFiniteLossError, match=r"No epoch was completed.*precision='float32'"):
        make_trainer(
            precision="fp16", objective=failing(range(1000)), epochs=1, batch_size=2, seed=1
        ).fit(model, Images(200))
    assert all(p.isfinite().all() for p in model.parameters())


def test_the_scale_of_float16_is_resumed(tmp_path):
    class Stop(Exception):
        pass

    class Keeping(Checkpoints):
        def save(self, checkpoint, place):
            super().save(checkpoint, place)
            if place == 3:
                raise Stop

    options = {"precision": "fp16", "objective": failing({1, 2, 3})}
    with pytest.raises(Stop):
        make_trainer(**options).fit(make_model(), Images(), Keeping(tmp_path))
    saved = Checkpoints(tmp_path).load()
    assert saved.numbers["precision"]["scale"] == 2**13
    model = make_model()
    make_trainer(precision="fp16").fit(model, Images(), Checkpoints(tmp_path), saved)
    assert Checkpoints(tmp_path).load().numbers["precision"]["scale"] == 2**13


def test_float16_learns_what_float32_learns():
    (_, exact), (_, rounded) = (trained(precision=p, epochs=4) for p in ("float32", "fp16"))
    assert rounded["loss"] == pytest.approx(exact["loss"], rel=0.02)
    assert rounded["loss"] != exact["loss"]


def test_a_stream_is_warmed_up_linearly_and_keeps_its_rate():
    factors = [WarmupConstant().factor(step) for step in range(100)]
    assert factors[:40] == pytest.approx([step / 40 for step in range(1, 41)])
    assert set(factors[40:]) == {1.0}


def test_an_average_does_not_share_memory_with_its_model():
    model = make_model()
    before = deepcopy(model.state_dict())
    make_trainer(ema=0.9, epochs=0).fit(model, Images())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())
