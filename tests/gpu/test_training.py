"""Training on a GPU: as on the CPU, the same every time, and without waiting for the GPU."""

from itertools import count

import numpy as np
import pytest
import timm
import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from otcxr_sk import Objective, Optimizer, OTCXRPretrainer
from otcxr_sk.training import TimeLimit, choose_device

pytestmark = pytest.mark.gpu

SWITCHES = [
    {"precision": "bfloat16"},
    {"precision": "float16"},
    {"precision": "float32"},
    {"objective": Objective(cv_sim_depth=2)},
    {"objective": Objective(transport="direct")},
    {"objective": Objective(epsilon=0.02)},
    {"optimizer": "lars"},
    {"optimizer": Optimizer(clip_norm=1.0, ema=0.99), "accumulate": 2},
    {"validation_fraction": 0.2},
    {"num_workers": 2},
    {"epochs": 50, "callbacks": [TimeLimit(minutes=0.01)]},
    {"encoder": "convnext_atto"},
    {"encoder": "vit_tiny_patch16_224", "image_size": 224, "match_stride": 16},
]


@pytest.fixture
def after_steps():
    """Call functions with the number of every step of an optimizer, from 1, after that step."""
    handles = []

    def register(function):
        steps = count(1)
        handles.append(register_optimizer_step_post_hook(lambda *_: function(next(steps))))

    yield register
    for handle in handles:
        handle.remove()


def test_auto_takes_the_gpu(gpu):
    assert choose_device("auto").type == gpu


def test_tokens_learn_their_places(fitted):
    accuracy, chance = (fitted.history_[f"matching_{name}"][-1] for name in ("accuracy", "chance"))
    assert accuracy > 3 * chance


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_every_switch_trains(small, X, options):
    fitted = small(**options).fit(X)
    assert np.isfinite(fitted.history_["loss"]).all()
    assert np.isfinite(fitted.transform(X[:4])).all()


def test_training_goes_on_in_every_way(small, X):
    warm = small(warm_start=True).fit(X).fit(X)
    streamed = small().partial_fit(X).partial_fit(X)
    started = small(weights=warm).fit(X)
    for each in (warm, streamed, started):
        assert np.isfinite(each.transform(X)).all()
    assert streamed.n_epochs_ == 2


@pytest.mark.parametrize("precision", ["auto", "float32"])
def test_a_seed_gives_the_same_weights_every_time(small, X, precision):
    one, other = (small(epochs=2, precision=precision).fit(X) for _ in range(2))
    np.testing.assert_array_equal(one.weights_, other.weights_)
    assert one.history_ == other.history_


def test_training_starts_as_on_the_cpu(small, X):
    ours, reference = (
        small(precision="float32", **place).fit(X).history_ for place in ({}, {"device": "cpu"})
    )
    assert ours["loss"][0] == pytest.approx(reference["loss"][0], rel=0.02)


def test_the_generator_of_the_gpu_is_left_alone(small, X, stopping_encoder):
    before = torch.cuda.get_rng_state()
    small(stopping_encoder()).fit(X)  # It has dropout.
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_accumulated_gradients_are_those_of_the_large_batch(small, X):
    # Without batch norm, variance and covariance, nothing in a batch depends on the rest of it;
    # with this epsilon the transport converges at once.
    objective = Objective(beta=0.0, eta=0.0, global_weight=0.0, epsilon=1.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = timm.create_model(
            "vit_tiny_patch16_224", in_chans=1, num_classes=0, img_size=64, patch_size=8, depth=3
        )
    gradients = []

    def note(optimizer, *_):
        with_gradient = (p.grad for group in optimizer.param_groups for p in group["params"])
        gradients.append(torch.cat([g.flatten().cpu() for g in with_gradient if g is not None]))

    hook = register_optimizer_step_pre_hook(note)
    options = {"objective": objective, "precision": "float32"}
    small(encoder, batch_size=32, **options).fit(X[:32])
    small(encoder, batch_size=8, accumulate=4, **options).fit(X[:32])
    hook.remove()
    whole, accumulated = gradients
    assert (accumulated - whole).norm() < 1e-3 * whole.norm()


@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_steps_do_not_wait_for_the_gpu(small, X, after_steps):
    estimator = small(batch_size=8)
    steps = len(X) // 8

    def forbid(step):
        # What comes before the first steps and after the last one may wait.
        mode = "error" if 3 <= step < steps - 1 else "default"
        torch.cuda.set_sync_debug_mode(mode)

    after_steps(forbid)
    try:
        estimator.fit(X)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_training_takes_little_more_memory_than_its_encoder(gpu, X):
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free memory of the GPU")

    def peak(work):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated()

    def bare():
        model = timm.create_model("resnet18", in_chans=1, num_classes=0).to(gpu)
        model.to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(model.parameters())
        views = torch.randn(512, 1, 224, 224, device=gpu)
        for _ in range(2):
            with torch.autocast(gpu, torch.bfloat16):
                embedding = model(views)
            embedding.float().square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    images = np.resize(X, (512, *X.shape[1:]))
    estimator = OTCXRPretrainer(
        "resnet18", epochs=1, batch_size=256, precision="bfloat16", device=gpu, random_state=0
    )
    assert peak(lambda: estimator.fit(images)) < 1.15 * peak(bare)


@pytest.fixture
def little_memory(fitted):
    """Leave the library 128 MiB of the GPU."""
    torch.cuda.empty_cache()
    whole = torch.cuda.mem_get_info()[1]
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + 2**27) / whole)
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)


@pytest.mark.usefixtures("little_memory")
@pytest.mark.parametrize("method", ["fit", "transform", "score"])
def test_memory_that_runs_out_is_blamed_on_batch_size(exact, X, method):
    many = np.resize(X, (512, *X.shape[1:]))
    exact.set_params(batch_size=512)
    with pytest.raises(MemoryError, match="batch_size"):
        getattr(exact, method)(many)
