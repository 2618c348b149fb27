"""What `save_pretrained` writes of a fitted pretrainer, and what `from_pretrained` makes of it."""

import json
import math
import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import Any, NoReturn

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
from otcxr_sk.estimators._encoder import FittedEncoder, name_of
from otcxr_sk.estimators._model_card import model_card
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
from otcxr_sk.method import Objective, OTCXRModel, build_encoder, without_read_out

_FORMAT, _KIND, _PARTS = 1, "OTCXRPretrainer", ("encoder", "heads")
_DTYPES = {"float32": torch.float32, "float16": torch.float16}
_BACKBONE = "encoder.backbone."

# Parameters of a machine, a program or a run: whoever gets the model has their own.
_LEFT_OUT = {"weights", "device", "num_workers", "callbacks", "cache", "checkpoint", "verbose"}
_ARCHITECTURE = {
    "encoder", "image_size", "resize", "match_stride", "pooling", "views", "objective",
}  # fmt: skip
_GROUPS = ("views", "objective", "optimizer")
_KEYS = {
    "library", "format", "estimator", "versions", "dtype", "mean", "std", "n_features_in",
    "architecture", "parameters", "history",
}  # fmt: skip
_VERSIONS = ("torch", "timm", "numpy", "scikit-learn", "safetensors")

# More than radiographs have: a folder of a few bytes must not ask for all memory.
_LARGEST_IMAGE = 4096
_LONGEST_TEXT, _LARGEST_INT = 200, 2**53


def save_model(
    estimator: Any,
    encoder: FittedEncoder,
    path: Any,
    *,
    dtype: str,
    data: str | None,
    licence: str | None,
    overwrite: bool,
) -> None:
    """Do the work of `OTCXRPretrainer.save_pretrained`."""
    if dtype not in list(_DTYPES):
        raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
    for given in (encoder.architecture["encoder"], estimator.encoder):
        if not isinstance(given, str):
            raise ValueError(
                f"the encoder is a module, {name_of(given)}, and cannot be built again from a "
                "name; save_pretrained is for timm's models. Use joblib.dump, which needs the code "
                "of the module where it is loaded, save_encoder, which writes its state dict, or "
                "export_onnx, which needs nothing of both"
            )
    stored = _stored(encoder.weights, _DTYPES[dtype])
    config = _config(estimator, encoder, dtype)
    card = model_card(config, data=data, licence=licence)
    heads = {name: one for name, one in unpack(stored).items() if not name.startswith(_BACKBONE)}
    with new_folder(path, overwrite=overwrite) as aside:
        write(aside, CONFIG, json.dumps(config, indent=1, allow_nan=False))
        write(aside, CARD, card)
        replace(encoder, weights=stored).save(os.path.join(aside, weights_file("encoder")))
        with replacing(os.path.join(aside, weights_file("heads"))) as file:
            file.write(save(heads))
        add_checksums(aside)
        try:
            load_model(type(estimator), aside)
        except RefusedError as error:
            raise ValueError(f"this estimator cannot be shared: {error.what}") from None


def load_model(kind: type, path: Any) -> Any:
    """Do the work of `OTCXRPretrainer.from_pretrained`."""
    folder = ModelFolder(path, _KIND, _PARTS, _FORMAT)
    config = folder.config
    try:
        estimator, architecture = _estimators(kind, config)
        history = _history(config["history"])
        depth = architecture["objective"]["cv_sim_depth"]
        if depth > folder.n_tensors("heads"):
            _refuse("objective", f"cv_sim_depth is {depth}, and there are no such weights")
        blank = _blank(architecture)
    except (ValueError, TypeError) as error:
        folder.refuse(f"{CONFIG}: {error}")
    expected = _typed(blank.state_dict(), _DTYPES[config["dtype"]])
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
    return estimator._take(
        Learned(
            _architecture=architecture,
            weights_=_packed(_typed(state, torch.float32)),
            mean_=float(config["mean"]),
            std_=float(config["std"]),
            history_=history,
            skipped_=[],
            n_epochs_=len(history.get("loss", [])),
            embedding_dim_=blank.encoder.last_shape[0],
            encoder_name_=name_of(architecture["encoder"]),
            patients_=None,
        )
    )


def _packed(state: Mapping[str, Tensor]) -> Weights:
    return np.frombuffer(save(dict(state)), dtype=np.uint8)


def _typed(state: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Convert the numbers that are not integers."""
    return {name: one.to(dtype) if one.is_floating_point() else one for name, one in state.items()}


def _stored(weights: Weights, dtype: torch.dtype) -> Weights:
    state = _typed(unpack(weights), dtype)
    for name, one in state.items():
        if one.is_floating_point() and not one.isfinite().all():
            advice = "" if dtype == torch.float32 else "; it may be too large for float16"
            raise ValueError(f"the weight {name!r} is not finite{advice}")
    return weights if dtype == torch.float32 else _packed(state)


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


def _config(estimator: Any, encoder: FittedEncoder, dtype: str) -> dict[str, Any]:
    given = {
        name: value
        for name, value in estimator.get_params(deep=False).items()
        if name not in _LEFT_OUT
    }
    if not isinstance(given["random_state"], int | np.integer | None):
        given["random_state"] = None
    return {
        "library": LIBRARY,
        "format": _FORMAT,
        "estimator": _KIND,
        "versions": {
            LIBRARY: __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _VERSIONS},
        },
        "dtype": dtype,
        "mean": encoder.mean,
        "std": encoder.std,
        "n_features_in": getattr(estimator, "n_features_in_", None),
        "architecture": _plain(encoder.architecture),
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
    _require_keys("it", config, _KEYS)
    for name in ("versions", "architecture", "parameters", "history"):
        if not isinstance(config[name], dict):
            _refuse(name, "must be an object")
    _require_keys("architecture", config["architecture"], _ARCHITECTURE)
    for name in ("views", "objective"):
        _require_keys(name, config["architecture"][name], GROUPS[name]().get_params())
    _check_plain(config)
    if config["dtype"] not in list(_DTYPES):
        _refuse("dtype", f"is {quoted(config['dtype'])}, not float32 or float16")
    if not isinstance(config["versions"].get(LIBRARY), str):
        _refuse("versions", f"lacks {LIBRARY}")
    for name in ("mean", "std"):
        if type(config[name]) not in (int, float) or (name == "std" and config[name] <= 0):
            _refuse(name, f"is {quoted(config[name])}")
    _require_count("n_features_in", config["n_features_in"])
    given = {**_defaults(kind), **config["parameters"]}
    _require_keys("parameters", given, _defaults(kind))
    estimator = kind(**_with_groups(given))
    estimator._settings()
    shape = estimator.image_shape
    if shape is not None and len(shape) != 2:
        _refuse("image_shape", "must have two numbers")
    for number in shape or ():
        _require_count("image_shape", number)
    trained = kind(**_with_groups({**given, **config["architecture"]}))
    architecture = trained._settings().architecture()
    if architecture["image_size"] > _LARGEST_IMAGE:
        _refuse("image_size", f"is {architecture['image_size']}, above {_LARGEST_IMAGE}")
    return estimator, architecture


def _defaults(kind: type) -> dict[str, Any]:
    # Those that later versions add are missing in what this one has written.
    default = kind().get_params(deep=False)
    return {name: value for name, value in default.items() if name not in _LEFT_OUT}


def _with_groups(parameters: Mapping[str, Any]) -> dict[str, Any]:
    made = dict(parameters)
    for name in _GROUPS:
        if isinstance(made.get(name), dict):
            default = GROUPS[name]().get_params()
            given = {**default, **made[name]}
            _require_keys(name, given, default)
            made[name] = GROUPS[name](**given)
    scale = getattr(made.get("views"), "crop_scale", None)
    if isinstance(scale, list):
        made["views"].crop_scale = tuple(scale)
    if isinstance(made.get("image_shape"), list):
        made["image_shape"] = tuple(made["image_shape"])
    return made


def _history(history: Mapping[str, Any]) -> dict[str, list[float]]:
    read = {}
    for name, numbers in history.items():
        if not isinstance(numbers, list) or not all(
            type(one) in (int, float, type(None)) for one in numbers
        ):
            _refuse("history", f"{quoted(name)} is not a list of numbers")
        read[name] = [math.nan if one is None else float(one) for one in numbers]
    if len({len(numbers) for numbers in read.values()}) > 1:
        _refuse("history", "has lists of different lengths")
    return read


def _require_keys(name: str, found: Any, keys: Any) -> None:
    if not isinstance(found, Mapping):
        _refuse(name, "must be an object")
    for key in sorted(found.keys() ^ set(keys)):
        _refuse(name, f"{'has' if key in found else 'lacks'} {quoted(key)}")


def _require_count(name: str, value: Any) -> None:
    if value is not None and (type(value) is not int or value < 1):
        _refuse(name, f"is {quoted(value)}, not a whole number above 0")


def _check_plain(value: Any, name: str = "it") -> None:
    """Refuse what passes for a number or a name in Python, but is none that was written."""
    if isinstance(value, dict):
        for key, one in value.items():
            _check_plain(key, "key")
            _check_plain(one, key)
    elif isinstance(value, list):
        for one in value:
            _check_plain(one, name)
    elif isinstance(value, str):
        if len(value) > _LONGEST_TEXT or not value.isprintable():
            _refuse(name, f"is {quoted(value)}")
    elif isinstance(value, bool):
        if name != "warm_start":
            _refuse(name, f"is {value}")
    elif isinstance(value, int | float) and not abs(value) < (
        _LARGEST_INT if isinstance(value, int) else math.inf
    ):
        _refuse(name, f"is {quoted(value)}")


def _refuse(name: str, what: str) -> NoReturn:
    raise ValueError(f"{quoted(name)} {what}")
