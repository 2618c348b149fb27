"""Random numbers of a run: those of torch's default generators, which are left alone."""

import threading
from contextlib import nullcontext

import pytest
import timm
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from otcxr_sk.training._random import Randomness, TrainingPasses, _with_generator

CPU = torch.device("cpu")
pytestmark = pytest.mark.usefixtures("generators_untouched")


def by_default_generator(make, seed=7):
    """Return what `make` returns from a seeded default generator, and its state afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(), torch.get_rng_state()


def tensors(made):
    return made.state_dict() if isinstance(made, nn.Module) else {"tensor": made}


def assert_same_draws(make):
    expected, state = by_default_generator(make)
    random = Randomness(7, CPU)
    with random.given():
        found = make()
    for name, value in tensors(expected).items():
        assert tensors(found)[name].equal(value), name
    assert random.states()["cpu"].equal(state)


def model(name):
    return lambda: timm.create_model(name, in_chans=1, num_classes=0)


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_network_has_the_weights_of_a_seeded_default_generator(name):
    assert_same_draws(model(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "resnet18",
        "resnet50",
        "vit_small_patch16_224",
        "swin_tiny_patch4_window7_224",
        "swinv2_tiny_window8_256",
        "convnext_atto",
        "efficientnet_b0",
        "eva02_tiny_patch14_224",
        "maxvit_pico_rw_256",
        "swiftformer_xs",
        "densenet121",
        "sequencer2d_s",
        "dm_nfnet_f0",
    ],
)
def test_all_families_have_the_weights_of_a_seeded_default_generator(name):
    assert_same_draws(model(name))


DRAWS = {
    "rand": lambda: torch.rand(2, 3),
    "randn": lambda: torch.randn(20),
    "randint": lambda: torch.randint(5, (9,)),
    "randint from": lambda: torch.randint(2, 5, (9,)),
    "randperm": lambda: torch.randperm(9),
    "rand_like": lambda: torch.rand_like(torch.ones(2, 3)),
    "randn_like": lambda: torch.randn_like(torch.ones(2, 3)),
    "randint_like": lambda: torch.randint_like(torch.ones(2, 3), 5),
    "normal": lambda: torch.normal(0.0, 1.0, (5,)),
    "normal of tensors": lambda: torch.normal(torch.zeros(3), torch.ones(3)),
    "bernoulli": lambda: torch.bernoulli(torch.full((9,), 0.5)),
    "multinomial": lambda: torch.ones(5).multinomial(3),
    "in place": lambda: torch.empty(9).exponential_(),
    "dropout": lambda: F.dropout(torch.ones(50), 0.5, True),
    "alpha dropout": lambda: F.alpha_dropout(torch.ones(50), 0.5, True),
    "rrelu": lambda: F.rrelu(-torch.ones(9), training=True),
    "gamma": lambda: torch.distributions.Gamma(torch.ones(3), 1.0).sample(),
    "attention": lambda: F.scaled_dot_product_attention(*torch.ones(3, 1, 4, 8), dropout_p=0.5),
    "initialization": lambda: nn.init.orthogonal_(torch.empty(4, 4)),
    "attention layer": lambda: nn.MultiheadAttention(8, 2),
    "recurrent layer": lambda: nn.LSTM(4, 4, 2, dropout=0.5),
}


@pytest.mark.parametrize("inference", [False, True])
@pytest.mark.parametrize("name", DRAWS)
def test_every_draw_is_that_of_a_seeded_default_generator(name, inference):
    with torch.inference_mode(inference):
        assert_same_draws(DRAWS[name])


def test_a_function_with_a_generator_is_found_for_one_without():
    assert _with_generator(torch.ops.aten.rand.default) is torch.ops.aten.rand.generator
    assert _with_generator(torch.ops.aten.randint.low) is torch.ops.aten.randint.low_generator
    assert _with_generator(torch.ops.aten.normal_.default) is torch.ops.aten.normal_.default
    assert _with_generator(torch.ops.aten.native_dropout.default) is None


def test_a_generator_that_is_passed_is_used():
    with Randomness(0, CPU).given():
        drawn = torch.rand(3, generator=torch.Generator().manual_seed(1))
    assert drawn.equal(torch.rand(3, generator=torch.Generator().manual_seed(1)))


def test_a_stream_goes_on_from_use_to_use_and_from_its_states():
    expected, _ = by_default_generator(lambda: torch.rand(4, 5))
    random = Randomness(7, CPU)
    with random.given():
        drawn = [torch.rand(5)]
    with random.exchanged():
        drawn.append(torch.rand(5))
    other = Randomness(0, CPU)
    other.go_on(random.states())
    with other.given():
        drawn.append(torch.rand(5))
    with pytest.raises(ZeroDivisionError), other.exchanged():
        raise drawn.append(torch.rand(5)) or ZeroDivisionError
    assert torch.stack(drawn).equal(expected)


class Recomputed(nn.Sequential):
    def forward(self, x):
        return checkpoint(super().forward, x, use_reentrant=self.reentrant)

    reentrant = False


class RecomputedOldWay(Recomputed):
    reentrant = True


class Noisy(nn.Module):
    def forward(self, x):
        # Older versions of torch have no randn_like that takes a generator.
        return x + torch.randn(x.shape)


class Attention(nn.MultiheadAttention):
    def forward(self, x):
        return super().forward(x, x, x, need_weights=False)[0]


def layers(dropout=0.3):
    return nn.Linear(6, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Dropout(dropout), nn.Linear(6, 6)


NETWORKS = {
    "no dropout": lambda: nn.Sequential(*layers(0.0)),
    "dropout": lambda: nn.Sequential(*layers()),
    "noise": lambda: nn.Sequential(*layers(0.0), Noisy()),
    "attention": lambda: nn.Sequential(*layers(0.0), Attention(6, 2)),
    "dropout of attention": lambda: nn.Sequential(*layers(0.0), Attention(6, 2, dropout=0.3)),
    "checkpointing": lambda: Recomputed(*layers(0.0)),
    "checkpointing of dropout": lambda: Recomputed(*layers()),
    "reentrant": lambda: RecomputedOldWay(*layers()),
    "dropout before": lambda: nn.Sequential(nn.Dropout(0.2), Recomputed(*layers())),
    "norm before": lambda: nn.Sequential(nn.BatchNorm1d(6), Recomputed(*layers()), Noisy()),
}
X = torch.randn(8, 6, generator=torch.Generator().manual_seed(1))


class Model(nn.Module):
    """Calls its encoder as `OTCXRModel` does."""

    encoding = nullcontext

    def __init__(self, encoder):
        super().__init__()
        self.encoder = encoder

    def forward(self, x):
        with self.encoding():
            return self.encoder(x)


def train(network, do=lambda work: work()):
    """Return the outputs, gradients and buffers of four passes."""
    x = X.clone().requires_grad_()

    def work():
        out = network(x)
        out.square().sum().backward()
        return out

    seen = [do(work).detach().clone() for _ in range(4)]
    return [*seen, *(p.grad for p in network.parameters()), *network.buffers(), x.grad]


@pytest.mark.parametrize("name", NETWORKS)
def test_training_passes_are_those_from_a_seeded_default_generator(name):
    def whole():
        return train(Model(NETWORKS[name]()))

    expected, state = by_default_generator(whole)
    random = Randomness(7, CPU)
    with random.given():
        network = Model(NETWORKS[name]())
    passes = TrainingPasses(network, random)
    for value, found in zip(expected, train(network, passes.do), strict=True):
        assert found.equal(value)
    assert random.states()["cpu"].equal(state)


@pytest.mark.parametrize("name", NETWORKS)
def test_only_checkpointing_needs_the_default_generators(name, monkeypatch):
    uses = []

    def used(random, exchanged=Randomness.exchanged):
        uses.append(random)
        return exchanged(random)

    monkeypatch.setattr(Randomness, "exchanged", used)
    random = Randomness(0, CPU)
    with random.given():
        network = Model(NETWORKS[name]())
    train(network, TrainingPasses(network, random).do)
    assert bool(uses) == any(isinstance(module, Recomputed) for module in network.modules())


@pytest.mark.parametrize("name", ["no dropout", "dropout", "checkpointing of dropout"])
def test_passes_in_threads_draw_as_if_they_were_alone(name):
    def run(_=None):
        random = Randomness(7, CPU)
        with random.given():
            network = Model(NETWORKS[name]())
        return train(network, TrainingPasses(network, random).do)

    expected, found = run(), [None] * 4
    threads = [
        threading.Thread(target=lambda n=n: found.__setitem__(n, run())) for n in range(len(found))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for values in found:
        assert all(map(torch.equal, values, expected))
