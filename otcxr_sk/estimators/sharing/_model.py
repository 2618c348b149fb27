"""What `save_pretrained` writes of a fitted estimator, and what `from_pretrained` makes of it."""

import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version
from typing import Any, ClassVar, NamedTuple, Self

import torch
from safetensors.torch import save
from sklearn.base import clone
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import quoted
from otcxr_sk._version import __version__
from otcxr_sk._warning import warn_user
from otcxr_sk.estimators._encoder import name_of
from otcxr_sk.estimators._state import Learned, pack, unpack
from otcxr_sk.estimators.sharing._card import FINE_TUNING, model_card
from otcxr_sk.estimators.sharing._config import (
    DTYPES,
    LIBRARY,
    as_json,
    check_plain,
    describe,
    estimator_of,
    history_of,
    pretrainer_of,
    refuse,
    require_keys,
)
from otcxr_sk.estimators.sharing._folder import (
    CARD,
    CONFIG,
    ModelFolder,
    RefusedError,
    add_checksums,
    new_folder,
    weights_file,
    write,
)
from otcxr_sk.method import DenseEncoder, Objective, OTCXRModel, build_encoder, without_read_out

_FORMAT = 1
_FLOATS = {name: getattr(torch, name) for name in DTYPES}
_BACKBONE = "encoder.backbone."
_OF_TUNING = {"n_features_in", "n_images", "n_patients", "parameters", "history", "learned"}
_VERSIONS = ("torch", "timm", "numpy", "scikit-learn", "safetensors")


class Tuning(NamedTuple):
    """What was learned from labels.

    Attributes
    ----------
    config : dict
        What the configuration says of it, for JSON.
    head : dict of str to Tensor
        What follows the encoder; float64 is kept as it is.
    """

    config: Mapping[str, Any]
    head: Mapping[str, Tensor]


class Shareable:
    """An estimator that is, or has, a fitted pretrainer, and can be given away in a folder."""

    # The class whose folders it writes and reads, and the parts of its network: those of subclasses
    # are the same.
    _kind: ClassVar[str]
    _parts: ClassVar[tuple[str, ...]] = ("encoder", "heads")

    def save_pretrained(
        self,
        path: Any,
        dtype: str = "float32",
        *,
        data: str | None = None,
        licence: str | None = None,
        overwrite: bool = False,
    ) -> None:
        """Write a folder for somebody else, without pickle: weights, settings, a model card.

        It holds ``encoder.safetensors``, as ``OTCXRPretrainer.save_encoder`` writes it;
        ``heads.safetensors``; of a classifier or segmenter ``head.safetensors``, with what follows
        the encoder; ``config.json``; ``README.md``, the model card; and ``SHA256SUMS``. It appears
        complete or not at all. Parameters that belong to a machine or a run (`weights`,
        `pretrainer`, `device`, `num_workers`, `callbacks`, `cache`, `checkpoint`, `verbose`, and a
        generator as `random_state`) are left out, and so are `skipped_`, `patients_` and the names
        of features.

        Parameters
        ----------
        path : path
            The folder to create.
        dtype : {"float32", "float16"}, default="float32"
            How weights are stored. "float16" takes half the space, and rounds them.
        data, licence : str, default=None
            What the model card says about the images (where from, how many, of how many patients)
            and labels, and about who may use the weights, in Markdown.
        overwrite : bool, default=False
            Whether to replace another model there. Anything else is never replaced.

        Raises
        ------
        ValueError
            The encoder is a module, which cannot be built again from a name; a weight is not
            finite; or a class is neither a number nor text of up to 200 printable characters.
        FileExistsError
            Something else is there, or another model and not `overwrite`.

        See Also
        --------
        OTCXRPretrainer.save_encoder : Write the encoder only, also of a module.

        Examples
        --------
        >>> import os, tempfile
        >>> from otcxr_sk import OTCXRPretrainer
        >>> from otcxr_sk.datasets import make_chest_phantoms
        >>> images = make_chest_phantoms(4, image_size=32, random_state=0).images
        >>> enc = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0).fit(images)
        >>> with tempfile.TemporaryDirectory() as place:
        ...     enc.save_pretrained(os.path.join(place, "model"), data="Eight phantoms.")
        ...     same = OTCXRPretrainer.from_pretrained(os.path.join(place, "model"))
        >>> bool((same.transform(images) == enc.transform(images)).all())
        True
        """
        check_is_fitted(self)
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be 'float32' or 'float16', got {dtype!r}")
        pretrainer: Any = getattr(self, "pretrainer_", self)
        encoder, tuning = pretrainer._encoder(), self._tuning()
        for given in (encoder.architecture["encoder"], pretrainer.encoder):
            if not isinstance(given, str):
                raise ValueError(
                    f"the encoder is a module, {name_of(given)}, and cannot be built again from a "
                    "name; save_pretrained is for timm's models. Use joblib.dump, which needs the "
                    "code of the module where it is loaded, save_encoder, which writes its state "
                    "dict, or export_onnx, which needs nothing of both"
                )
        config = {
            "library": LIBRARY,
            "format": _FORMAT,
            "estimator": self._kind,
            "versions": {
                LIBRARY: __version__,
                "python": platform.python_version(),
                **{name: version(name) for name in _VERSIONS},
            },
            "dtype": dtype,
            "mean": encoder.mean,
            "std": encoder.std,
            "architecture": as_json(encoder.architecture),
            **describe(pretrainer),
        }
        state = _stored(unpack(encoder.weights), dtype)
        heads = {name: one for name, one in state.items() if not name.startswith(_BACKBONE)}
        parts = {"heads": heads}
        if tuning is not None:
            config[FINE_TUNING], parts["head"] = tuning.config, _stored(tuning.head, dtype)
        card = model_card(config, data=data, licence=licence)
        with new_folder(path, overwrite=overwrite) as aside:
            write(aside, CONFIG, json.dumps(config, indent=1, allow_nan=False))
            write(aside, CARD, card)
            replace(encoder, weights=pack(state)).save(os.path.join(aside, weights_file("encoder")))
            for name, part in parts.items():
                with replacing(os.path.join(aside, weights_file(name))) as file:
                    file.write(save(part))
            add_checksums(aside)
            try:
                type(self).from_pretrained(aside)
            except RefusedError as error:
                raise ValueError(f"this estimator cannot be shared: {error.what}") from None

    @classmethod
    def from_pretrained(cls, path: Any) -> Self:
        """Read a fitted estimator from a folder of `save_pretrained`, from anywhere.

        No code in it is run, and nothing is downloaded.

        Parameters
        ----------
        path : path

        Returns
        -------
        estimator : object
            With the parameters and the fitted attributes of the one that was saved, but for what
            that leaves out. Weights that were stored as float32 give the same bits. The
            `pretrainer` of a classifier or segmenter is as `clone` returns it, not fitted.

        Raises
        ------
        ValueError
            There is no such folder; or it has other files, links, wrong checksums, settings or
            weights that do not fit together, or a format of another version; the message says
            which.

        Warns
        -----
        UserWarning
            Another version of this library saved it.
        """
        return cls._from_folder(ModelFolder(path, cls._kind, cls._parts, _FORMAT))

    @classmethod
    def _from_folder(cls, folder: ModelFolder) -> Self:
        raise NotImplementedError

    def _tuning(self) -> Tuning | None:
        return None


def load_pretrainer(kind: type, folder: ModelFolder) -> tuple[Any, DenseEncoder]:
    """Return the pretrainer in a folder, and its encoder without memory for its numbers."""
    config = folder.config
    with _reading_config(folder):
        estimator, architecture = pretrainer_of(kind, config)
        history = history_of(config)
        depth = architecture["objective"]["cv_sim_depth"]
        if depth > folder.n_tensors("heads"):
            refuse("objective", f"cv_sim_depth is {depth}, and there are no such weights")
        blank = _blank(architecture)
    expected = _typed(blank.state_dict(), config["dtype"])
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
    estimator._take(
        Learned(
            _architecture=architecture,
            weights_=pack(_typed(state, "float32")),
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


def load_tuned(kind: Any, pretrainer: type, folder: ModelFolder) -> Any:
    """Return the estimator of a kind in a folder, that has learned from labels."""
    with _reading_config(folder):
        found = folder.config.pop(FINE_TUNING, None)
        require_keys(FINE_TUNING, found, _OF_TUNING)
        check_plain(found)
        _, estimator = estimator_of(kind, found)
        estimator.history_ = history_of(found)
        require_keys("learned", found["learned"], kind._learns)
        estimator._check_learned(found["learned"])
    base, blank = load_pretrainer(pretrainer, folder)
    estimator.pretrainer, estimator.pretrainer_ = clone(base), base
    head = folder.tensors("head", _typed(estimator._head_of(blank), folder.config["dtype"]))
    estimator._take_head(_typed(head, "float32"))
    estimator.n_images_, estimator.n_patients_ = found["n_images"], found["n_patients"]
    estimator.skipped_, estimator.patients_ = [], None
    return estimator


@contextmanager
def _reading_config(folder: ModelFolder) -> Iterator[None]:
    """Refuse a folder whose configuration has what the block finds wrong."""
    try:
        yield
    except RefusedError:
        raise
    except (ValueError, TypeError) as error:
        folder.refuse(f"{CONFIG}: {error}")


def _typed(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return weights whose numbers of 16 and 32 bits are of a dtype."""
    kinds = _FLOATS.values()
    return {
        name: one.to(_FLOATS[dtype]) if one.dtype in kinds else one for name, one in state.items()
    }


def _stored(state: Mapping[str, Tensor], dtype: str) -> dict[str, Tensor]:
    """Return weights as a folder holds them; refuse what is not finite then."""
    state = _typed(state, dtype)
    for name, one in state.items():
        if one.is_floating_point() and not one.isfinite().all():
            advice = "" if dtype == "float32" else "; it may be too large for float16"
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
