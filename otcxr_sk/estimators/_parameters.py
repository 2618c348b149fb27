"""The parameters of a pretrainer: what they may be, alone and together."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from otcxr_sk.estimators._unusable import ON_ERROR
from otcxr_sk.images._resize import RESIZES
from otcxr_sk.training.optimiser import OPTIMISERS
from otcxr_sk.training.runtime import PRECISIONS

# Parameters of a run on a laptop: minutes for a few thousand images, without a GPU.
LAPTOP: Mapping[str, Any] = MappingProxyType(
    {
        "encoder": "resnet10t",
        "image_size": 64,
        "epochs": 12,
        "match_stride": 8,
        "batch_size": 128,
        "learning_rate": 5e-3,
    }
)

MODEL_PARAMETERS = (
    "encoder",
    "image_size",
    "resize",
    "match_stride",
    "cv_sim_depth",
    "epsilon",
    "transport",
    "crop_scale",
    "horizontal_flip",
    "erase",
    "alpha",
    "beta",
    "eta",
    "global_weight",
)

CONSTRAINTS: dict[str, list[Any]] = {
    "encoder": [str, HasMethods(["forward", "state_dict"])],
    "weights": [None, str, HasMethods(["__fspath__"]), HasMethods(["save_encoder"])],
    "image_size": [Interval(Integral, 1, None, closed="left")],
    "resize": [StrOptions(set(RESIZES))],
    "epochs": [Interval(Integral, 0, None, closed="left")],
    "max_time": [None, Interval(Real, 0, None, closed="neither")],
    "batch_size": [Interval(Integral, 2, None, closed="left")],
    "accumulate": [Interval(Integral, 1, None, closed="left")],
    "optimizer": [StrOptions(set(OPTIMISERS))],
    "learning_rate": [Interval(Real, 0, None, closed="neither"), StrOptions({"auto"})],
    "weight_decay": [Interval(Real, 0, None, closed="left")],
    "clip_norm": [None, Interval(Real, 0, None, closed="neither")],
    "ema": [None, Interval(Real, 0, 1, closed="neither")],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "beta": [Interval(Real, 0, None, closed="left")],
    "eta": [Interval(Real, 0, None, closed="left")],
    "global_weight": [Interval(Real, 0, None, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "cv_sim_depth": [Interval(Integral, 0, None, closed="left")],
    "transport": [StrOptions({"inverse", "direct"})],
    "match_stride": [Interval(Integral, 1, None, closed="left")],
    "crop_scale": [tuple, list],
    "horizontal_flip": [Interval(Real, 0, 1, closed="both")],
    "erase": [Interval(Real, 0, 1, closed="both")],
    "image_shape": [tuple, list, None],
    "channels": [StrOptions({"first", "last"}), None],
    "device": [str],
    "precision": [StrOptions({"auto", *PRECISIONS})],
    "num_workers": [Interval(Integral, 0, None, closed="left")],
    "on_error": [StrOptions(set(ON_ERROR))],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "callbacks": [None, list, tuple],
    "cache_dir": [None, str, HasMethods(["__fspath__"])],
    "cache_gb": [Interval(Real, 0, None, closed="neither")],
    "checkpoint_dir": [None, str, HasMethods(["__fspath__"])],
    "checkpoint_every": [Interval(Integral, 1, None, closed="left"), timedelta],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}


def check_together(estimator: Any) -> None:
    """Refuse what no constraint of a single parameter can tell."""
    scale = estimator.crop_scale
    numbers = len(scale) == 2 and all(isinstance(value, Real) for value in scale)
    if not numbers or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop_scale must be (low, high) in (0, 1], got {scale!r}")
    if estimator.weights is estimator:
        raise ValueError("weights is this estimator itself; to go on from there use warm_start")
    if not any((estimator.alpha, estimator.beta, estimator.eta, estimator.global_weight)):
        raise ValueError(
            "alpha, beta, eta and global_weight are all 0, so there is nothing to learn; "
            "raise one of them"
        )
