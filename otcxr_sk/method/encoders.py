"""Encoders: an image -> dense maps and a pooled vector."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn


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
    weights: str | Path | None = None,
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
    weights : path, optional
        A local ``.safetensors`` file with the named timm model's weights; a three-channel stem
        is folded to one channel. Nothing is ever downloaded.

    Raises
    ------
    ValueError
        The name is not timm's (the nearest names are suggested), `size` is below the stride of
        the encoder or does not fit it, or the weights do not fit.
    """
    if isinstance(encoder, nn.Module):
        if weights is not None:
            raise ValueError("weights= goes with a timm name; load them into the module yourself")
        return Encoder(encoder, size, match_stride)
    import timm

    if not timm.is_model(encoder):
        known = timm.list_models()
        near = difflib.get_close_matches(encoder, known, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise ValueError(f"timm has no model named {encoder!r}; {hint}")
    backbone = _create(encoder, size) if weights is None else _load(encoder, size, Path(weights))
    if not hasattr(backbone, "forward_intermediates"):
        raise ValueError(f"timm's {encoder!r} gives no dense maps (no forward_intermediates)")
    stride = backbone.feature_info[-1]["reduction"]
    if size < stride:
        raise ValueError(
            f"image_size={size} is below the stride of {encoder!r}, {stride} pixels; "
            f"use image_size >= {stride}"
        )
    return Encoder(backbone, size, match_stride)


def _create(name: str, size: int, **options: Any) -> Any:
    import timm

    options |= {"in_chans": 1, "num_classes": 0}
    try:
        # Transformers are built for one image size; convolutional models do not take the option.
        return timm.create_model(name, img_size=size, **options)
    except TypeError:
        return timm.create_model(name, **options)


def _load(name: str, size: int, file: Path) -> Any:
    if file.suffix != ".safetensors" or not file.is_file():
        raise ValueError(f"weights must be an existing .safetensors file, got {str(file)!r}")
    overlay = {"file": str(file)}
    try:
        backbone, again = (
            _create(name, size, pretrained=True, pretrained_cfg_overlay=overlay) for _ in range(2)
        )
    except (RuntimeError, SafetensorError) as error:
        raise ValueError(f"the weights in {str(file)!r} do not fit {name!r}: {error}") from error
    # timm leaves what the file lacks at its random start and says nothing: two builds differ there.
    other = dict(again.named_parameters())
    absent = [key for key, value in backbone.named_parameters() if not value.equal(other[key])]
    if absent:
        raise ValueError(
            f"{str(file)!r} does not hold the weights of {name!r}: {absent[0]!r} is missing"
        )
    return backbone
