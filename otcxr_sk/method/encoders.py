"""Encoders: an image -> dense maps and a pooled vector."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otcxr_sk.method.weights import check_config, is_dinov2, locate, read_weights, summary


class Encoder(nn.Module):
    """A backbone seen as a pair of dense maps.

    Parameters
    ----------
    backbone : nn.Module
        A timm model with `forward_intermediates`, or any module that turns (B, 1, H, W) into one
        dense map (B, C, h, w).
    size : int
        Height and width of the square images, in pixels.
    match_stride : int
        The tokens to match come from the deepest stage whose stride is at most this. A module
        that gives one map serves it for both.

    Attributes
    ----------
    match_shape, last_shape : tuple of int
        (C, h, w) of the dense map that transport matches and of the one that is pooled.
    """

    def __init__(self, backbone: nn.Module, size: int, match_stride: int) -> None:
        super().__init__()
        self.backbone: Any = backbone
        self._stages = self._choose_stages(match_stride)
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            try:
                matched, last = self(torch.zeros(2, 1, size, size))
            except Exception as error:  # A module of the user's may raise anything.
                raise ValueError(
                    f"the encoder {type(backbone).__name__} cannot take images of {size} x {size} "
                    f"pixels in one channel ({error}); choose another image_size or encoder"
                ) from error
        self.train(was_training)
        for dense in (matched, last):
            if getattr(dense, "ndim", None) != 4 or len(dense) != 2:
                got = getattr(dense, "shape", type(dense).__name__)
                raise ValueError(
                    "an encoder module must return a dense map of shape (B, C, h, w); got "
                    f"{got} from a batch of 2"
                )
        self.match_shape: tuple[int, int, int] = tuple(matched.shape[1:])
        self.last_shape: tuple[int, int, int] = tuple(last.shape[1:])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Dense map to match (B, C', h', w') and last dense map (B, C, h, w) of (B, 1, H, W)."""
        if self._stages is None:
            dense = self.backbone(images)
            return dense, dense
        maps = self.backbone.forward_intermediates(
            images, indices=self._stages, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        return maps[0], maps[-1]

    def _choose_stages(self, match_stride: int) -> list[int] | None:
        if not hasattr(self.backbone, "forward_intermediates"):
            return None
        strides = [stage["reduction"] for stage in self.backbone.feature_info]
        last = len(strides) - 1
        fine = [i for i, stride in enumerate(strides) if stride <= match_stride]
        match = max(fine, default=last)
        return [last] if match == last else [match, last]


def pool(dense: Tensor) -> Tensor:
    """Mean over the places of a dense map: (B, C, h, w) -> (B, C) float32."""
    return dense.float().mean((2, 3))


def tokens(dense: Tensor) -> Tensor:
    """Rows of a dense map: (B, C, h, w) -> (B, N, C) float32, in row-major order."""
    return dense.flatten(2).transpose(1, 2).float()


def build_encoder(
    encoder: str | nn.Module,
    *,
    size: int,
    match_stride: int,
    weights: str | Path | Mapping[str, Tensor] | None = None,
) -> Encoder:
    """Make an encoder of one-channel images from a timm name or a module.

    Parameters
    ----------
    encoder : str or nn.Module
        Name of a timm model, or a module as `Encoder` takes it. A module is used as it is: pass
        a copy to keep the original's weights.
    size : int
        Height and width of the square images, in pixels.
    match_stride : int
        See `Encoder`.
    weights : path or mapping of str to Tensor, optional
        A local file with the named timm model's weights, or with Hugging Face's of DINOv2: see
        `otcxr_sk.method.weights`. Or the state dict of such a backbone, or of the module. A
        three-channel stem is folded to one channel, position embeddings are resized, a
        classifier is left out. Nothing is ever downloaded.

    Raises
    ------
    ValueError
        The name is not timm's (the nearest names are suggested), `size` is below the stride of
        the encoder or does not fit it, or the weights do not fit.
    """
    if isinstance(encoder, nn.Module):
        if isinstance(weights, Mapping):
            _restore(encoder, weights)
        elif weights is not None:
            raise ValueError("weights= goes with a timm name; load them into the module yourself")
        return Encoder(encoder, size, match_stride)
    import timm

    if not timm.is_model(encoder):
        known = timm.list_models()
        near = difflib.get_close_matches(encoder, known, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise ValueError(f"timm has no model named {encoder!r}; {hint}")
    backbone = _create(encoder, size)
    if not hasattr(backbone, "forward_intermediates"):
        raise ValueError(f"timm's {encoder!r} gives no dense maps (no forward_intermediates)")
    stride = backbone.feature_info[-1]["reduction"]
    if size < stride:
        raise ValueError(
            f"image_size={size} is below the stride of {encoder!r}, {stride} pixels; "
            f"use image_size >= {stride}"
        )
    if weights is not None:
        backbone = _load(encoder, size, weights, backbone)
    return Encoder(backbone, size, match_stride)


def _create(name: str, size: int, **options: Any) -> Any:
    import timm

    options |= {"in_chans": 1, "num_classes": 0}
    try:
        # Transformers are built for one image size; convolutional models do not take the option.
        return timm.create_model(name, img_size=size, **options)
    except TypeError:
        return timm.create_model(name, **options)


def _restore(module: nn.Module, weights: Mapping[str, Tensor]) -> None:
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"the weights in the fitted encoder do not fit this {type(module).__name__}: "
            f"{summary(error)}"
        ) from error


def _load(name: str, size: int, weights: str | Path | Mapping[str, Tensor], bare: Any) -> Any:
    if isinstance(weights, Mapping):
        return _fill(name, size, weights, bare, "the fitted encoder")
    file = locate(weights)
    state = read_weights(file)
    backbone = _fill(name, size, state, bare, repr(str(file)))
    if is_dinov2(state):
        check_config(file, backbone)
    return backbone


def _fill(name: str, size: int, weights: Mapping[str, Tensor], bare: Any, origin: str) -> Any:
    """Build `bare` again from a state dict; timm folds its stem, resizes position embeddings."""
    config, own = bare.pretrained_cfg, bare.state_dict()
    named = config["classifier"] or ()
    heads = {head.partition(".")[0] for head in ([named] if isinstance(named, str) else named)}
    state = {
        key: value
        for key, value in weights.items()
        if key in own or key.partition(".")[0] not in heads
    }
    if not state:  # timm would look for weights elsewhere.
        raise ValueError(f"the weights in {origin} are a classifier's alone, none of the encoder's")
    # Without classes on either side timm loads strictly.
    overlay: dict[str, Any] = {"state_dict": state, "num_classes": 0}
    stem = state.get(f"{config['first_conv']}.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 1:
        overlay["input_size"] = (1, size, size)
    build = partial(_create, name, size, pretrained=True, pretrained_cfg_overlay=overlay)
    try:
        backbone = build()
        # By other names, timm may leave a layer at its random start: two builds differ there.
        by_name = own.keys() <= state.keys() and (stem is None or stem.ndim == 4)
        again = dict((backbone if by_name else build()).named_parameters())
    except Exception as error:  # timm's converters trust the names and shapes that they meet.
        raise ValueError(
            f"the weights in {origin} do not fit {name!r}: {summary(error)}. They must be all of "
            "this encoder's, by timm's names, and nothing more but its classifier"
        ) from error
    backbone.pretrained_cfg.pop("state_dict", None)
    for key, value in backbone.named_parameters():
        if not value.isfinite().all():
            raise ValueError(f"the weights in {origin} are not finite: {key!r} has NaN or infinity")
        if not value.equal(again[key]):
            raise ValueError(f"timm cannot make {key!r} of {name!r} from the weights in {origin}")
    return backbone
