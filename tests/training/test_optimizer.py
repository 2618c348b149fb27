import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_runs import Images, make_model, make_objective, make_trainer

from otcxr_sk.training._epoch import EpochPlan
from otcxr_sk.training._optimizer import Optimizer, WarmupConstant, WarmupCosine, peak_rate
from otcxr_sk.training._progress import Progress

# A mean over images, without terms that compare them.
TRANSPORT = make_objective(beta=0, eta=0, global_weight=0)


def trained(norm=True, **options):
    model = make_model(norm=norm)
    return model, make_trainer(**options).fit(model, Images())


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_lars_is_sgd_with_momentum_and_a_step_as_long_as_the_weights(weight_decay):
    peak = 2.0
    optimizer = Optimizer("lars", weight_decay=weight_decay)
    model, history = trained(optimizer=optimizer, learning_rate=peak)
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


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_long_gradient_is_scaled_down_to_the_limit(precision, accumulate, watched):
    options = {"precision": precision, "accumulate": accumulate}
    gradients, _ = watched
    trained(**options)
    free = list(gradients)
    limit = float(min(g.norm() for g in free)) / 2
    gradients.clear()
    trained(optimizer=Optimizer(clip_norm=limit), **options)
    assert len(gradients) == len(free) > 0
    for gradient in gradients:
        assert gradient.norm().item() == pytest.approx(limit, rel=1e-4)
    # Only the first step starts from the same weights.
    torch.testing.assert_close(gradients[0] / limit, free[0] / free[0].norm(), rtol=1e-3, atol=1e-5)


def test_a_short_gradient_is_not_scaled():
    (free, _), (clipped, _) = trained(), trained(optimizer=Optimizer(clip_norm=1e6))
    for name, value in free.state_dict().items():
        torch.testing.assert_close(clipped.state_dict()[name], value)


def test_clipping_comes_after_accumulating(watched):
    options = {
        "objective": TRANSPORT,
        "optimizer": Optimizer(clip_norm=1e-3),
        "epochs": 1,
        "norm": False,
    }
    gradients, _ = watched
    trained(batch_size=24, **options)
    trained(batch_size=6, accumulate=4, **options)
    large, small = gradients
    assert large.norm().item() == pytest.approx(1e-3, rel=1e-3)
    # The transport iterates until all images of a batch have converged.
    torch.testing.assert_close(small, large, rtol=0, atol=3e-5)


@pytest.mark.parametrize("decay", [0.5, 0.999])
def test_the_average_is_the_recursion_written_out(decay, watched):
    model, _ = trained(optimizer=Optimizer(ema=decay), epochs=4)
    _, weights = watched
    average = weights[0]
    for step, now in enumerate(weights[1:], 2):
        keep = min(decay, 1 - step ** (-2 / 3))
        average = [keep * old + (1 - keep) * new for old, new in zip(average, now, strict=True)]
    # The optimizer has the parameters without weight decay first.
    mine = sorted(model.parameters(), key=lambda p: p.ndim > 1)
    flat = [torch.cat([p.flatten() for p in part]) for part in (mine, average)]
    torch.testing.assert_close(*flat, rtol=1e-4, atol=1e-6)
    last = torch.cat([p.flatten() for p in weights[-1]])
    assert not flat[0].allclose(last, rtol=1e-4, atol=1e-6)


def test_statistics_of_batch_norm_are_averaged_too_without_an_effect_on_training():
    plain, history = trained(epochs=4)
    averaged, same_history = trained(optimizer=Optimizer(ema=0.9), epochs=4)
    assert history == same_history
    theirs, ours = plain.state_dict(), averaged.state_dict()
    for name, value in theirs.items():
        if value.is_floating_point():
            assert not ours[name].equal(value), name
        else:
            assert ours[name].equal(value), name


def test_an_average_does_not_share_memory_with_its_model():
    model = make_model()
    before = deepcopy(model.state_dict())
    make_trainer(optimizer=Optimizer(ema=0.9), epochs=0).fit(model, Images())
    assert all(value.equal(before[name]) for name, value in model.state_dict().items())


@given(st.integers(1, 10**6), st.integers(1, 64))
def test_the_automatic_rate_grows_with_the_root_of_the_images_in_a_step(n, times):
    for optimizer in ("adamw", "lars"):
        rate = peak_rate("auto", optimizer, n)
        assert peak_rate("auto", optimizer, n * times) == pytest.approx(rate * math.sqrt(times))
        assert peak_rate(0.1, optimizer, n) == 0.1


def test_the_automatic_rates_are_those_of_their_sources():
    assert peak_rate("auto", "adamw", 64) == 2e-3
    # SimCLR's square root rule and its linear rule, 0.3 * n / 256, agree at 4096.
    assert peak_rate("auto", "lars", 4096) == pytest.approx(4.8)


@given(steps=st.integers(2, 500))
def test_the_rate_rises_once_and_falls_to_zero(steps):
    rates = np.array([WarmupCosine(steps).factor(step) for step in range(steps + 1)])
    peak = int(rates.argmax())
    assert rates[peak] == 1
    assert (np.diff(rates[: peak + 1]) > 0).all()
    assert (np.diff(rates[peak + 1 :]) < 0).all()
    assert rates[-1] == pytest.approx(0, abs=1e-12)


def test_a_stream_is_warmed_up_linearly_and_keeps_its_rate():
    factors = [WarmupConstant().factor(step) for step in range(100)]
    assert factors[:40] == pytest.approx([step / 40 for step in range(1, 41)])
    assert set(factors[40:]) == {1.0}


def test_an_unknown_optimizer_is_not_built():
    with pytest.raises(ValueError, match="name must be 'adamw' or 'lars', got 'sgd'"):
        Optimizer("sgd").build(torch.nn.Linear(1, 1))


def test_a_learning_rate_of_numpy_is_a_plain_number():
    assert type(peak_rate(np.float32(0.5), "adamw", 64)) is float


@pytest.mark.parametrize("on_gpu", [(True, False), (False, True)])
def test_a_run_goes_on_with_the_optimizer_of_another_device(on_gpu):
    states = []
    for kind in on_gpu:
        model = make_model()
        optimizer = Optimizer().build(model, on_gpu=kind)
        progress = Progress(model, optimizer, EpochPlan(24, 8))
        if states:
            progress.unpack(states[0])
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        states.append(deepcopy(progress.pack()))
    moments = [name for name in states[0].tensors if name.startswith("optimizer")]
    assert moments
    for name in moments:
        assert states[1].tensors[name].shape == states[0].tensors[name].shape
        if name.endswith("/step"):
            assert states[1].tensors[name] == states[0].tensors[name] + 1 == 2
