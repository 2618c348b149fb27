import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from otcxr_sk.method._encoders import build_encoder, pool, tokens


class Cells(nn.Module):
    """Returns one map whose channels are the mean and the maximum of cells of 8 x 8 pixels."""

    def forward(self, images):
        mean, peak = nn.functional.avg_pool2d(images, 8), nn.functional.max_pool2d(images, 8)
        return torch.cat([mean, peak], 1)


@pytest.mark.parametrize(
    ("name", "match_stride", "match_shape", "last_shape"),
    [
        ("resnet10t", 32, (512, 2, 2), (512, 2, 2)),
        ("resnet10t", 16, (256, 4, 4), (512, 2, 2)),
        ("resnet10t", 8, (128, 8, 8), (512, 2, 2)),
        ("convnext_atto", 16, (160, 4, 4), (320, 2, 2)),
        ("vit_tiny_patch16_224", 16, (192, 4, 4), (192, 4, 4)),
        ("vit_tiny_patch16_224", 8, (192, 4, 4), (192, 4, 4)),
    ],
)
def test_timm_models_return_the_stage_of_the_stride_and_the_last(
    name, match_stride, match_shape, last_shape
):
    encoder = build_encoder(name, size=64, match_stride=match_stride)
    matched, last, embedding = encoder(torch.zeros(3, 1, 64, 64))
    assert matched.shape == (3, *match_shape) == (3, *encoder.match_shape)
    assert last.shape == (3, *last_shape) == (3, *encoder.last_shape)
    assert (matched is last) == (match_shape == last_shape)
    assert embedding.equal(pool(last))


@pytest.mark.parametrize("name", ["resnet10t", "vit_tiny_patch16_224"])
def test_the_last_map_does_not_depend_on_which_stage_is_matched(name):
    images = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    fine = build_encoder(name, size=64, match_stride=4).eval()
    coarse = build_encoder(name, size=64, match_stride=32).eval()
    coarse.load_state_dict(fine.state_dict())
    with torch.inference_mode():
        torch.testing.assert_close(fine(images)[1], coarse(images)[1])


def test_the_single_map_of_a_module_serves_for_both():
    encoder = build_encoder(Cells(), size=32, match_stride=16)
    images = torch.rand(3, 1, 32, 32)
    matched, last, _ = encoder(images)
    assert matched is last
    assert encoder.match_shape == encoder.last_shape == (2, 4, 4)
    torch.testing.assert_close(last, Cells()(images))


def test_probing_a_module_leaves_no_trace():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = {key: value.clone() for key, value in module.state_dict().items()}
    encoder = build_encoder(module, size=8, match_stride=16)
    assert encoder.training
    assert module.training
    assert all(value.equal(before[key]) for key, value in module.state_dict().items())
    assert encoder.backbone is module


def test_tokens_are_the_places_of_the_map_in_row_major_order():
    dense = torch.randn(2, 5, 3, 4).to(memory_format=torch.channels_last)
    rows = tokens(dense)
    assert rows.shape == (2, 12, 5)
    for y in range(3):
        for x in range(4):
            assert rows[:, y * 4 + x].equal(dense[:, :, y, x])
    assert not rows.equal(dense.reshape(2, 12, 5))


def test_pooling_is_the_mean_over_places():
    dense = torch.randn(2, 5, 3, 4)
    torch.testing.assert_close(pool(dense), tokens(dense).mean(1))


@pytest.mark.parametrize("function", [pool, tokens])
def test_what_leaves_the_encoder_is_float32(function):
    assert function(torch.ones(1, 2, 3, 3, dtype=torch.bfloat16)).dtype == torch.float32


def test_an_unknown_name_suggests_similar_ones():
    with pytest.raises(ValueError, match=r"no model named 'resnet81'.*'resnet18'"):
        build_encoder("resnet81", size=64, match_stride=16)
    with pytest.raises(ValueError, match=r"timm\.list_models"):
        build_encoder("!", size=64, match_stride=16)


@pytest.mark.parametrize(("name", "stride"), [("resnet10t", 32), ("vit_tiny_patch16_224", 16)])
def test_an_image_below_the_stride_is_refused(name, stride):
    with pytest.raises(ValueError, match=f"image_size=8 is below the stride.*{stride} pixels"):
        build_encoder(name, size=8, match_stride=16)


@pytest.mark.parametrize(
    ("module", "complaint"),
    [
        (nn.Conv2d(3, 4, 1), "cannot take images of 16 x 16 pixels in one channel"),
        (nn.Conv2d(1, 4, 17), "cannot take images of 16 x 16 pixels"),
        (nn.Flatten(), r"dense map of shape \(B, C, h, w\); got .*2, 256"),
        (nn.LSTM(16, 4), "the encoder LSTM cannot take images"),
        (nn.AdaptiveMaxPool2d(2, return_indices=True), "dense map.*got tuple"),
    ],
    ids=["three channels", "kernel too large", "flat", "recurrent", "two outputs"],
)
def test_a_module_that_returns_no_dense_map_is_refused(module, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_encoder(module, size=16, match_stride=16)


def test_weights_come_from_a_local_file_and_their_color_stem_is_folded(tmp_path):
    model = timm.create_model("resnet10t", in_chans=3, num_classes=7)
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    weights = str(tmp_path / "w.safetensors")
    encoder = build_encoder("resnet10t", size=32, match_stride=16, weights=weights)
    loaded, expected = encoder.backbone.state_dict(), model.state_dict()
    stem = "conv1.0.weight"
    torch.testing.assert_close(loaded[stem], expected[stem].sum(1, keepdim=True))
    rest = loaded.keys() - {stem}
    assert rest == expected.keys() - {stem, "fc.weight", "fc.bias"}
    assert all(loaded[key].equal(expected[key]) for key in rest)


def test_weights_cannot_be_given_for_a_module(tmp_path):
    with pytest.raises(ValueError, match="timm name"):
        build_encoder(Cells(), size=32, match_stride=16, weights=tmp_path / "w.safetensors")
