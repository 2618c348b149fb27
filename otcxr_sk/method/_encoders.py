"""Encoders that turn images into dense maps, from timm or any module."""

import difflib
from collections.abc import Mapping
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from otcxr_sk.method._weights import (
    check_config,
    has_large_kernels,
    locate,
    read_weights,
    summary,
)

POOLINGS = ("mean", "token")


class DenseEncoder(nn.Module):
    """Backbone that returns two dense maps, the one to match and the last one, and an embedding.

    Parameters
    ----------
    backbone : nn.Module
        A timm model with `forward_intermediates`, or any module that turns images (B, 1, H, W)
        into one dense map (B, C, h, w).
    size : int
        Height and width of the images, in pixels.
    match_stride : int
        The map to match is that of the deepest stage whose stride, in pixels, is at most this, or
        the last map if there is none. A module that returns a single map uses it for both.
    pooling : {"mean", "token"}, default="mean"
        Whether the embedding is the mean of the last map over its places, or the class token that
        goes with it.

    Attributes
    ----------
    match_shape, last_shape : tuple of int
        (C, h, w) of the map to match and of the last map. The embedding has the width of the last.

    Raises
    ------
    ValueError
        The backbone cannot take such images or does not return a dense map, or has no class token
        to pool by.

    See Also
    --------
    otcxr_sk.OTCXRPretrainer.to_torch : Returns the fitted encoder as such a module.
    """

    def __init__(
        self, backbone: nn.Module, size: int, match_stride: int, pooling: str = "mean"
    ) -> None:
        super().__init__()
        if pooling == "token" and not _has_class_token(backbone):
            raise ValueError(
                f"pooling='token' takes the class token, and the encoder {type(backbone).__name__} "
                "has none in its maps; set pooling='mean', or choose a transformer with one"
            )
        self.backbone: Any = backbone
        self._pooling = pooling
        self._stages = self._choose_stages(match_stride)
        was_training = self.training
        self.eval()
        with torch.inference_mode():
            try:
                matched, last, _ = self._encode(torch.zeros(2, 1, size, size))
            except Exception as error:  # A user's module may raise anything.
                raise ValueError(
                    f"the encoder {type(backbone).__name__} cannot take images of {size} x {size} "
                    "pixels in one channel; choose another image_size or "
                    "encoder"
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

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the map to match (B, C', h', w'), the last (B, C, h, w), and the embedding (B, C).

        The embedding is float32.
        """
        matched, last, token = self._encode(images)
        return matched, last, pool(last) if token is None else token.float()

    def _encode(self, images: Tensor) -> tuple[Any, Any, Tensor | None]:
        if self._stages is None:
            dense = self.backbone(images)
            return dense, dense, None
        # Only transformers take the option.
        options = {"return_prefix_tokens": True} if self._pooling == "token" else {}
        found = self.backbone.forward_intermediates(
            images,
            indices=self._stages,
            norm=True,
            output_fmt="NCHW",
            intermediates_only=True,
            **options,
        )
        if not options:
            return found[0], found[-1], None
        (matched, _), (last, prefix) = found[0], found[-1]
        # Registers follow.
        return matched, last, prefix[:, 0]

    def _choose_stages(self, match_stride: int) -> list[int] | None:
        if not hasattr(self.backbone, "forward_intermediates"):
            return None
        strides = [stage["reduction"] for stage in self.backbone.feature_info]
        last = len(strides) - 1
        fine = [i for i, stride in enumerate(strides) if stride <= match_stride]
        match = max(fine, default=last)
        return [last] if match == last else [match, last]


def _has_class_token(backbone: Any) -> bool:
    # Registers are prefix tokens, too; and some transformers add the token after their maps.
    return (
        getattr(backbone, "cls_token", None) is not None
        and hasattr(backbone, "forward_intermediates")
        and "return_prefix_tokens" in signature(backbone.forward_intermediates).parameters
    )


def pool(dense: Tensor) -> Tensor:
    """Return the mean of a dense map over its places: (B, C, h, w) to (B, C), float32."""
    return dense.float().mean((2, 3))


def tokens(dense: Tensor) -> Tensor:
    """Return the tokens of a dense map in row-major order: (B, C, h, w) to (B, N, C), float32."""
    return dense.flatten(2).transpose(1, 2).float()


def build_encoder(
    encoder: str | nn.Module,
    *,
    size: int,
    match_stride: int,
    pooling: str = "mean",
    weights: str | Path | Mapping[str, Tensor] | None = None,
) -> DenseEncoder:
    """Build an encoder of one-channel images from a timm name or a module.

    Parameters
    ----------
    encoder : str or nn.Module
        Name of a timm model, or a backbone for `DenseEncoder`. A module is not copied.
    size : int
        Height and width of the images, in pixels.
    match_stride : int
    pooling : {"mean", "token"}, default="mean"
        See `DenseEncoder`.
    weights : path or mapping of str to Tensor, default=None
        A local file with weights of the timm model, in timm's format or, for DINOv2, Hugging
        Face's; or the state dict of the backbone. A stem of three channels is folded to one,
        position embeddings are resized, and a classifier is left out. Nothing is downloaded.

    Raises
    ------
    ValueError
        timm has no model of this name (the error suggests similar ones), `size` or `pooling` does
        not fit the encoder, or the weights do not fit it.
    """
    if isinstance(encoder, nn.Module):
        if isinstance(weights, Mapping):
            _restore(encoder, weights)
        elif weights is not None:
            raise ValueError("weights= goes with a timm name; load them into the module yourself")
        return DenseEncoder(encoder, size, match_stride, pooling)
    import timm

    if not timm.is_model(encoder):
        known = timm.list_models()
        near = difflib.get_close_matches(encoder, known, n=5, cutoff=0.5)
        hint = f"did you mean {', '.join(map(repr, near))}?" if near else "see timm.list_models()"
        raise ValueError(f"timm has no model named {encoder!r}; {hint}")
    backbone = _create(encoder, size)
    if not hasattr(backbone, "forward_intermediates"):
        raise ValueError(f"timm's {encoder!r} has no dense maps (no forward_intermediates)")
    stride = backbone.feature_info[-1]["reduction"]
    if size < stride:
        raise ValueError(
            f"image_size={size} is below the stride of {encoder!r}, {stride} pixels; "
            f"use image_size >= {stride}"
        )
    if weights is not None:
        backbone = _load(encoder, size, weights, backbone)
    return DenseEncoder(backbone, size, match_stride, pooling)


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
    # PyTorch's message has all names as they are.
    except RuntimeError:
        raise ValueError(
            f"the weights in the fitted encoder do not fit this {type(module).__name__} "
            f"({summary(module.state_dict(), weights)})"
        ) from None


def _load(name: str, size: int, weights: str | Path | Mapping[str, Tensor], bare: Any) -> Any:
    if isinstance(weights, Mapping):
        return _fill(name, size, weights, bare, "the fitted encoder")
    file = locate(weights)
    state = read_weights(file)
    backbone = _fill(name, size, state, bare, repr(str(file)))
    check_config(file, backbone)
    return backbone


def _fill(name: str, size: int, weights: Mapping[str, Tensor], bare: Any, origin: str) -> Any:
    """Build `bare` again from a state dict: timm folds the stem and resizes position embeddings."""
    config, own = bare.pretrained_cfg, bare.state_dict()
    named = config["classifier"] or ()
    heads = {head.partition(".")[0] for head in ([named] if isinstance(named, str) else named)}
    state = {
        key: value
        for key, value in weights.items()
        if key in own or key.partition(".")[0] not in heads
    }
    if not state:  # Given none, timm would look for weights elsewhere.
        raise ValueError(f"the weights in {origin} are those of a classifier only")
    # With no classes on either side, timm loads strictly.
    overlay: dict[str, Any] = {"state_dict": state, "num_classes": 0}
    stem = state.get(f"{config['first_conv']}.weight")
    if stem is not None and stem.ndim == 4 and stem.shape[1] == 1:
        overlay["input_size"] = (1, size, size)
    build = partial(_create, name, size, pretrained=True, pretrained_cfg_overlay=overlay)
    try:
        if has_large_kernels(state):
            raise ValueError
        backbone = build()
        # Converting other names, timm may leave a layer random: two builds then differ in it.
        by_name = own.keys() <= state.keys() and (stem is None or stem.ndim == 4)
        again = dict((backbone if by_name else build()).named_parameters())
    except Exception:  # timm's converters do not check names and shapes.
        raise ValueError(
            f"the weights in {origin} do not fit {name!r} ({summary(own, state)}). They must be "
            "all weights of this encoder under timm's names, and nothing else but its classifier"
        ) from None
    backbone.pretrained_cfg.pop("state_dict", None)
    for key, value in backbone.named_parameters():
        if not value.isfinite().all():
            raise ValueError(f"the weights in {origin} are not finite: {key!r} has NaN or infinity")
        if not value.equal(again[key]):
            raise ValueError(f"the weights in {origin} do not set {key!r} of {name!r}")
    return backbone
