"""OTCXRSegmenter: masks of structures from a few annotated images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk import OTCXRSegmenter
from otcxr_sk.estimators.supervised._pyramid import (
    MaskedDraw,
    SegmentingNetwork,
    choose_stages,
    dice,
    soft_dice,
)
from otcxr_sk.method import Views, build_encoder
from otcxr_sk.training import EarlyStopping


def test_it_learns_where_a_blob_is(segmenter, X, masks, blobs):
    found = segmenter(epochs=12, learning_rate=2e-2).fit(X, masks)
    others = blobs(24, seed=1)
    assert found.score(others, others > 0.5) > 0.6
    assert found.predict(others).shape == others.shape
    probabilities = found.predict_proba(others)
    assert probabilities.dtype == np.float32
    np.testing.assert_array_equal(found.predict(others), probabilities > 0.5)


def test_a_frozen_encoder_stays_as_it_is(segmenter, fitted, X, masks):
    found = segmenter(frozen=True, epochs=1).fit(X, masks)
    np.testing.assert_array_equal(found.pretrainer_.transform(X), fitted.transform(X))
    tuned = segmenter(epochs=1).fit(X, masks)
    assert not np.array_equal(tuned.pretrainer_.weights_, fitted.weights_)


def test_several_structures_may_overlap_and_have_the_shape_they_were_drawn_in(segmenter, X, masks):
    larger = np.stack([masks, masks | np.roll(masks, 3, 1)], 1).repeat(2, 2).repeat(3, 3)
    found = segmenter(epochs=1).fit(X, larger)
    assert found.predict(X[:3]).shape == (3, 2, 64, 96)
    assert 0 <= found.score(X, larger) <= 1


def test_masks_are_cut_as_their_images_are():
    image = torch.zeros(3, 1, 32, 32)
    image[:, :, 8:20, 10:25] = 1
    masks = (255 * image).to(torch.uint8)
    views = Views(contrast=0, brightness=0, blur=1, crop_scale=(0.3, 1))
    draw = MaskedDraw(views, 0.0, 1.0, 0, torch.device("cpu"), masks)
    seen, cut = draw(image, 0, 0, np.arange(3))
    assert ((seen > 0.5) == (cut > 0.5)).float().mean() > 0.97


def test_patients_held_out_are_watched(segmenter, X, masks, patients):
    stopping = EarlyStopping("validation_dice", patience=3)
    found = segmenter(validation_fraction=0.4, callbacks=[stopping])
    history = found.fit(X, masks, groups=patients).history_
    assert all(0 <= value <= 1 for value in history["validation_dice"])
    assert len(history["validation_loss"]) == 2


@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
)
def test_dice_is_twice_what_is_shared_over_both_areas(seed, k):
    rng = np.random.default_rng(seed)
    truth, found = rng.random((2, 4, k, 5, 6)) > rng.random()
    expected = [
        [
            1.0 if not (t | f).any() else 2 * (t & f).sum() / (t.sum() + f.sum())
            for t, f in zip(*pair, strict=True)
        ]
        for pair in zip(truth, found, strict=True)
    ]
    np.testing.assert_allclose(dice(truth, found), expected)
    np.testing.assert_allclose(dice(truth, found), dice(found, truth))


def test_soft_dice_of_masks_is_nearly_theirs_and_empty_ones_agree():
    truth = torch.zeros(2, 2, 40, 40)
    truth[:, 0, :20], found = 1, truth.clone()
    found[:, 0, 10:30] = 1
    assert soft_dice(truth, truth).tolist() == pytest.approx([1, 1])
    assert soft_dice(found, truth)[0].item() == pytest.approx(2 * 10 / (20 + 20), abs=1e-3)


def test_the_pyramid_takes_maps_of_every_stride_or_of_every_depth():
    resnet = build_encoder("resnet10t", size=64, match_stride=8).backbone
    strides = [resnet.feature_info[stage]["reduction"] for stage in choose_stages(resnet)]
    assert strides == [4, 8, 16, 32]
    transformer = build_encoder("test_vit", size=32, match_stride=16)
    stages = choose_stages(transformer.backbone)
    assert stages[-1] == len(transformer.backbone.feature_info) - 1
    network = SegmentingNetwork(transformer, 2, 32, 0.5, frozen=False).eval()
    assert network.tell(torch.zeros(1, 1, 32, 32)).shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda masks: masks[:-1], "got 23 masks for 24 images"),
        (lambda masks: masks[:, 0], r"shape \(n, H, W\) or \(n, k, H, W\), got \(24, 32\)"),
        (lambda masks: 255 * masks.astype(np.uint8), "row 0: a mask has other values than 0 and 1"),
    ],
)
def test_masks_that_cannot_be_used_are_named_before_any_training(wrong, message, tiny, X, masks):
    with pytest.raises(ValueError, match=message):
        OTCXRSegmenter(tiny(epochs=10**6)).fit(X, wrong(masks))


def test_masks_of_another_shape_have_no_score(segmenter, X, masks):
    found = segmenter(epochs=1).fit(X, masks)
    for other in (masks.reshape(24, 16, 64), np.stack([masks, masks], 1)):
        with pytest.raises(ValueError, match=r"y has shape .* and predicted masks have \(24, 32"):
            found.score(X, other)
    assert found.score(X, masks[:, None]) == found.score(X, masks)


def test_masks_that_are_not_square_need_squashed_images(tiny, X, masks):
    padded = tiny(resize="pad", epochs=0)
    with pytest.raises(ValueError, match="need a pretrainer with resize='squash', got 'pad'"):
        OTCXRSegmenter(padded).fit(X, masks[:, :16])


def test_an_image_that_cannot_be_used_has_an_empty_mask_and_unknown_probabilities(
    segmenter, tiny, X, masks
):
    found = segmenter(tiny(on_error="nan", epochs=0), epochs=1).fit(X, masks)
    broken = X.copy()
    broken[3] = np.nan
    assert not found.predict(broken)[3].any()
    assert np.isnan(found.predict_proba(broken)[3]).all()
    assert [problem["row"] for problem in found.pretrainer_.last_unusable] == [3]
