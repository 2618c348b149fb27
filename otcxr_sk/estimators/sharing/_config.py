"""The configuration of a model in a folder: what it says of an estimator, and what is made of it.

It may be from anywhere, so whatever it holds is checked before it is used.
"""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np

from otcxr_sk._parameters import ParameterGroup
from otcxr_sk._quote import quoted
from otcxr_sk.estimators._parameters import GROUPS

LIBRARY = "otcxr_sk"

# How weights may be stored.
DTYPES = ("float32", "float16")

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

# More than radiographs have: a folder of a few bytes must not ask for all memory.
LARGEST_IMAGE = 4096

_LONGEST_TEXT, _LARGEST_INT = 200, 2**53

# What may be True or False.
_BOOLEANS = {"warm_start", "frozen", "several", "classes", "class_weight"}


def describe(estimator: Any) -> dict[str, Any]:
    """Return what the configuration says of any estimator."""
    given = {name: getattr(estimator, name) for name in _defaults(type(estimator))}
    if not isinstance(given["random_state"], int | np.integer | None):
        given["random_state"] = None
    return {
        "n_features_in": getattr(estimator, "n_features_in_", None),
        "n_images": estimator.n_images_,
        "n_patients": estimator.n_patients_,
        "parameters": as_json(given),
        # JSON has no other numbers than finite ones.
        "history": {
            name: [float(one) if math.isfinite(one) else None for one in numbers]
            for name, numbers in estimator.history_.items()
        },
    }


def as_json(value: Any) -> Any:
    """Return parameters as JSON holds them."""
    if isinstance(value, ParameterGroup):
        value = value.get_params()
    if isinstance(value, Mapping) and not all(isinstance(name, str) for name in value):
        # Of such names JSON would make text.
        value = list(value.items())
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return value.item() if isinstance(value, np.generic) else value


def pretrainer_of(kind: type, config: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return the pretrainer that a configuration describes, and the architecture of its network.

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
    if config["dtype"] not in DTYPES:
        refuse("dtype", f"is {quoted(config['dtype'])}, not float32 or float16")
    if not isinstance(config["versions"].get(LIBRARY), str):
        refuse("versions", f"lacks {LIBRARY}")
    for name in ("mean", "std"):
        if type(config[name]) not in (int, float) or (name == "std" and config[name] <= 0):
            refuse(name, f"is {quoted(config[name])}")
    given, estimator = estimator_of(kind, config)
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


def estimator_of(kind: type, config: Mapping[str, Any]) -> tuple[dict[str, Any], Any]:
    """Return the parameters that `describe` has written, and an estimator with them, checked.

    It has what else `describe` tells, except for the history.
    """
    for name in ("parameters", "history"):
        if not isinstance(config[name], dict):
            refuse(name, "must be an object")
    for name, least in (("n_features_in", 1), ("n_images", 0), ("n_patients", 0)):
        if config[name] is not None:
            require_count(name, config[name], least)
    given = {**_defaults(kind), **config["parameters"]}
    require_keys("parameters", given, _defaults(kind))
    estimator = kind(**_with_groups(given))
    estimator._validate_params()
    estimator._settings()
    if config["n_features_in"] is not None:
        estimator.n_features_in_ = config["n_features_in"]
    return given, estimator


def history_of(config: Mapping[str, Any]) -> dict[str, list[float]]:
    """Return the history as it was before JSON."""
    history = {}
    for name, numbers in config["history"].items():
        if not isinstance(numbers, list) or not all(
            type(one) in (int, float, type(None)) for one in numbers
        ):
            refuse("history", f"{quoted(name)} is not a list of numbers")
        history[name] = [math.nan if one is None else float(one) for one in numbers]
    if len({len(numbers) for numbers in history.values()}) > 1:
        refuse("history", "has lists of different lengths")
    return history


def _defaults(kind: type) -> dict[str, Any]:
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


def require_keys(name: str, found: Any, keys: Any) -> None:
    """Refuse an object that has other keys."""
    if not isinstance(found, Mapping):
        refuse(name, "must be an object")
    for key in sorted(found.keys() ^ set(keys)):
        refuse(name, f"{'has' if key in found else 'lacks'} {quoted(key)}")


def require_count(name: str, value: Any, least: int = 1, most: int = _LARGEST_INT) -> None:
    """Refuse what is not a whole number in a range."""
    if type(value) is not int or not least <= value <= most:
        refuse(name, f"is {quoted(value)}, not a whole number from {least} to {most}")


def check_plain(value: Any, name: str = "it") -> None:
    """Refuse what passes for a number or a name in Python, but is none that was written."""
    if isinstance(value, dict):
        for key, one in value.items():
            check_plain(key, "key")
            check_plain(one, key)
    elif isinstance(value, list):
        for one in value:
            check_plain(one, name)
    elif isinstance(value, str):
        if len(value) > _LONGEST_TEXT or not value.isprintable():
            refuse(name, f"is {quoted(value)}")
    elif isinstance(value, bool):
        if name not in _BOOLEANS:
            refuse(name, f"is {value}")
    elif isinstance(value, int | float) and not abs(value) < (
        _LARGEST_INT if isinstance(value, int) else math.inf
    ):
        refuse(name, f"is {quoted(value)}")


def refuse(name: str, what: str) -> NoReturn:
    """Raise the error that says what is wrong with a value."""
    raise ValueError(f"{quoted(name)} {what}")
