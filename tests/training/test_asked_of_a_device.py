"""What a training step asks of a device: how much work, and never a number in between.

On the "meta" device tensors have no numbers, so whatever would wait for one is an error.
"""

import itertools

import numpy as np
import pytest
import torch
from asked import META, Asked, no_autocast
from torch.optim.optimizer import register_optimizer_step_post_hook

from otcxr_sk import _transfer
from otcxr_sk.images import ArraySource
from otcxr_sk.method import NUMBERS_PER_VIEW, Objective, OTCXRModel, Views, build_encoder
from otcxr_sk.method import _transport as transport
from otcxr_sk.training import Draw, Optimizer, Trainer
from otcxr_sk.training._progress import Tally

BATCH, SIZE = 4, 32


def make_model(depth=0, **options):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        objective = Objective(cv_sim_depth=depth, **options)
        encoder = build_encoder("test_resnet", size=SIZE, match_stride=8)
        return OTCXRModel(encoder, objective), objective


def views_on_meta():
    images = torch.empty(BATCH, 1, SIZE, SIZE, device=META)
    return Draw(Views(), 0.5, 0.2, 0, META)(images, 0, 0)


def test_views_are_drawn_on_the_cpu_and_made_by_a_few_products_on_the_device():
    with Asked() as asked:
        views, affine = views_on_meta()
    assert views.device == affine.device == META
    assert asked.waits == 0
    assert asked.total <= 45
    assert asked.work["bmm"] + asked.work["baddbmm"] == 2


@pytest.mark.parametrize("transport", ["inverse", "direct"])
@pytest.mark.parametrize("depth", [0, 1])
@no_autocast()
def test_a_step_waits_for_no_number(transport, depth):
    model, objective = make_model(depth, transport=transport)
    model.to(META).train()
    tally = Tally()
    for _ in range(2):
        views, affine = views_on_meta()
        terms, embedding = model(views, affine)
        loss = objective.total(terms)
        loss.backward()
        tally.add({"loss": loss, **terms}, embedding, BATCH)


@no_autocast()
def test_what_is_asked_for_beside_the_encoder_is_mostly_transport_and_the_read_out():
    model, objective = make_model()
    model.to(META).train()
    views, affine = views_on_meta()
    maps = [dense.detach().requires_grad_() for dense in model.encoder(views)]
    tally = Tally()
    tally.add({"loss": torch.zeros((), device=META)}, torch.empty(1, 1, device=META), 1)
    with Asked() as forward:
        terms = model.terms(*maps, affine)
        loss = objective.total(terms)
    with Asked() as backward:
        loss.backward()
    iterations = 50
    assert forward.work["bmm"] == 2 * iterations + 8
    assert forward.total - 4 * iterations <= 255
    assert backward.total <= 190


def test_history_takes_two_launches_a_batch():
    terms = {name: torch.zeros((), device=META) for name in "abcdefghij"}
    tally = Tally()
    tally.add(terms, torch.empty(8, 3, device=META), 4)
    with Asked() as asked:
        tally.add(terms, torch.empty(8, 3, device=META), 4)
    assert asked.work == {"stack": 1, "add_": 1}


def test_no_iterations_are_spared_where_looking_would_wait():
    marginals = torch.full((2, 6), 1 / 6, device=META)
    for between in ((0.0, 2.0), (0.0, 200.0)):  # By scaling, and in the log domain.
        with Asked() as asked:
            transport.transport_plan(
                torch.ones(2, 6, 6, device=META), marginals, marginals, epsilon=0.1, between=between
            )
        assert max(asked.work["bmm"], asked.work["logsumexp"]) in (100, 101)


def sent(monkeypatch):
    """Collect how many bytes go to the device in each call."""
    numbers = []

    def send(values, device):
        numbers.append(values.nbytes)
        return values.to(device)

    monkeypatch.setattr("otcxr_sk.method._views.send", send)
    return numbers


def test_beside_the_images_a_view_is_sent_as_thirty_numbers(monkeypatch):
    numbers = sent(monkeypatch)
    views_on_meta()
    assert numbers == [2 * BATCH * 30 * 4]


def test_the_same_views_are_made_whatever_the_device():
    random = torch.rand(BATCH, 2, NUMBERS_PER_VIEW, generator=torch.Generator().manual_seed(0))
    images = torch.zeros(BATCH, 1, SIZE, SIZE)
    placed = []
    for device in (torch.device("cpu"), META):
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(
                "otcxr_sk.method._views.send",
                lambda values, device: placed.append(values) or values.to(device),
            )
            Views()(images.to(device), random)
    assert placed[0].equal(placed[1])


def waits_by_step(**options):
    """Return how often numbers were waited for between the ends of steps, on the CPU."""
    model, objective = make_model(**options)
    pixels = np.random.default_rng(0).integers(0, 255, (24, SIZE, SIZE), np.uint8)
    cpu = torch.device("cpu")
    counts = []
    asked = Asked(cpu)
    hook = register_optimizer_step_post_hook(lambda *_: counts.append(asked.waits))
    trainer = Trainer(
        draw=Draw(Views(), 0.5, 0.2, 0, cpu),
        objective=objective,
        # On a GPU it is fused, and reads no number either.
        optimizer=_Fused(),
        size=SIZE,
        epochs=2,
        batch_size=4,
        learning_rate=1e-3,
        precision="float32",
    )
    try:
        with asked:
            trainer.fit(model, ArraySource(pixels))
    finally:
        hook.remove()
    return [after - before for before, after in itertools.pairwise(counts)]


class _Fused(Optimizer):
    def build(self, model, *, on_gpu=False):
        return super().build(model, on_gpu=True)


def test_within_an_epoch_only_the_loss_is_read(monkeypatch):
    monkeypatch.setattr(transport, "_looks_at", lambda *_: False)
    steps = waits_by_step()
    # The step at which an epoch ends is the sixth.
    assert set(steps[:5] + steps[6:]) == {1}


def test_an_optimizer_for_a_gpu_is_asked_once_for_all_parameters():
    model, objective = make_model()
    optimizer = Optimizer().build(model, on_gpu=True)
    objective.total(model(*Views()(torch.randn(4, 1, SIZE, SIZE), torch.Generator()))[0]).backward()
    optimizer.step()
    with Asked(torch.device("cpu")) as asked:
        optimizer.step()
    # One for each group of parameters, those that decay and those that do not.
    assert asked.work["_fused_adamw_"] == 2
    assert asked.waits == 0


def test_numbers_on_the_cpu_are_there_at_once():
    values = torch.arange(3.0)
    assert _transfer.send(values, torch.device("cpu")) is values
    assert _transfer.Arriving(values).read() is values
