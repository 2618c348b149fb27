"""The parameters of the pretrainer: constraints on each, and on several together."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from copy import copy, deepcopy
from datetime import timedelta
from numbers import Integral, Real
from types import MappingProxyType, SimpleNamespace
from typing import Any

from sklearn.utils._param_validation import (
    HasMethods,
    Interval,
    StrOptions,
    validate_parameter_constraints,
)

from otcxr_sk.images import RESIZES, Cache
from otcxr_sk.method import POOLINGS, Objective, Views, without_read_out
from otcxr_sk.training import OPTIMIZERS, PRECISIONS, Callback, Checkpoint, EarlyStopping, Optimizer

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

# The loss as the paper prints it: both views are infused, transport is that of the plan, and there
# is no term for whole images and no read-out. Goes with any other parameters, such as LAPTOP's.
PAPER: Mapping[str, Any] = MappingProxyType(
    {"objective": Objective(transport="direct", cv_sim_depth=1, global_weight=0.0, read_out=0.0)}
)

ON_ERROR = ("raise", "warn", "nan")

_PATH = [str, HasMethods(["__fspath__"])]
_WEIGHT = [Interval(Real, 0, None, closed="left")]
_POSITIVE = Interval(Real, 0, None, closed="neither")
_SHARE = [Interval(Real, 0, 1, closed="both")]


def _at_least(least: int) -> Interval:
    return Interval(Integral, least, None, closed="left")


CONSTRAINTS: dict[str, list[Any]] = {
    "encoder": [str, HasMethods(["forward", "state_dict"])],
    "weights": [None, *_PATH, HasMethods(["save_encoder"])],
    "image_size": [_at_least(1)],
    "resize": [StrOptions(set(RESIZES))],
    "epochs": [_at_least(0)],
    "batch_size": [_at_least(2)],
    "accumulate": [_at_least(1)],
    "learning_rate": [_POSITIVE, StrOptions({"auto"})],
    "optimizer": [StrOptions(set(OPTIMIZERS)), Optimizer],
    "views": [None, Views],
    "objective": [None, Objective],
    "match_stride": [_at_least(1)],
    "pooling": [StrOptions(set(POOLINGS))],
    "image_shape": [tuple, list, None],
    "device": [str],
    "precision": [StrOptions({"auto", *PRECISIONS})],
    "num_workers": [_at_least(0), StrOptions({"auto"})],
    "on_error": [StrOptions(set(ON_ERROR))],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "callbacks": [None, list, tuple],
    "cache": [None, *_PATH, Cache],
    "checkpoint": [None, *_PATH, Checkpoint],
    "warm_start": ["boolean"],
    "random_state": ["random_state"],
    "verbose": ["verbose"],
}

_OF_GROUPS: dict[str, dict[str, list[Any]]] = {
    "optimizer": {
        "name": [StrOptions(set(OPTIMIZERS))],
        "weight_decay": _WEIGHT,
        "clip_norm": [None, _POSITIVE],
        "ema": [None, Interval(Real, 0, 1, closed="neither")],
    },
    "views": {
        "crop_scale": [tuple, list],
        "horizontal_flip": _SHARE,
        "erase": _SHARE,
        "aspect": [Interval(Real, 1, None, closed="left")],
        "contrast": _SHARE,
        "brightness": _WEIGHT,
        "blur": [Interval(Real, 1, None, closed="left")],
    },
    "objective": {
        "alpha": _WEIGHT,
        "beta": _WEIGHT,
        "eta": _WEIGHT,
        "global_weight": _WEIGHT,
        "epsilon": [_POSITIVE],
        "transport": [StrOptions({"inverse", "direct"})],
        "cv_sim_depth": [_at_least(0)],
        "read_out": _WEIGHT,
    },
    "cache": {"folder": _PATH, "max_gb": [_POSITIVE], "shared": ["boolean"]},
    "checkpoint": {"folder": _PATH, "every": [_at_least(1), timedelta]},
}

GROUPS: dict[str, Any] = {
    "optimizer": Optimizer,
    "views": Views,
    "objective": Objective,
    "cache": Cache,
    "checkpoint": Checkpoint,
}


class Settings(SimpleNamespace):
    """Parameters by name, checked, with groups as objects."""

    def architecture(self) -> dict[str, Any]:
        """Return the parameters of the network and the loss, plain, for `FittedEncoder`."""
        plain = ("encoder", "image_size", "resize", "match_stride", "pooling")
        return {name: getattr(self, name) for name in plain} | {
            name: getattr(self, name).get_params() for name in ("views", "objective")
        }

    def with_architecture(self, architecture: Mapping[str, Any]) -> Settings:
        """Return a copy with another network and loss."""
        groups = {name: GROUPS[name](**architecture[name]) for name in ("views", "objective")}
        return Settings(**{**vars(self), **architecture, **groups})


def as_group(name: str, value: Any) -> Any:
    """Return the group that a parameter stands for; None if it switches something off."""
    if name in ("views", "objective"):
        return GROUPS[name]() if value is None else value
    return GROUPS[name](value) if isinstance(value, str | os.PathLike) else value


def check_group(name: str, value: Any) -> Any:
    """Return a copy of the group that a parameter stands for, checked, or None."""
    validate_parameter_constraints(CONSTRAINTS, {name: value}, "OTCXRPretrainer")
    group = as_group(name, value)
    if group is None:
        return None
    if name in ("views", "objective") and type(group) is not GROUPS[name]:
        # The fitted estimator keeps their parameters, not their class.
        raise TypeError(
            f"{name} must be {GROUPS[name].__name__}(...) itself, not of the subclass "
            f"{type(group).__name__}"
        )
    validate_parameter_constraints(_OF_GROUPS[name], group.get_params(), type(group).__name__)
    if getattr(group, "folder", name) == "":
        raise ValueError(f"{name} needs the name of a folder, got an empty one")
    if isinstance(group, Views):
        _check_crops(group.crop_scale)
    every = getattr(group, "every", None)
    if isinstance(every, timedelta) and every < timedelta(0):
        raise ValueError(f"every must not be a negative time, got {every!r}")
    return deepcopy(group)


def check_settings(parameters: Mapping[str, Any]) -> Settings:
    """Fill in the groups, and check them and what parameters must satisfy together."""
    groups = {name: check_group(name, parameters[name]) for name in GROUPS}
    callbacks = check_callbacks(parameters["callbacks"], parameters["validation_fraction"])
    settings = Settings(**{**parameters, **groups, "callbacks": callbacks})
    if not without_read_out(settings.objective).weights:
        raise ValueError(
            "alpha, beta, eta and global_weight are all 0, so there is nothing to learn; raise one "
            "of them"
        )
    return settings


def _check_crops(scale: Sequence[Any]) -> None:
    numbers = len(scale) == 2 and all(isinstance(value, Real) for value in scale)
    if not numbers or not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(f"crop_scale must be (low, high) in (0, 1], got {scale!r}")


def with_groups(estimator: Any, params: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `set_params` is given, with a copy of each group that a name reaches into.

    Other estimators may have the same group.
    """
    found = dict(params)
    reached = {key.partition("__")[0] for key in params if "__" in key}
    for name in reached & {*GROUPS} & {*estimator.get_params(deep=False)}:
        group = as_group(name, found.get(name, getattr(estimator, name)))
        if not isinstance(group, GROUPS[name]):
            kind = GROUPS[name].__name__
            raise ValueError(f"{name} is {group!r} and has no parameters; set {name}={kind}(...)")
        found[name] = copy(group)
    return found


def check_callbacks(callbacks: Any, validation_fraction: float) -> Sequence[Callback]:
    """Check that callbacks are callbacks, and can do what they are for."""
    found = list(callbacks or ())
    for callback in found:
        if not isinstance(callback, Callback):
            raise TypeError(
                "callbacks must be instances of otcxr_sk.training.Callback, and at least one is "
                f"not{': it is a class, call it' if isinstance(callback, type) else ''}; pass "
                "scikit-learn's to set_callbacks"
            )
    early = [callback for callback in found if isinstance(callback, EarlyStopping)]
    if sum(callback.restore_best for callback in early) > 1:
        raise ValueError("only one of several EarlyStopping can have restore_best=True")
    held_out = [each.monitor for each in early if each.monitor.startswith("validation_")]
    if held_out and not validation_fraction:
        raise ValueError(
            f"EarlyStopping watches {held_out[0]!r}, but no images are held out: set "
            "validation_fraction, or monitor another number, such as 'effective_rank'"
        )
    return found
