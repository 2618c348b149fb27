"""The class token, of every transformer whose maps come with one."""

import pytest
import timm
import torch
from timm.models.beit import Beit
from timm.models.eva import Eva
from torch import nn

from otcxr_sk.method import Objective, OTCXRModel, Views, build_encoder

SMALL = {
    "img_size": 32,
    "patch_size": 8,
    "in_chans": 1,
    "num_classes": 0,
    "embed_dim": 32,
    "depth": 3,
    "num_heads": 2,
}
MODELS = {
    "alone": lambda: timm.create_model("test_vit", img_size=32, in_chans=1, num_classes=0),
    "before registers": lambda: timm.create_model("test_vit", **SMALL, reg_tokens=4),
    "before another": lambda: timm.create_model("deit_tiny_distilled_patch16_224", **SMALL),
    "of BEiT": lambda: Beit(**SMALL),
    "of EVA": lambda: Eva(**SMALL, num_reg_tokens=4),
}
WITHOUT = {
    "a CNN": lambda: timm.create_model("test_resnet", in_chans=1, num_classes=0),
    "registers only": lambda: timm.create_model(
        "test_vit", **SMALL, reg_tokens=4, class_token=False, global_pool="avg"
    ),
    "a token after the maps": lambda: timm.create_model(
        "cait_xxs24_224", **{**SMALL, "patch_size": 16}
    ),
    "a module": lambda: nn.Conv2d(1, 4, 8, stride=8),
}


def token_encoder(module):
    return build_encoder(module, size=32, match_stride=16, pooling="token")


def some_images(n):
    return torch.randn(n, 1, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_the_embedding_is_the_first_of_all_tokens_and_the_maps_stay(model):
    module = model()
    # Registers begin as zeros, or equal.
    for name, value in module.named_parameters():
        if "token" in name:
            nn.init.normal_(value)
    images, encoder = some_images(2), token_encoder(module).eval()
    by_mean = build_encoder(module, size=32, match_stride=16)
    with torch.inference_mode():
        *maps, embedding = encoder(images)
        *same, mean = by_mean(images)
        expected = module.forward_features(images)[:, 0]
    torch.testing.assert_close(embedding, expected, rtol=0, atol=0)
    torch.testing.assert_close(maps, same, rtol=0, atol=0)
    assert mean.shape == embedding.shape == (2, encoder.last_shape[0])
    assert (mean - embedding).abs().min(0).values.max() > 0.1


@pytest.mark.parametrize("model", WITHOUT.values(), ids=WITHOUT)
def test_an_encoder_without_one_in_its_maps_is_refused_and_named(model):
    module = model()
    words = f"the encoder {type(module).__name__} has none in its maps; set pooling='mean'"
    with pytest.raises(ValueError, match=words):
        token_encoder(module)


def test_the_token_is_float32_whatever_the_encoder_computes_in():
    encoder = token_encoder(MODELS["alone"]()).bfloat16()
    matched, _, embedding = encoder(some_images(2).bfloat16())
    assert (matched.dtype, embedding.dtype) == (torch.bfloat16, torch.float32)


def test_the_image_level_loss_is_that_of_the_token():
    model = OTCXRModel(token_encoder(MODELS["alone"]()), Objective()).eval()
    views, affine = Views()(some_images(4), torch.Generator().manual_seed(0))
    with torch.inference_mode():
        terms, embedding = model(views, affine)
        token = model.encoder.backbone.forward_features(views)[:, 0]
        first, second = model.projector(token).chunk(2)
    torch.testing.assert_close(embedding, token)
    torch.testing.assert_close(terms["global_invariance"], (first - second).square().mean())
