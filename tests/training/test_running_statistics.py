import pytest
import torch
from small_runs import Images, make_model, make_trainer
from torch import nn
from torch.testing import assert_close

from otcxr_sk.training._running_statistics import unsettled

MOMENTUM = 0.1


def first_norm(model):
    return next(module for module in model.encoder.modules() if isinstance(module, nn.BatchNorm2d))


# Steps of three and of four batches in twos and threes are not of equal length.
@pytest.mark.parametrize(
    ("n_images", "accumulate", "epochs"),
    [(24, 1, 1), (24, 1, 3), (32, 2, 2), (24, 2, 2), (32, 3, 2)],
)
def test_the_running_mean_of_a_short_run_is_the_mean_over_its_batches(n_images, accumulate, epochs):
    model, means = make_model(), []
    norm = first_norm(model)
    norm.register_forward_hook(lambda _, given, __: means.append(given[0].mean((0, 2, 3)).detach()))
    trainer = make_trainer(batch_size=8, accumulate=accumulate, epochs=epochs, precision="float32")
    trainer.fit(model, Images(n_images))
    assert len(means) == epochs * n_images // 8 < 1 / MOMENTUM
    assert_close(norm.running_mean, torch.stack(means).mean(0))
    assert norm.momentum == MOMENTUM


def test_the_running_mean_of_a_long_run_is_that_of_torch_but_for_its_start():
    model, means = make_model(), []
    norm = first_norm(model)
    norm.register_forward_hook(lambda _, given, __: means.append(given[0].mean((0, 2, 3)).detach()))
    make_trainer(batch_size=8, epochs=8, precision="float32").fit(model, Images(16))
    usual = torch.stack(means[:10]).mean(0)
    for mean in means[10:]:
        usual = (1 - MOMENTUM) * usual + MOMENTUM * mean
    assert_close(norm.running_mean, usual)


def test_what_a_norm_has_seen_before_the_run_counts():
    model, means = make_model(), []
    norm = first_norm(model)
    norm.register_forward_hook(lambda _, given, __: means.append(given[0].mean((0, 2, 3)).detach()))
    trainer = make_trainer(batch_size=8, epochs=1, precision="float32")
    trainer.fit(model, Images(24))
    trainer.fit(model, Images(16))
    assert len(means) == 5
    assert_close(norm.running_mean, torch.stack(means).mean(0))


def test_statistics_of_unknown_batches_are_not_replaced_by_those_of_one():
    model, means = make_model(), []
    norm = first_norm(model)
    given = torch.full_like(norm.running_mean, 3.0)
    norm.running_mean.copy_(given)
    norm.register_forward_hook(lambda _, x, __: means.append(x[0].mean((0, 2, 3)).detach()))
    make_trainer(batch_size=8, epochs=1, precision="float32").fit(model, Images(8))
    assert_close(norm.running_mean, (1 - MOMENTUM) * given + MOMENTUM * means[0])


def test_norms_without_momentum_or_statistics_are_left_alone():
    norms = nn.ModuleList(
        [nn.BatchNorm2d(2, momentum=momentum) for momentum in (None, 0.0)]
        + [nn.BatchNorm2d(2, track_running_stats=False)]
    )
    assert unsettled(norms) == {}
