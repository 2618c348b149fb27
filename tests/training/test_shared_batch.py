"""Batches shared by processes, seen from a single process that is a group of its own."""

import copy

import numpy as np
import pytest
import torch
import torch.distributed as dist
from timm.layers import BatchNormAct2d
from torch import nn

from otcxr_sk.method._statistics import WHOLE_BATCH
from otcxr_sk.training._shared_batch import SharedStatistics, join_parts, share_norms

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory):
    file = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 2 + 0.7


NORMS = {
    "1d": (lambda: nn.BatchNorm1d(5), (7, 5)),
    "2d": (lambda: nn.BatchNorm2d(5), (6, 5, 3, 4)),
    "2d of one pixel": (lambda: nn.BatchNorm2d(5, eps=0.1), (6, 5, 1, 1)),
    "without weights": (lambda: nn.BatchNorm2d(5, affine=False), (6, 5, 3, 4)),
    "untracked": (lambda: nn.BatchNorm2d(5, track_running_stats=False), (6, 5, 3, 4)),
    "cumulative average": (lambda: nn.BatchNorm2d(5, momentum=None), (6, 5, 3, 4)),
    "with activation": (lambda: BatchNormAct2d(5, act_layer=nn.SiLU), (6, 5, 3, 4)),
}


@pytest.mark.parametrize("name", NORMS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_a_shared_norm_of_one_process_is_the_norm(name, channels_last):
    make, shape = NORMS[name]
    usual = nn.Sequential(make())
    for index, parameter in enumerate(usual.parameters()):
        parameter.data = numbers(5, seed=index)
    shared = copy.deepcopy(usual)
    before = dict(shared.named_parameters())
    share_norms(shared, CPU)
    assert dict(shared.named_parameters()) == before
    for step in range(3):
        x = numbers(*shape, seed=step)
        if channels_last and len(shape) == 4:
            x = x.to(memory_format=torch.channels_last)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [norm(value) for norm, value in zip((usual, shared), inputs, strict=True)]
        for output in outputs:
            (output * numbers(*shape, seed=9)).sum().backward()
        torch.testing.assert_close(*outputs)
        torch.testing.assert_close(*(value.grad for value in inputs))
    torch.testing.assert_close(shared.state_dict(), usual.state_dict())
    for a, b in zip(usual.parameters(), shared.parameters(), strict=True):
        torch.testing.assert_close(b.grad, a.grad)
    torch.testing.assert_close(shared.eval()(x), usual.eval()(x))


def test_on_a_gpu_norms_become_those_of_torch():
    model = nn.Sequential(nn.BatchNorm2d(5), nn.Sequential(BatchNormAct2d(5), nn.BatchNorm1d(5)))
    before = dict(model.named_parameters()), dict(model.named_buffers())
    share_norms(model, torch.device("cuda"))
    norms = [module for module in model.modules() if isinstance(module, nn.SyncBatchNorm)]
    assert len(norms) == 3
    assert isinstance(norms[1].act, nn.ReLU)
    assert (dict(model.named_parameters()), dict(model.named_buffers())) == before


def test_the_gradient_of_a_shared_norm_is_that_of_its_output():
    norm = nn.Sequential(nn.BatchNorm1d(3)).double()
    share_norms(norm, CPU)
    x = numbers(5, 3).double().requires_grad_()
    weight, bias = (numbers(3, seed=seed).double().requires_grad_() for seed in (1, 2))

    def apply(x, weight, bias):
        return torch.func.functional_call(norm, {"0.weight": weight, "0.bias": bias}, x)

    assert torch.autograd.gradcheck(apply, (x, weight, bias))


def test_bfloat16_is_kept_and_averaged_in_float32():
    norm = nn.Sequential(nn.BatchNorm2d(4))
    share_norms(norm, CPU)
    x = (100 + numbers(64, 4, 8, 8)).bfloat16()
    output = norm(x)
    assert output.dtype == torch.bfloat16
    torch.testing.assert_close(norm[0].running_mean, 0.1 * x.float().mean((0, 2, 3)))
    assert output.detach().float().std() == pytest.approx(1, rel=0.01)


def test_statistics_of_one_process_are_those_of_its_batch():
    shared = SharedStatistics()
    values, weights, q = numbers(3, 4), numbers(3, 4, seed=1).abs(), numbers(2, 9, 5)
    samples = (values, None), (values, weights)
    torch.testing.assert_close(shared.means(*samples), WHOLE_BATCH.means(*samples))
    assert shared.means((values, 0 * values))[0].isnan()
    assert shared.largest(values.max()) == WHOLE_BATCH.largest(values.max())
    torch.testing.assert_close(shared.covariance(q), WHOLE_BATCH.covariance(q))


def test_padding_is_dropped_when_parts_are_joined():
    np.testing.assert_array_equal(join_parts(numbers(6, 2), [3]), numbers(6, 2)[:3])
