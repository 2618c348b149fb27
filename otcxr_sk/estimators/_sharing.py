"""What `save_pretrained` writes of a fitted estimator, and what `from_pretrained` makes of it."""

import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._parameters import ParameterGroup
from otcxr_sk._quote import quoted
from otcxr_sk._version import __version__
from otcxr_sk._warning import warn_user
from otcxr_sk.estimators._config import check_plain, refuse, require_count, require_keys
from otcxr_sk.estimators._encoder import FittedEncoder, name_of
from otcxr_sk.estimators._model_card import FINE_TUNING, model_card
from otcxr_sk.estimators._model_folder import (
    CARD,
    CONFIG,
    LIBRARY,
    ModelFolder,
    RefusedError,
    add_checksums,
    new_folder,
    weights_file,
    write,
)
from otcxr_sk.estimators._parameters import GROUPS
from otcxr_sk.estimators._state import Learned, Weights, unpack
from otcxr_sk.method import DenseEncoder, Objective, OTCXRModel, build_encoder, without_read_out

_FORMAT, _PARTS = 1, ("encoder", "heads")
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_BACKBONE = "encoder.backbone."

# Parameters of a machine, a program or a run: whoever gets the model has their own.
_LEFT_OUT = {
    "weights", "pretrainer", "device", "num_workers", "callbacks", "cache", "checkpoint", "verbose",
}  # fmt: skip
_ARCHITECTURE = {
    "encoder", "image_size", "resize", "match_stride", "pooling", "views", "objective",
}  # fmt: skip
_GROUPS = ("views", "objective", "optimizer")
_KEYS = {
    "library", "format", "estimator", "versions", "dtype", "mean", "std", "n_features_in",
    "n_images", "n_patients", "architecture", "parameters", "history",
}  # fmt: skip
_VERSIONS = ("torch", "timm", "numpy", "scikit-learn", "safetensors")

# More than radiographs have: a folder of a few bytes must not ask for all memory.
LARGEST_IMAGE = 4096


def save_model(
    estimator: Any,
    pretrainer: Any,
    path: Any,
    *,
    kind: str,
    dtype: str,
    data: str | None,
    licence: str | None,
    overwrite: bool,
    tuning: Mapping[str, Any] | None = None,
    head: Mapping[str, Tensor] | None = None,
) -> None:
    """Do the work of `save_pretrained` of an estimator that is, or has, a fitted pretrainer.

    What was learned from labels are its `head`, of which float64 is kept as it is, and `tuning`,
    as JSON holds it.
    """
    if dtype not in list(_DTYPES):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    encoder = pretrainer._encoder()
    for given in (encoder.architecture["encoder"], pretrainer.encoder):
        if not isinstance(given, str):
            raise ValueError(
                f"the encoder is a module, {name_of(given)}, and cannot be built again from a "
                "name; save_pretrained is for timm's models. Use joblib.dump, which needs the code "
                "of the module where it is loaded, save_encoder, which writes its state dict, or "
                "export_onnx, which needs nothing of both"
            )
    state = _stored(unpack(encoder.weights), _DTYPES[dtype])
    config = _config(pretrainer, encoder, kind, dtype)
    heads = {name: one for name, one in state.items() if not name.startswith(_BACKBONE)}
    parts = {"heads": heads}
    if tuning is not None and head is not None:
        config[FINE_TUNING] = tuning
        parts["head"] = _stored(head, _DTYPES[dtype])
    card = model_card(config, data=data, licence=licence)
    with new_folder(path, overwrite=overwrite) as aside:
        write(aside, CONFIG, json.dumps(config, indent=1, allow_nan=False))
        write(aside, CARD, card)
        replace(encoder, weights=packed(state)).save(os.path.join(aside, weights_file("encoder")))
        for name, part in parts.items():
            with replacing(os.path.join(aside, weights_file(name))) as file:
                file.write(save(part))
        add_checksums(aside)
        try:
            type(estimator).from_pretrained(aside)
        except RefusedError as error:
            raise ValueError(f"this estimator cannot be shared: {error.what}") from None


def open_model(path: Any, kind: str, *more: str) -> ModelFolder:
    """Open a folder that holds an estimator of a kind, with more parts than a pretrainer has."""
    return ModelFolder(path, kind, (*_PARTS, *more), _FORMAT)


@contextmanager
def reading_config(folder: ModelFolder) -> Iterator[None]:
    """Refuse a folder whose configuration has what the block finds wrong."""
    try:
        yield
    except RefusedError:
        raise
    except (ValueError, TypeError) as error:
        folder.refuse(f"{CONFIG}: {error}")


def load_pretrainer(kind: type, folder: ModelFolder) -> tuple[Any, DenseEncoder]:
    """Return the pretrainer in a folder, and its encoder without memory for its numbers."""
    config = folder.config
    with reading_config(folder):
        estimator, architecture = _estimators(kind, config)
        history = read_history(config["history"])
        depth = architecture["objective"]["cv_sim_depth"]
        if depth > folder.n_tensors("heads"):
            refuse("objective", f"cv_sim_depth is {depth}, and there are no such weights")
        blank = _blank(architecture)
    expected = as_stored(blank.state_dict(), config["dtype"])
    inner = {name for name in expected if name.startswith(_BACKBONE)}
    backbone = {name.removeprefix(_BACKBONE): expected[name] for name in inner}
    heads = {name: one for name, one in expected.items() if name not in inner}
    state = {
        **{_BACKBONE + name: one for name, one in folder.tensors("encoder", backbone).items()},
        **folder.tensors("heads", heads),
    }
    written = config["versions"][LIBRARY]
    if written != __version__:
        warn_user(
            f"this model was saved by otcxr-sk {quoted(written)} and is loaded by {__version__}; "
            "its embeddings may differ"
        )
    if config["n_features_in"] is not None:
        estimator.n_features_in_ = config["n_features_in"]
    estimator._take(
        Learned(
            _architecture=architecture,
            weights_=packed(as_loaded(state)),
            mean_=float(config["mean"]),
            std_=float(config["std"]),
            history_=history,
            skipped_=[],
            n_epochs_=len(history.get("loss", [])),
            embedding_dim_=blank.encoder.last_shape[0],
            encoder_name_=name_of(architecture["encoder"]),
            patients_=None,
            n_images_=config["n_images"],
            n_patients_=config["n_patients"],
        )
    )
    return estimator, blank.encoder


def packed(state: Mapping[str, Tensor]) -> Weights:
    """Return weights as estimators keep them."""
    return np.frombuffer(save(dict(state)), dtype=np.uint8)


def as_stored(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return weights as a folder of a dtype holds them."""
    return _typed(state, _DTYPES[dtype])


def as_loaded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of a folder as networks take them."""
    return _typed(state, torch.float32)


def _typed(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {
        name: one.to(dtype) if one.dtype in _DTYPES.values() else one for name, one in state.items()
    }


def _stored(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    state = _typed(state, dtype)
    for name, one in state.items():
        if one.is_floating_point() and not one.isfinite().all():
            advice = "" if dtype == torch.float32 else "; it may be too large for float16"
            raise ValueError(f"the weight {name!r} is not finite{advice}")
    return state


def _blank(architecture: Mapping[str, Any]) -> OTCXRModel:
    """Build a network without memory for its numbers, to know their names and shapes."""
    with ordinary(), torch.device("meta"):
        encoder = build_encoder(
            architecture["encoder"],
            size=architecture["image_size"],
            match_stride=architecture["match_stride"],
            pooling=architecture["pooling"],
        )
        return OTCXRModel(encoder, without_read_out(Objective(**architecture["objective"])))


def _config(pretrainer: Any, encoder: FittedEncoder, kind: str, dtype: str) -> dict[str, Any]:
    return {
        "library": LIBRARY,
        "format": _FORMAT,
        "estimator": kind,
        "versions": {
            LIBRARY: __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        "dtype": dtype,
        "mean": encoder.mean,
        "std": encoder.std,
        "architecture": _plain(encoder.architecture),
        **describe(pretrainer),
    }


def describe(estimator: Any) -> dict[str, Any]:
    """Return what the configuration says of any estimator."""
    given = {name: getattr(estimator, name) for name in defaults(type(estimator))}
    if not isinstance(given["random_state"], int | np.integer | None):
        given["random_state"] = None
    return {
        "n_features_in": getattr(estimator, "n_features_in_", None),
        "n_images": estimator.n_images_,
        "n_patients": estimator.n_patients_,
        "parameters": _plain(given),
        # JSON has no other numbers than finite ones.
        "history": {
            name: [float(one) if math.isfinite(one) else None for one in numbers]
            for name, numbers in estimator.history_.items()
        },
    }


def _plain(value: Any) -> Any:
    """Return parameters as JSON holds them."""
    if isinstance(value, ParameterGroup):
        value = value.get_params()
    if isinstance(value, Mapping) and not all(isinstance(name, str) for name in value):
        # Of such names JSON would make text.
        value = list(value.items())
    if isinstance(value, Mapping):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def _estimators(kind: type, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the estimator that a configuration describes, and the architecture of its network.

    Raises
    ------
    ValueError, TypeError
        A value is missing, surplus, or of another type or range than the estimator takes.
    """
    require_keys("it", config, _KEYS)
    for name in ("versions", "architecture"):
        if not isinstance(config[name], dict):
            refuse(name, "must be an object")
    require_keys("architecture", config["architecture"], _ARCHITECTURE)
    for name in ("views", "objective"):
        require_keys(name, config["architecture"][name], GROUPS[name]().get_params())
    check_plain(config)
    if config["dtype"] not in list(_DTYPES):
        refuse("dtype", f"is {quoted(config['dtype'])}, not float32 or float16")
    if not isinstance(config["versions"].get(LIBRARY), str):
        refuse("versions", f"lacks {LIBRARY}")
    for name in ("mean", "std"):
        if type(config[name]) not in (int, float) or (name == "std" and config[name] <= 0):
            refuse(name, f"is {quoted(config[name])}")
    given, estimator = described(kind, config)
    shape = estimator.image_shape
    if shape is not None and len(shape) != 2:
        refuse("image_shape", "must have two numbers")
    for number in shape or ():
        require_count("image_shape", number)
    trained = kind(**_with_groups({**given, **config["architecture"]}))
    architecture = trained._settings().architecture()
    if architecture["image_size"] > LARGEST_IMAGE:
        refuse("image_size", f"is {architecture['image_size']}, above {LARGEST_IMAGE}")
    return estimator, architecture


def described(kind: type, config: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the parameters that `describe` has written, and an estimator with them, checked."""
    for name in ("parameters", "history"):
        if not isinstance(config[name], dict):
            refuse(name, "must be an object")
    for name, least in (("n_features_in", 1), ("n_images", 0), ("n_patients", 0)):
        if config[name] is not None:
            require_count(name, config[name], least)
    given = {**defaults(kind), **config["parameters"]}
    require_keys("parameters", given, defaults(kind))
    estimator = kind(**_with_groups(given))
    estimator._validate_params()
    estimator._settings()
    return given, estimator


def defaults(kind: type) -> dict[str, Any]:
    """Return the parameters that are shared, with the values that earlier versions lack."""
    default = kind().get_params(deep=False)
    return {name: value for name, value in default.items() if name not in _LEFT_OUT}


def _with_groups(parameters: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(parameters)
    for name in _GROUPS:
        if isinstance(made.get(name), dict):
            default = GROUPS[name]().get_params()
            given = {**default, **made[name]}
            require_keys(name, given, default)
            made[name] = GROUPS[name](**given)
    weights = made.get("class_weight")
    if isinstance(weights, list | dict):
        made["class_weight"] = _weights(weights)
    scale = getattr(made.get("views"), "crop_scale", None)
    if isinstance(scale, list):
        made["views"].crop_scale = tuple(scale)
    if isinstance(made.get("image_shape"), list):
        made["image_shape"] = tuple(made["image_shape"])
    return made


def _weights(weights: Any) -> dict[Any, Any]:
    """Return weights of classes, from an object, or from pairs of what is no text."""
    pairs = [*weights.items()] if isinstance(weights, dict) else weights
    for pair in pairs:
        well = isinstance(pair, list | tuple) and len(pair) == 2
        if not well or isinstance(pair[0], list | dict) or type(pair[1]) not in (int, float):
            refuse("class_weight", "is not a number for each of some classes")
    return dict(pairs)


def read_history(history: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return a history as it was before JSON."""
    read = {}
    for name, numbers in history.items():
        if not isinstance(numbers, list) or not all(
            type(one) in (int, float, type(None)) for one in numbers
        ):
            refuse("history", f"{quoted(name)} is not a list of numbers")
        read[name] = [math.nan if one is None else float(one) for one in numbers]
    if len({len(numbers) for numbers in read.values()}) > 1:
        refuse("history", "has lists of different lengths")
    return read
