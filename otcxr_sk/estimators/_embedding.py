"""What a fitted encoder can do: embed, score, match, and be saved."""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from os import PathLike
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Bunch, Tags, check_random_state
from sklearn.utils.metadata_routing import UNUSED
from sklearn.utils.validation import check_is_fitted

import otcxr_sk
from otcxr_sk.estimators._persistence import live_model
from otcxr_sk.estimators._transforming import embed
from otcxr_sk.estimators._unusable import (
    ON_ERROR,
    keep_report,
    last_report,
    leave_out,
    warn_of,
)
from otcxr_sk.estimators._validation import check_images
from otcxr_sk.estimators._weights import part_of, state_of, take_heads, write_encoder
from otcxr_sk.images import ImageCache, ImageSource
from otcxr_sk.images._resize import Resize
from otcxr_sk.method.diagnostics import matching_accuracy
from otcxr_sk.method.encoders import build_encoder
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.views import ViewSampler
from otcxr_sk.training.runtime import (
    choose_device,
    load_usable,
    private_randomness,
)
from otcxr_sk.training.trainer import Trainer
from otcxr_sk.training.warning import warn_user


class EncoderEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Methods of an estimator once its `fit` has set `weights_`, `mean_`, `std_` and the rest.

    What the network was built from is kept in `_architecture`, so that parameters set after `fit`
    leave the embedding alone.
    """

    weights_: NDArray[np.uint8]
    mean_: float
    std_: float
    embedding_dim_: int
    encoder_name_: str
    _architecture: dict[str, Any]

    resize: Resize
    image_shape: tuple[int, int] | None
    channels: str | None
    epochs: int
    max_time: float | None
    batch_size: int
    accumulate: int
    optimizer: str
    learning_rate: float | str
    weight_decay: float
    clip_norm: float | None
    ema: float | None
    device: str
    precision: str
    num_workers: int
    on_error: str
    cache_dir: Any
    cache_gb: float
    verbose: int

    @property
    def unreadable_(self) -> list[dict[str, Any]]:
        """Row, file and reason of what could not be used in the last `transform` or `score`.

        Kept for as long as this object lives; not saved.
        """
        return last_report(self)

    # A place for the result is of no use to metadata routing.
    __metadata_request__transform: ClassVar[dict[str, str]] = {"out": UNUSED}

    def transform(self, X: Any, *, out: Any = None) -> NDArray[np.float32]:
        """Embed images, a batch at a time, or with the workers of `joblib.parallel_config`.

        Parameters
        ----------
        X : array-like or sequence of paths
            Of any kind that the class takes, not only the one that `fit` saw.
        out : path or ndarray of float32, default=None
            A ``.npy`` file for what does not fit into memory, there only once it is whole, or
            an array to fill.

        Returns
        -------
        embedding : ndarray of shape (n, embedding_dim_), float32
            The encoder's last dense map, averaged over its places; NaN for an image that cannot
            be used, unless `on_error` is "raise". With `out` that array, or the file as a
            read-only memory map.
        """
        return embed(self, X, dense=False, out=out)

    def transform_dense(self, X: Any, *, out: Any = None) -> NDArray[np.float32]:
        """Embed images place by place.

        Parameters
        ----------
        X : array-like or sequence of paths
        out : path or ndarray of float32, default=None
            As in `transform`.

        Returns
        -------
        embedding : ndarray of shape (n, h, w, embedding_dim_), float32
            The encoder's last dense map; its mean over h and w is what `transform` returns. NaN
            as there.
        """
        return embed(self, X, dense=True, out=out)

    def score(self, X: Any, y: Any = None) -> float:
        """Negative loss on images, by fixed views: higher is better, no labels needed.

        Comparable between estimators of the same weights of the loss.

        Parameters
        ----------
        X : array-like or sequence of paths
            At least two images, held out from `fit` if the score is to mean anything. Those that
            cannot be used are left out, unless `on_error` is "raise": all are read beforehand.
        y : ignored

        Returns
        -------
        score : float
        """
        check_is_fitted(self)
        source = self._source(X, fitting=False)
        if len(source) < 2:
            raise ValueError("score needs at least 2 images, found 1 sample")
        source = self._usable(source)
        trainer = self._trainer(
            self._architecture, self.mean_, self.std_, 0, choose_device(self.device)
        )
        return -trainer.evaluate(self._model(), source)["loss"]

    def match(self, X: Any, *, random_state: Any = None) -> Bunch:
        """Draw two views of every image and transport the tokens of one to the other.

        The views are those of training, but nothing of them is hidden (`erase`).

        Parameters
        ----------
        X : array-like or sequence of paths
            A few images: they are taken as one batch. One that cannot be used is an error.
        random_state : int, RandomState instance or None, default=None
            Draws the views.

        Returns
        -------
        matching : Bunch
            ``views`` (n, 2, size, size) float32, standardised; ``affine`` (n, 2, 2, 3), maps
            from each view's to its image's normalised coordinates (see `ViewSampler`); ``plan``
            (n, N, N), each summing to 1, from tokens of the first view (rows) to those of the
            second; ``grid`` (rows, columns) of the N tokens; ``accuracy`` and ``chance`` as
            ``matching_accuracy`` and ``matching_chance`` in `history_`.
        """
        check_is_fitted(self)
        source = self._source(X, fitting=False)
        device = choose_device(self.device)
        model = self._model().to(device)
        seed = int(check_random_state(random_state).randint(np.iinfo(np.int32).max))
        shown = {**self._architecture, "erase": 0}
        trainer = self._trainer(shown, self.mean_, self.std_, seed, device)
        images = torch.from_numpy(source.read(np.arange(len(source)), trainer.size))
        with torch.inference_mode():
            views, affine = trainer.draw(images, 0, 0)
            plan = model.match(*model.infuse(*model.dense_tokens(views)), affine).plan
            accuracy, chance = matching_accuracy(plan, affine, model.grid)
        return Bunch(
            views=torch.stack(views[:, 0].chunk(2), 1).cpu().numpy(),
            affine=torch.stack(affine.chunk(2), 1).cpu().numpy(),
            plan=plan.cpu().numpy(),
            grid=model.grid,
            accuracy=float(accuracy),
            chance=float(chance),
        )

    def save_encoder(self, path: Any) -> None:
        """Write the encoder for timm, torch and `weights`, without pickle.

        Parameters
        ----------
        path : path
            A ``.safetensors`` file; one that is there is replaced. It holds the encoder's state
            dict by its own names, which are timm's, and as metadata, all text: ``encoder``,
            ``image_size`` (pixels) and ``resize``, ``mean`` and ``std`` that images in [0, 1]
            are standardised by, ``otcxr_sk_version``. The heads are left out.

        Raises
        ------
        ValueError
            `path` has another suffix.

        Examples
        --------
        A plain timm model, for images of one channel (transformers take ``img_size``, too)::

            timm.create_model("resnet18", in_chans=1, num_classes=0, checkpoint_path=path)
        """
        check_is_fitted(self)
        facts = {
            "encoder": self.encoder_name_,
            "image_size": self._architecture["image_size"],
            "resize": self._architecture["resize"],
            "mean": self.mean_,
            "std": self.std_,
            "otcxr_sk_version": otcxr_sk.__version__,
        }
        write_encoder(path, self.weights_, facts)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "weights_")

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.string = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags

    @property
    def _n_features_out(self) -> int:
        return self.embedding_dim_

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_otcxr_sk_version": otcxr_sk.__version__}

    def __setstate__(self, state: dict[str, Any]) -> None:
        state = dict(state)
        written = state.pop("_otcxr_sk_version", None)
        if written != otcxr_sk.__version__ and "weights_" in state:
            warn_user(
                f"this {type(self).__name__} was saved by otcxr-sk {written} and is loaded by "
                f"{otcxr_sk.__version__}; its embeddings may differ",
            )
        super().__setstate__(state)

    def _source(self, X: Any, *, fitting: bool) -> ImageSource:
        if self.on_error not in ON_ERROR:
            raise ValueError(f"on_error must be one of {ON_ERROR}, got {self.on_error!r}")
        cache = None
        if self.cache_dir is not None:
            cache = ImageCache(self.cache_dir, int(self.cache_gb * 1e9))
        return check_images(
            X,
            self,
            image_shape=self.image_shape,
            channels=self.channels,
            fitting=fitting,
            resize=self.resize if fitting else self._architecture["resize"],
            allow_unusable=self.on_error != "raise",
            cache=cache,
        )

    def _usable(self, source: ImageSource) -> ImageSource:
        """Leave out of `source` what `transform` embeds as NaN."""
        keep_report(self, [])
        if self.on_error == "raise":
            return source
        rows = np.array_split(np.arange(len(source)), math.ceil(len(source) / self.batch_size))
        loaded = load_usable(source, rows, self._architecture["image_size"], self.num_workers)
        problems = [problem for _, found in loaded for problem in found]
        warn_of(problems, len(source), self.on_error, "They are left out of the score.")
        keep_report(self, problems)
        return leave_out(source, problems)

    def _trainer(
        self,
        architecture: Mapping[str, Any],
        mean: float,
        std: float,
        seed: int,
        device: torch.device,
    ) -> Trainer:
        weights = ("alpha", "beta", "eta", "global_weight")
        return Trainer(
            views=ViewSampler(
                tuple(architecture["crop_scale"]),
                flip=architecture["horizontal_flip"],
                erase=architecture["erase"],
            ),
            objective=Objective(**{name: architecture[name] for name in weights}),
            mean=mean,
            std=std,
            size=architecture["image_size"],
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            accumulate=self.accumulate,
            optimizer=self.optimizer,
            clip_norm=self.clip_norm,
            ema=self.ema,
            max_time=self.max_time,
            seed=seed,
            device=device,
            precision=self.precision,
            num_workers=self.num_workers,
            verbose=self.verbose > 0,
        )

    def _model(self) -> OTCXRModel:
        def build() -> OTCXRModel:
            with private_randomness(0, torch.device("cpu")):
                model = build_model(self._architecture, None)
            return model.to(memory_format=torch.channels_last)

        return live_model(self, self.weights_, build)


def build_model(architecture: Mapping[str, Any], weights: Any) -> OTCXRModel:
    """Make the network that parameters describe, its encoder copied if it is a module."""
    given = architecture["encoder"]
    start = None if weights is None or isinstance(weights, (str, PathLike)) else state_of(weights)
    encoder = build_encoder(
        deepcopy(given) if isinstance(given, torch.nn.Module) else given,
        size=architecture["image_size"],
        match_stride=architecture["match_stride"],
        weights=weights if start is None else part_of(start, "encoder.backbone"),
    )
    model = OTCXRModel(
        encoder,
        cv_sim_depth=architecture["cv_sim_depth"],
        epsilon=architecture["epsilon"],
        transport=architecture["transport"],
    )
    if start is not None:
        take_heads(model, start)
    return model
